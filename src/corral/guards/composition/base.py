"""What guards made of guards share: parts with names, a revision that covers them, and verdicts that show them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.base import Guard, Verdict
from corral.guards.composition.verdict import ComposedVerdict, Part, composed, unanswered

_VERSION: Final = 2
"""Raised whenever the same parts and settings give other verdicts, or verdicts with other parts."""


class ComposedGuard(ABC):
    """A guard made of other guards.

    Args:
        guards: its parts.
        names: names of the parts within it.
        kind: what it makes of them, as in a spec (``cascade``, ``decode``).
        name: of the whole.
        settings: what its verdicts depend on beside its parts, as JSON values.

    Raises:
        ConfigError: two parts of one name, so that a verdict could not say which of them decided.
    """

    def __init__(self, guards: Sequence[Guard], names: Sequence[str], *, kind: str, name: str, settings: Any) -> None:
        self.guards = tuple(guards)
        self.part_names = _distinct(names, where=kind)
        self._name = name
        known = [guard.revision.partition("-") for guard in guards]
        parts = [[part, weights] for part, (weights, _, _) in zip(names, known, strict=True)]
        computed = [how for _, _, how in known]
        computed = computed[:1] if len(set(computed)) == 1 else [how or "unnamed" for how in computed]
        self._revision = "-".join([sha256_json([kind, _VERSION, parts, settings])[:16], *filter(None, computed)])

    @property
    def name(self) -> str:
        """Its name, as in a policy's list of guards."""
        return self._name

    @property
    def revision(self) -> str:
        """Hash of its parts' names and revisions and of its settings.

        What follows the first dash of a part's revision says how the same weights are computed (the dtype); it follows
        a dash here too, so that a fit made with the composition holds for any of them, as one of the part does.
        """
        return self._revision

    @property
    def taxonomy(self) -> str:
        """Taxonomy of all parts; "" when they differ, since rules for either would then apply now and then."""
        found = {guard.taxonomy for guard in self.guards}
        return found.pop() if len(found) == 1 else ""

    @property
    def parts(self) -> dict[str, Guard]:
        """Its guards, by their names within it."""
        return dict(zip(self.part_names, self.guards, strict=True))

    @abstractmethod
    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""

    @abstractmethod
    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation; see ``Guard.classify_both``."""

    def _composed(self, base: Verdict, parts: Sequence[Part], **changes: Any) -> ComposedVerdict:
        return composed(base, parts, guard=self.name, revision=self.revision, **changes)

    def _unanswered(self, failed: Part, parts: Sequence[Part]) -> ComposedVerdict:
        return unanswered(failed, parts, guard=self.name, revision=self.revision)


def _distinct(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    for name in names:
        if list(names).count(name) > 1:
            hint = f"Name one of them: `{{guard: {name}, name: another, settings: {{...}}}}`."
            raise ConfigError(f"two parts are named `{name}`", where=where, hint=hint)
    return tuple(names)
