"""Objects in what a model wrote, against json's own reading of them."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.balanced import balanced_objects

VALUES = st.recursive(st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=8)
OBJECTS = st.dictionaries(st.text(), VALUES)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("no object", []),
        ('say {"a": {"b": 1}} and {"c": 2}', ['{"a": {"b": 1}}', '{"c": 2}']),
        ('{"a": "}"}', ['{"a": "}"}']),
        ('{"a": "\\"}"}', ['{"a": "\\"}"}']),
        ('she said "{" {"a": 1}', []),
        ("{ {} ", ["{}"]),
        ('{"a": 1', []),
        ("} {}", ["{}"]),
    ],
)
def test_braces_in_strings_and_unclosed_ones_do_not_count(text: str, found: list[str]) -> None:
    assert balanced_objects(text) == found


@given(OBJECTS, OBJECTS, st.text(alphabet="abc \n:,."))
def test_every_object_between_words_is_found_whole(first: dict, second: dict, words: str) -> None:
    written = [json.dumps(first), json.dumps(second)]
    assert balanced_objects(words.join(["", *written, ""])) == written


@given(st.text(alphabet='{}"\\a', max_size=200))
def test_what_is_found_is_in_order_and_does_not_overlap(text: str) -> None:
    rest = text
    for each in balanced_objects(text):
        _, found, rest = rest.partition(each)
        assert found == each
        assert each.startswith("{")
        assert each.endswith("}")


def test_hostile_text_takes_no_longer_than_its_length() -> None:
    started = time.process_time()
    assert balanced_objects("{" * 10_000_000) == []
    assert len(balanced_objects("{" * 5_000 + "}" * 5_000)) == 1
    assert time.process_time() - started < 2
