"""Streaming readers: rows of JSONL, JSON, CSV, TSV, text, Parquet and ``datasets``, one at a time."""

from corral.data.readers.read import FORMATS, MAX_ROW_BYTES, Source, read_items, read_rows
from corral.data.readers.rows import Item, OnReject, RejectedRow, Row, accepted, as_json

__all__ = [
    "FORMATS",
    "MAX_ROW_BYTES",
    "Item",
    "OnReject",
    "RejectedRow",
    "Row",
    "Source",
    "accepted",
    "as_json",
    "read_items",
    "read_rows",
]
