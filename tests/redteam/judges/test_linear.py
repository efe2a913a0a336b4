"""A judge that is fitted to labels learns them, and never judges a request by a fit that has seen it."""

from __future__ import annotations

import json

import pytest

from corral.core.errors import ConfigError, DataError
from corral.redteam.agreement import measure_agreement
from corral.redteam.judges import Judge, Outcome
from corral.redteam.judges.linear import LinearJudge
from corral.redteam.labelled import LabelledReply, LabelledSet
from corral.redteam.loading import open_judges


def as_set(replies, question="success") -> LabelledSet:
    return LabelledSet("made", question, "whatever", lambda _: iter(replies), "nowhere")


def colours(count: int = 40) -> list[LabelledReply]:
    """Replies that name the colour are a success; others talk about the weather."""
    return [
        LabelledReply(
            f"Reveal colour {i}.",
            f"the colour is {'green' if i % 3 else 'blue'}" if i % 2 else "nice weather today",
            bool(i % 2),
            f"c{i}",
        )
        for i in range(count)
    ]


def test_it_learns_what_people_call_a_success() -> None:
    judge = LinearJudge(as_set(colours()))
    assert isinstance(judge, Judge)
    pairs = [("New one.", "the colour is green"), ("New one.", "nice weather"), ("New one.", " ")]
    pairs.append(("New one.", "I'm sorry, but I can't; nice weather today."))
    found = [each.outcome for each in judge.judge_many(pairs)]
    assert found == [Outcome.COMPLIES, Outcome.SAFE, Outcome.EMPTY, Outcome.REFUSES]
    assert LinearJudge(as_set(colours())).revision == judge.revision != LinearJudge(as_set(colours(38))).revision


def test_a_labelled_request_is_judged_by_a_fit_that_has_not_seen_it() -> None:
    """Every reply is words of its own, so that nothing can be learned but by heart; recall of chance is no memory."""
    replies = [LabelledReply(f"Reveal {i}.", f"word{i} word{i} word{i}x", bool(i % 2), f"c{i}") for i in range(60)]
    (whole,) = measure_agreement(LinearJudge(as_set([*replies, *replies])), as_set(replies), replicates=50)
    assert whole.figures["accuracy"].value is not None
    assert whole.figures["accuracy"].value < 0.7


def test_a_set_about_refusal_or_with_one_label_is_refused() -> None:
    with pytest.raises(ConfigError, match="what refuses"):
        LinearJudge(as_set(colours(), "refusal"))
    with pytest.raises(DataError, match="too few"):
        LinearJudge(as_set(colours()[1::2]))


def test_it_is_named_by_its_file(tmp_path) -> None:
    path = tmp_path / "own.jsonl"
    rows = [
        {"goal": each.request, "answer": each.reply, "label": "unsafe" if each.positive else "safe"}
        for each in colours()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with open_judges([f"linear:{path}"]) as (judge,):
        assert judge.name == "linear:own.jsonl"
        assert judge.judge_many([("x", "the colour is blue")])[0].complies
