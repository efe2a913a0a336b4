"""Rows that we wrote: labelled, in several languages, without duplicates."""

from __future__ import annotations

import pytest

from corral.core.errors import NotFoundError
from corral.data.self_written import self_written_rows


def test_every_row_is_labelled_and_distinct() -> None:
    rows = list(self_written_rows("self_written/guard_basics"))
    assert len({(row.target, row.text) for row in rows}) == len(rows) > 30
    assert all(row.harmful is not None or row.attack is not None for row in rows)
    assert {"en", "de", "fr", "es", "it", "nl", "pt"} <= {row.language for row in rows}
    assert all(row.licence == "Apache-2.0" for row in rows)


def test_harmful_requests_are_single_sentences_with_a_category() -> None:
    rows = list(self_written_rows("self_written/harmful_requests"))
    assert len({row.text for row in rows}) == len(rows) >= 60
    assert all(row.harmful and any(row.categories.values()) for row in rows)
    assert all(len(row.text.split()) <= 20 for row in rows)


def test_an_unknown_file_is_an_error() -> None:
    with pytest.raises(NotFoundError, match="`nothing`"):
        list(self_written_rows("nothing"))
