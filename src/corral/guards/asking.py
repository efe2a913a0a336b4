"""Asking a guard so that every conversation gets an answer, whatever the guard does.

A guard that raises, or answers with something other than one verdict a conversation, has given no verdict: the answer
then is a verdict of status ``error``. A guard that never returns is not handled here.

Callers ask about conversations in groups of their own making, so the index that a guard tells in a detail is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from corral.data.messages import TARGETS, Conversation, Target, TargetChoice
from corral.guards.base import Guard, Status, Verdict
from corral.guards.failures import failure_detail, without_index

Answer = TypeVar("Answer")


def ask(guard: Guard, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
    """One verdict a conversation, in order; a conversation that the guard breaks on takes no other with it."""

    def failed(conversation: Conversation, detail: str) -> Verdict:
        return Verdict.failed(conversation.target(target), guard.name, guard.revision, Status.ERROR, detail)

    def sound(conversation: Conversation, answer: Verdict) -> bool:
        return isinstance(answer, Verdict) and answer.target == conversation.target(target)

    answers = _asked(lambda some: guard.classify(some, target=target), conversations, sound, failed)
    return [_without_index(answer) for answer in answers]


def ask_both(guard: Guard, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
    """As ``ask``, for the prompt and the response of each conversation; a target it does not have may be absent."""

    def failed(conversation: Conversation, detail: str) -> dict[Target, Verdict]:
        return {
            target: Verdict.failed(target, guard.name, guard.revision, Status.ERROR, detail)
            for target in present_targets(conversation)
        }

    def sound(conversation: Conversation, answer: dict[Target, Verdict]) -> bool:
        return all(
            isinstance(verdict := answer.get(target), Verdict) and verdict.target == target
            for target in present_targets(conversation)
        )

    answers = _asked(guard.classify_both, conversations, sound, failed)
    return [{target: _without_index(verdict) for target, verdict in both.items()} for both in answers]


def ask_where(
    guard: Guard, conversations: Sequence[Conversation], wanted: Sequence[Sequence[Target]]
) -> list[dict[Target, Verdict]]:
    """As ``ask_both``, about the wanted targets of each conversation alone; at once where both are.

    Args:
        guard: to ask.
        conversations: (N,) conversations.
        wanted: (N,) targets that each has and that are asked about.
    """
    answers: list[dict[Target, Verdict]] = [{} for _ in conversations]
    pairs = [row for row, targets in enumerate(wanted) if len(targets) > 1]
    for row, both in zip(pairs, ask_both(guard, [conversations[row] for row in pairs]), strict=True):
        answers[row] = both
    for target in TARGETS:
        rows = [row for row, targets in enumerate(wanted) if list(targets) == [target]]
        for row, verdict in zip(rows, ask(guard, [conversations[row] for row in rows], target=target), strict=True):
            answers[row][target] = verdict
    return answers


def present_targets(conversation: Conversation) -> list[Target]:
    """The targets that the conversation has."""
    return [target for target in TARGETS if conversation.judged_index(target) is not None]


def _asked(
    ask: Callable[[Sequence[Conversation]], Sequence[Answer]],
    conversations: Sequence[Conversation],
    sound: Callable[[Conversation, Answer], bool],
    failed: Callable[[Conversation, str], Answer],
) -> list[Answer]:
    """One answer a conversation, whatever the guard does.

    When a batch fails, its conversations are asked one by one: one that breaks the guard must not take the others
    with it.
    """
    if not conversations:
        return []
    try:
        answers = list(ask(conversations))
        problem = (
            f"the guard gave {len(answers)} verdicts for {len(conversations)} conversations"
            if len(answers) != len(conversations)
            else None
        )
    except Exception as error:
        problem = failure_detail("the guard failed", error)
    if problem is None:
        return [
            answer if _holds(sound, conversation, answer) else failed(conversation, "the guard gave no usable verdict")
            for conversation, answer in zip(conversations, answers, strict=True)
        ]
    if len(conversations) == 1:
        return [failed(conversations[0], problem)]
    return [_asked(ask, [conversation], sound, failed)[0] for conversation in conversations]


def _without_index(answer: Verdict) -> Verdict:
    # What a guard says about a target that is not there was not looked at before, and may be anything.
    if not isinstance(answer, Verdict) or not isinstance(answer.detail, str):
        return answer
    detail = without_index(answer.detail)
    return answer if detail == answer.detail else replace(answer, detail=detail)


def _holds(sound: Callable[[Conversation, Answer], bool], conversation: Conversation, answer: Answer) -> bool:
    try:
        return sound(conversation, answer)
    except Exception:  # whatever the guard gave instead of verdicts, it is not sound
        return False
