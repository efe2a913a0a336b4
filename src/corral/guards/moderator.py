"""From conversations to decisions: run the guards, apply the policy, fail closed.

A guard that raises, or answers with something other than one verdict a conversation, has given no verdict
(``guards/asking``); the policy says what that means. A guard that never returns is not handled here: the server has its
own time limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from corral.core.errors import PolicyError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.data.taxonomy import load_taxonomy
from corral.guards.asking import ask, ask_both, present_targets
from corral.guards.base import Guard
from corral.guards.composition.adjusted import AdjustedGuard
from corral.guards.composition.specs import under_preset
from corral.guards.loading import load_guard
from corral.guards.policy import Decision, Policy


class Moderator:
    """Guards and the policy that acts on their verdicts.

    Args:
        guards: at least one; names differ.
        policy: ``Policy.default()`` when not given.

    Raises:
        PolicyError: no guards, two of one name, a guard that the policy names is missing or not under its preset, or
            category rules in a taxonomy that no guard scores.
    """

    def __init__(self, guards: Sequence[Guard], policy: Policy | None = None) -> None:
        self.guards = tuple(guards)
        self.policy = policy or Policy.default()
        _check(self.guards, self.policy)

    @classmethod
    def from_policy(cls, policy: Policy | Path | str) -> Moderator:
        """The moderator that a policy describes: its guards (by default ``default``), loaded under its preset.

        Raises:
            UserError: the policy or one of its guards cannot be loaded.
        """
        loaded = policy if isinstance(policy, Policy) else Policy.load(policy)
        specs = loaded.guards or ("default",)
        return cls([load_guard(under_preset(spec, loaded.preset)) for spec in specs], loaded)

    def check(self, conversation: Conversation, *, target: TargetChoice = "auto") -> Decision:
        """Decide about one message of one conversation."""
        return self.check_many([conversation], target=target)[0]

    def check_many(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Decision]:
        """Decide about one message of each conversation; same length and order as given."""
        answers = [ask(guard, conversations, target=target) for guard in self.guards]
        return [self.policy.decide(verdicts) for verdicts in zip(*answers, strict=True)]

    def check_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Decision]]:
        """Decide about prompt and response of each conversation, each guard being asked once.

        A target that a conversation does not have is absent.
        """
        answers = [ask_both(guard, conversations) for guard in self.guards]
        return [
            {
                target: self.policy.decide([answer[target] for answer in verdicts])
                for target in present_targets(conversation)
            }
            for conversation, *verdicts in zip(conversations, *answers, strict=True)
        ]


def _check(guards: tuple[Guard, ...], policy: Policy) -> None:
    names = [guard.name for guard in guards]
    if not names:
        raise PolicyError("no guards were given", where="guards", hint="Give at least one guard.")
    if len(set(names)) < len(names):
        raise PolicyError(f"two guards have one name: `{', '.join(names)}`", where="guards")
    if missing := [name for name in policy.guard_names if name not in names]:
        raise PolicyError(
            f"policy `{policy.id}` asks for guard `{missing[0]}`, which was not given",
            where="guards",
            hint=f"Load it too, or take it out of the policy. Given: `{'`, `'.join(names)}`.",
        )
    for guard in guards:
        if policy.preset is not None and not isinstance(guard, AdjustedGuard):
            raise PolicyError(
                f"policy `{policy.id}` asks for the preset `{policy.preset}`, which guard `{guard.name}` is not under",
                where="preset",
                hint="`Moderator.from_policy` loads guards under the policy's preset.",
            )
    taxonomy = load_taxonomy(policy.taxonomy).id
    if policy.categories and taxonomy not in {guard.taxonomy for guard in guards}:
        raise PolicyError(
            f"no guard scores the categories of `{taxonomy}`, so the rules for them could never apply",
            where="categories",
            hint=f"Guards: {', '.join(f'`{guard.name}` scores `{guard.taxonomy}`' for guard in guards)}.",
        )
