"""Laying judges and guards over the answers of a target: each item once, kept in journals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from corral.data.messages import Conversation, Message, Target, targets_of
from corral.guards.asking import ask
from corral.guards.base import Guard, Verdict
from corral.guards.policy import Action
from corral.redteam.answers import Answers
from corral.redteam.judges import Judge, Outcome, judge_decoded
from corral.redteam.settings import RunSettings
from corral.redteam.store import KEY, Row, Store

_DELIVERED: Final = (Action.ALLOW, Action.FLAG)


def judged(judge: Judge, answers: Answers, store: Store) -> dict[str, Outcome]:
    """The judge's label of every answer, by attempt key. It reads the plain goal and the decoded answer."""
    rows = answers.rows

    def label(keys: Sequence[str]) -> Iterable[Row]:
        made = judge_decoded(judge, [(rows[key]["goal"], rows[key]["decoded"]) for key in keys])
        return [{KEY: key, "outcome": each.outcome.value, "p": each.p} for key, each in zip(keys, made, strict=True)]

    fingerprint = {**answers.fingerprint, "judge": judge.name, "judge_revision": judge.revision}
    found = store.rows(f"judgements-{judge.name}", fingerprint, rows, label)
    return {key: Outcome(row["outcome"]) for key, row in found.items()}


def guarded(guard: Guard, answers: Answers, store: Store, settings: RunSettings) -> dict[str, tuple[Verdict, ...]]:
    """What the guard says of every attempt, by attempt key: of each user turn as it comes, of the last reply, or both.

    It sees what a gateway would: the wrapped prompt and the answer as given, not the goal and not the decoded answer.
    """
    asked = {
        f"{key}/{target}/{turn}": (target, conversation)
        for key, row in answers.rows.items()
        for target in targets_of(settings.mode)
        for turn, conversation in enumerate(_shown(row, target))
    }

    failed: dict[str, Row] = {}  # of this session alone: the next asks again

    def judge(names: Sequence[str]) -> Iterable[Row]:
        for target in targets_of(settings.mode):
            some = [name for name in names if asked[name][0] == target]
            verdicts = ask(guard, [asked[name][1] for name in some], target=target)
            for name, verdict in zip(some, verdicts, strict=True):
                if verdict.status.transient:
                    failed[name] = verdict.to_json()
                else:
                    yield {KEY: name, **verdict.to_json()}

    fingerprint = {**answers.fingerprint, "guard": guard.name, "guard_revision": guard.revision}
    found = store.rows(f"verdicts-{guard.name}", fingerprint, asked, judge) | failed
    by_attempt: dict[str, list[Verdict]] = {key: [] for key in answers.rows}
    for name, row in found.items():
        by_attempt[name.partition("/")[0]].append(Verdict.from_json(row))
    return {key: tuple(verdicts) for key, verdicts in by_attempt.items()}


def replaced(verdicts: Iterable[Verdict], settings: RunSettings) -> bool:
    """Whether a refusal is delivered: the policy blocks, or leaves to a person, one of the checked messages."""
    return any(settings.policy.decide([verdict]).action not in _DELIVERED for verdict in verdicts)


def flagged(verdicts: Iterable[Verdict]) -> bool | None:
    """Whether the guard flagged a user's turn; ``None`` when it was not asked about one, or gave no verdict."""
    said = [verdict.flagged for verdict in verdicts if verdict.target == "prompt"]
    if any(said):
        return True
    return None if not said or None in said else False


def _shown(row: Row, target: Target) -> list[Conversation]:
    """What the guard judges: the conversation at each user turn, or the last reply in its conversation."""
    turns = [Conversation.from_openai(turn) for turn in row["turns"]]
    if target == "prompt":
        return turns
    if not row["answer"].strip():
        return []  # nothing to hold back
    return [Conversation((*turns[-1].messages, Message.of("assistant", row["answer"])))]
