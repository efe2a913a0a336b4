"""Which prompts dtypes are compared on."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from corral.bench.guard_throughput.prompts import accuracy_prompts
from corral.data.messages import Conversation


def test_without_the_data_set_prompts_are_self_written() -> None:
    found = accuracy_prompts(12, seed=0)
    assert (found.source, found.real) == ("self-written", 0)
    assert len(set(found.texts)) == 12


def test_real_prompts_are_the_first_distinct_ones_of_5_to_60_words(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["too short", "one two three four five", "one two three four five", "word " * 61, "b " * 60, "c " * 9]
    rows = [SimpleNamespace(conversation=Conversation.user(text)) for text in texts]
    monkeypatch.setattr("corral.data.sources.loading.load_source", lambda name: iter(rows))
    assert accuracy_prompts(2, seed=0) == (["one two three four five", ("b " * 60).strip()], "toxicchat")
    assert len(accuracy_prompts(9, seed=0).texts) == 3
    assert accuracy_prompts(9, seed=0).real == 3
