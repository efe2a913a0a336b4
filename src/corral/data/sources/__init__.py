"""Readers for the public data sets of labelled prompts and responses.

``SOURCES`` records what each set is (use, licence, upstream, sha256 of its files); ``load_source`` streams its rows as
``ModerationExample``. The data itself is never packaged: it is read from a folder the user names.
"""

from corral.data.sources.catalogue import SOURCES
from corral.data.sources.loading import data_root, load_source
from corral.data.sources.record import Source

__all__ = ["SOURCES", "Source", "data_root", "load_source"]
