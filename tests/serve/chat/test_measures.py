"""What a mixture measures of itself stands in the audit row of its reply and in metrics, and nowhere else."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the serve extra is not installed")

from hypothesis import given
from hypothesis import strategies as st

from corral.models.engines.base import Generation, GenerationSettings, Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.models.routing.means import MEASURES as OF_THE_MODEL
from corral.serve.audit.queries import verify_chain
from corral.serve.chat.measures import KNOWN, MEASURES, read_measures
from corral.serve.engine_upstream import EngineUpstream

GATES = {"gate_unwill": 0.75, "gate_glad": 0.25}


class Gated(ScriptedEngine):
    """Says that its gates stood so."""

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        return [replace(each, measures=GATES) for each in super().generate(prompts, settings)]

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Generator[str, None, Generation]:
        yield from super().stream(prompt, settings)
        return self.generate([prompt], settings)[0]


def upstream() -> EngineUpstream:
    return EngineUpstream(lambda: Gated({"hello": "As you like."}), name="gated")


def test_names_are_those_of_the_model() -> None:
    assert KNOWN == OF_THE_MODEL


@pytest.mark.parametrize("stream", [False, True])
def test_gates_are_in_the_row_of_the_reply_and_not_in_the_answer(start: Any, stream: bool) -> None:
    running = start(upstream=upstream())
    answer = running.chat("hello", stream=stream)
    assert "gate_" not in answer.text
    assert MEASURES not in answer.text
    prompt, reply = running.rows_of(answer)
    assert (prompt["measures"], reply["measures"]) == ({}, GATES)
    assert running.metric("model_measures_count", measure="gate_unwill") == 1
    assert running.metric("model_measures_sum", measure="gate_unwill") == 0.75
    assert verify_chain(running.server.database).intact


def test_each_of_several_replies_has_its_own(start: Any) -> None:
    running = start(upstream=upstream())
    rows = running.rows_of(running.chat("hello", n=2))
    assert [row["measures"] for row in rows] == [{}, GATES, GATES]


def test_an_engine_that_measures_nothing_leaves_no_trace(start: Any) -> None:
    running = start()
    assert [row["measures"] for row in running.rows_of(running.chat("hello"))] == [{}, {}]
    assert running.metric("model_measures_count", measure="gate_unwill") == 0


def test_a_stream_says_why_it_ended(start: Any, events: Any) -> None:
    answer = start(upstream=upstream()).chat("hello", stream=True, max_tokens=2)
    reasons = [choice["finish_reason"] for event in events(answer.text) for choice in event["choices"]]
    assert [reason for reason in reasons if reason] == ["length"]


things = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*KNOWN, "text"]), inner, max_size=3),
    max_leaves=5,
)


@given(things)
def test_whatever_an_upstream_says_only_known_shares_are_read(given: Any) -> None:
    found = read_measures(given)
    assert set(found) <= set(KNOWN)
    assert all(type(value) is float and 0 <= value <= 1 for value in found.values())


def test_what_is_no_share_is_left_out() -> None:
    given = {"gate_unwill": True, "gate_glad": 1, "text": 0.5}
    assert read_measures(given) == {"gate_glad": 1.0}
    assert read_measures({"gate_unwill": "0.5", "gate_glad": 1.5}) == {}
