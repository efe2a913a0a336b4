"""From conversations to decisions: run the guards, apply the policy, fail closed.

A guard that raises, or answers with something other than one verdict a conversation, has given no verdict; the policy
says what that means. A guard that never returns is not handled here: the server has its own time limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from corral.core.errors import PolicyError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.data.taxonomy import load_taxonomy
from corral.guards.base import Guard, Status, Verdict
from corral.guards.failures import failure_detail
from corral.guards.policy import Decision, Policy

Answer = TypeVar("Answer")


class Moderator:
    """Guards and the policy that acts on their verdicts.

    Args:
        guards: at least one; names differ.
        policy: ``Policy.default()`` when not given.

    Raises:
        PolicyError: no guards, two of one name, a guard that the policy names is missing, or category rules in a
            taxonomy that no guard scores.
    """

    def __init__(self, guards: Sequence[Guard], policy: Policy | None = None) -> None:
        self.guards = tuple(guards)
        self.policy = policy or Policy.default()
        _check(self.guards, self.policy)

    def check(self, conversation: Conversation, *, target: TargetChoice = "auto") -> Decision:
        """Decide about one message of one conversation."""
        return self.check_many([conversation], target=target)[0]

    def check_many(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Decision]:
        """Decide about one message of each conversation; same length and order as given."""
        answers = [_classified(guard, conversations, target) for guard in self.guards]
        return [self.policy.decide(verdicts) for verdicts in zip(*answers, strict=True)]

    def check_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Decision]]:
        """Decide about prompt and response of each conversation, each guard being asked once.

        A target that a conversation does not have is absent.
        """
        answers = [_classified_both(guard, conversations) for guard in self.guards]
        return [
            {target: self.policy.decide([answer[target] for answer in verdicts]) for target in _targets(conversation)}
            for conversation, *verdicts in zip(conversations, *answers, strict=True)
        ]


def _check(guards: tuple[Guard, ...], policy: Policy) -> None:
    names = [guard.name for guard in guards]
    if not names:
        raise PolicyError("no guards were given", where="guards", hint="Give at least one guard.")
    if len(set(names)) < len(names):
        raise PolicyError(f"two guards have one name: `{', '.join(names)}`", where="guards")
    if missing := [name for name in policy.guards or () if name not in names]:
        raise PolicyError(
            f"policy `{policy.id}` asks for guard `{missing[0]}`, which was not given",
            where="guards",
            hint=f"Load it too, or take it out of the policy. Given: `{'`, `'.join(names)}`.",
        )
    taxonomy = load_taxonomy(policy.taxonomy).id
    if policy.categories and taxonomy not in {guard.taxonomy for guard in guards}:
        raise PolicyError(
            f"no guard scores the categories of `{taxonomy}`, so the rules for them could never apply",
            where="categories",
            hint=f"Guards: {', '.join(f'`{guard.name}` scores `{guard.taxonomy}`' for guard in guards)}.",
        )


def _targets(conversation: Conversation) -> list[Target]:
    both: tuple[Target, ...] = ("prompt", "response")
    return [target for target in both if conversation.judged_index(target) is not None]


def _classified(guard: Guard, conversations: Sequence[Conversation], target: TargetChoice) -> list[Verdict]:
    def failed(conversation: Conversation, detail: str) -> Verdict:
        return Verdict.failed(conversation.target(target), guard.name, guard.revision, Status.ERROR, detail)

    def sound(conversation: Conversation, answer: Verdict) -> bool:
        return isinstance(answer, Verdict) and answer.target == conversation.target(target)

    return _asked(lambda some: guard.classify(some, target=target), conversations, sound, failed)


def _classified_both(guard: Guard, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
    def failed(conversation: Conversation, detail: str) -> dict[Target, Verdict]:
        return {
            target: Verdict.failed(target, guard.name, guard.revision, Status.ERROR, detail)
            for target in _targets(conversation)
        }

    def sound(conversation: Conversation, answer: dict[Target, Verdict]) -> bool:
        return all(
            isinstance(verdict := answer.get(target), Verdict) and verdict.target == target
            for target in _targets(conversation)
        )

    return _asked(guard.classify_both, conversations, sound, failed)


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


def _holds(sound: Callable[[Conversation, Answer], bool], conversation: Conversation, answer: Answer) -> bool:
    try:
        return sound(conversation, answer)
    except Exception:  # whatever the guard gave instead of verdicts, it is not sound
        return False
