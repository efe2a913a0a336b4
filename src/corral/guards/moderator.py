"""From conversations to decisions: run the guards, apply the policy, fail closed.

A guard that raises, or answers with something other than one verdict a conversation, has given no verdict
(``guards/asking``); the policy says what that means. A guard that never returns is not handled here: the server has its
own time limits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from corral.core.errors import PolicyError
from corral.data.messages import Conversation, Target, TargetChoice
from corral.data.taxonomy import load_taxonomy
from corral.guards.asking import ask, ask_both, present_targets
from corral.guards.base import Guard
from corral.guards.composition.adjusted import AdjustedGuard
from corral.guards.composition.base import ComposedGuard
from corral.guards.composition.matching import difference
from corral.guards.composition.specs import Adjust, GuardSpec, NamedGuard, name_of, written
from corral.guards.loading import GUARDS, load_guard
from corral.guards.policy import Decision, Policy

_NO_SPECS: Final[Mapping[str, GuardSpec]] = MappingProxyType({})


class Moderator:
    """Guards and the policy that acts on their verdicts.

    Args:
        guards: at least one; names differ.
        policy: ``Policy.default()`` when not given.
        specs: how guards were loaded, by name. Of a guard that is not among them only the name is known: it is refused
            where the policy asks for more than a name.

    Raises:
        PolicyError: no guards, two of one name, a guard that the policy asks for is missing or another than it asks
            for, one is not under its preset, or category rules in a taxonomy that no guard scores.
    """

    def __init__(
        self, guards: Sequence[Guard], policy: Policy | None = None, *, specs: Mapping[str, GuardSpec] = _NO_SPECS
    ) -> None:
        self.guards = tuple(guards)
        self.policy = policy or Policy.default()
        self.specs = specs
        _check(self.guards, self.policy, specs)

    @classmethod
    def from_policy(cls, policy: Policy | Path | str) -> Moderator:
        """The moderator that a policy describes: its guards (by default ``default``), loaded under its preset.

        Raises:
            UserError: the policy or one of its guards cannot be loaded.
        """
        loaded = policy if isinstance(policy, Policy) else Policy.load(policy)
        specs = [loaded.under_preset(spec) for spec in loaded.guards or ("default",)]
        return cls([load_guard(spec) for spec in specs], loaded, specs={name_of(spec): spec for spec in specs})

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


def _check(guards: tuple[Guard, ...], policy: Policy, specs: Mapping[str, GuardSpec]) -> None:
    by_name = {guard.name: guard for guard in guards}
    if len(by_name) < len(guards):
        names = ", ".join(guard.name for guard in guards)
        raise PolicyError(f"two guards have one name: `{names}`", where="guards")
    for asked in policy.asked:
        _check_asked(asked, by_name, policy, specs)
    if not guards:
        raise PolicyError("no guards were given", where="guards", hint="Give at least one guard.")
    named = {name_of(asked) for asked in policy.asked}
    for guard in guards:
        if policy.preset is not None and guard.name not in named and not _is_under(guard, policy, specs):
            wanted = written(policy.under_preset(specs.get(guard.name, guard.name)))
            raise PolicyError(
                f"policy `{policy.id}` asks for the preset `{policy.preset}`, which guard `{guard.name}` is not under",
                where="preset",
                hint=f"Load it so: `--guard '{wanted}'`; `Moderator.from_policy` does.",
            )
    taxonomy = load_taxonomy(policy.taxonomy).id
    if policy.categories and taxonomy not in {guard.taxonomy for guard in guards}:
        raise PolicyError(
            f"no guard scores the categories of `{taxonomy}`, so the rules for them could never apply",
            where="categories",
            hint=f"Guards: {', '.join(f'`{guard.name}` scores `{guard.taxonomy}`' for guard in guards)}.",
        )


def _check_asked(asked: GuardSpec, guards: Mapping[str, Guard], policy: Policy, specs: Mapping[str, GuardSpec]) -> None:
    """Refuse to go on without a guard that the policy asks for, or with another of its name."""
    name = name_of(asked)
    load_it = f"Load it as the policy has it: `--guard '{written(asked)}'`; `Moderator.from_policy` does."
    if name not in guards:
        given = f"Given: `{'`, `'.join(guards)}`. " if guards else ""
        raise PolicyError(
            f"policy `{policy.id}` asks for guard `{name}`, which was not given",
            where="guards",
            hint=f"{given}{load_it} Or take it out of the policy.",
        )
    loaded = specs.get(name)
    other = _unknown(asked, guards[name]) if loaded is None else difference(asked, loaded)
    if other is not None:
        raise PolicyError(
            f"policy `{policy.id}` asks for another guard than the `{name}` that was given: {other}",
            where="guards",
            hint=load_it,
        )


def _unknown(asked: GuardSpec, guard: Guard) -> str | None:
    """Why a guard of which only the name is known may not be what was asked for; ``None`` when the name is all."""
    if isinstance(asked, str) or (isinstance(asked, NamedGuard) and not asked.settings):
        impostor = isinstance(guard, ComposedGuard) and name_of(asked) in GUARDS
        return "it is made of other guards" if impostor else None
    return "how it was made is not known (`Moderator` takes `specs`)"


def _is_under(guard: Guard, policy: Policy, specs: Mapping[str, GuardSpec]) -> bool:
    """Whether a guard judges by the policy's preset, and its file of thresholds if it names one."""
    if not isinstance(guard, AdjustedGuard) or guard.preset != policy.preset:
        return False
    loaded = specs.get(guard.name)
    return policy.thresholds is None or (isinstance(loaded, Adjust) and loaded.thresholds == policy.thresholds)
