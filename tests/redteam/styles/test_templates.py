"""Wordings are versioned: one that changes without its version fails here."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.core.errors import NotFoundError
from corral.core.files import read_json, sha256_json
from corral.redteam.styles.templates import read_packaged, wording, wordings

FAMILIES = ("competing", "encodings", "payload", "code", "scenario", "context", "format")
HASHES = Path(__file__).parent / "wording_hashes.json"


def current() -> dict[str, str]:
    return {
        f"{family}/{name}@{entry.version}": sha256_json(entry.model_dump(mode="json"))[:16]
        for family in FAMILIES
        for name, entry in wordings(family).items()
    }


def test_a_wording_that_changes_gets_another_version() -> None:
    # On purpose not written by the test: raise `version` of what changed, then put the new line into the file.
    assert current() == read_json(HASHES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_wording_carries_the_request_once(family) -> None:
    for name, entry in wordings(family).items():
        carried = [entry.template, *entry.follow_ups]
        slots = sum(text.count("{goal}") + text.count("{text}") for text in carried)
        assert slots == 1, name


def test_every_letter_of_the_picture_alphabet_is_five_by_five() -> None:
    for rows in read_packaged("letters")["letters"].values():
        assert [len(row) for row in rows.split("/")] == [5] * 5


def test_a_wording_that_is_not_there_is_named() -> None:
    with pytest.raises(NotFoundError, match="grandpa"):
        wording("competing", "grandpa")
