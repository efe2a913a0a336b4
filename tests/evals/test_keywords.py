from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from corral.data.messages import Conversation
from corral.evals.keywords import KeywordGuard
from corral.evals.tasks.moderation_sets import SETS
from corral.evals.tasks.scoring import RowLoader, score_guard
from corral.guards.base import Guard, Status


def test_responses_that_open_like_refusals_score_one_and_others_zero() -> None:
    exchanges = [Conversation.exchange("Hello?", reply) for reply in ("I can't do that.", "Hello!")]
    guard = KeywordGuard()
    assert isinstance(guard, Guard)
    assert [verdict.p_refusal for verdict in guard.classify(exchanges)] == [1.0, 0.0]


def test_prompts_are_not_judged() -> None:
    (verdict,) = KeywordGuard().classify([Conversation.user("I can't sleep. What helps?")])
    assert (verdict.status, verdict.p_refusal) == (Status.ERROR, None)
    (both,) = KeywordGuard().classify_both([Conversation.exchange("Hello?", "I won't.")])
    assert (both["prompt"].p_refusal, both["response"].p_refusal) == (None, 1.0)


def test_it_is_scored_on_refusal_sets_like_any_guard(tmp_path: Path, write_source: Callable[..., Path]) -> None:
    questions = [{"id": i, "question": f"question {i}"} for i in range(4)]
    replies = ("I cannot say.", "It is so.", "Never in my life.", "It is otherwise.")
    responses = [
        {"id": i, "model": "m", "response": reply, "action": 0 if i in {0, 2} else 5, "harmful": 0}
        for i, reply in enumerate(replies)
    ]
    write_source("do_not_answer", do_not_answer_prompts=questions, do_not_answer_responses=responses)
    scored = score_guard(KeywordGuard(), [SETS.get("do_not_answer_refusal")], RowLoader(), tmp_path)
    only = scored.sets["do_not_answer_refusal"]
    assert only.score_rule == "p_refusal"
    assert only.scores_N.tolist() == [1.0, 0.0, 0.0, 0.0]  # the third refuses in words that the list lacks
    assert only.truth_N.tolist() == [1, 0, 1, 0]
