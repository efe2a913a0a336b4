"""What an attack style is: a pure function from a goal to a prompt.

A style works on a ``Draft``, the prompt as far as it has been built. Text-level styles rewrite the draft's text;
others add turns, a system message, an opening of the answer, or leave the chat template. Since a chain hands one draft
and one stream of random numbers from style to style, chains nest freely and a chain of chains is the chain of all.

The same goal, seed, parameters and context give the same bytes; of a style that searches (``styles/search``) the target
belongs to the context.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.redteam.styles.prompt import (
    AttackPrompt,
    Draft,
    Family,
    Needs,
    NotApplicable,
    StyleContext,
    StyleMeta,
    built,
)

Rule = Callable[[Draft, random.Random, StyleContext], Draft | NotApplicable]


@runtime_checkable
class Style(Protocol):
    """A way to put a goal."""

    @property
    def name(self) -> str:
        """As in the registry, with its parameters; of a chain, its parts joined by ``+``."""

    @property
    def id(self) -> str:
        """Name, version and a hash of templates and parameters: prompts of one id, goal and seed are the same bytes."""

    @property
    def family(self) -> Family:
        """The mechanism's family."""

    @property
    def mechanism(self) -> str:
        """What it does, in a line."""

    @property
    def needs(self) -> Needs:
        """What it asks of the target."""

    def apply(self, goal: str, *, rng: random.Random, context: StyleContext) -> AttackPrompt | NotApplicable:
        """A goal in this style.

        Args:
            goal: the plain request.
            rng: all of the style's chances; the same state gives the same prompt.
            context: see there.

        Raises:
            ConfigError: the styles of a chain conflict.
        """

    def transform(self, draft: Draft, *, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        """The next draft.

        Raises:
            ConfigError: the draft is in a state that the style cannot go on from (see ``Chain``).
        """


@dataclass(frozen=True)
class RuleStyle:
    """A style given by a function and its settings.

    Attributes:
        name: as in the registry, with its parameters.
        family: of its mechanism.
        mechanism: what it does.
        rule: the function.
        version: raised when the function's prompts change.
        content: templates and parameters, which the id depends on.
        languages: that its rule works in; empty for all.
        needs: of the target.
    """

    name: str
    family: Family
    mechanism: str
    rule: Rule
    version: int = 1
    content: Any = None
    languages: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)

    @property
    def id(self) -> str:
        """See ``Style``."""
        return f"{self.name}@{self.version}-{sha256_json(self.content)[:8]}"

    def apply(self, goal: str, *, rng: random.Random, context: StyleContext) -> AttackPrompt | NotApplicable:
        """See ``Style``."""
        return _applied(self, goal, rng, context)

    def transform(self, draft: Draft, *, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        """See ``Style``."""
        if self.languages and context.language not in self.languages:
            return NotApplicable(f"`{self.name}` rewrites {', '.join(self.languages)}, the goal is {context.language}")
        if draft.raw:
            raise ConfigError(
                f"`{self.name}` comes after the chat template was left", hint="Put the style that leaves it last."
            )
        if draft.follow_ups:
            raise ConfigError(
                f"`{self.name}` comes after the request was moved to a later turn", hint="Put the talk of several last."
            )
        return self.rule(draft, rng, context)


class Chain:
    """Styles one after the other: the first works on the goal, each further one on what the one before made.

    Attributes:
        parts: the styles; those of a chain inside it one by one.

    Raises:
        ConfigError: no styles.
    """

    def __init__(self, styles: Sequence[Style]) -> None:
        if not styles:
            raise ConfigError("a chain needs at least one style")
        self.parts: tuple[Style, ...] = tuple(
            part for style in styles for part in (style.parts if isinstance(style, Chain) else (style,))
        )

    @property
    def family(self) -> Family:
        """Of the last style, the outermost."""
        return self.parts[-1].family

    @property
    def name(self) -> str:
        """The names joined by ``+``."""
        return "+".join(style.name for style in self.parts)

    @property
    def id(self) -> str:
        """The ids joined by ``+``."""
        return "+".join(style.id for style in self.parts)

    @property
    def mechanism(self) -> str:
        """The mechanisms, one after the other."""
        return "; then ".join(style.mechanism for style in self.parts)

    @property
    def needs(self) -> Needs:
        """Everything that one of them needs."""
        each = [style.needs for style in self.parts]
        return Needs(
            raw_access=any(needs.raw_access for needs in each),
            multi_turn=any(needs.multi_turn for needs in each),
            user_data=any(needs.user_data for needs in each),
            attacker=any(needs.attacker for needs in each),
            likelihoods=any(needs.likelihoods for needs in each),
            gradients=any(needs.gradients for needs in each),
        )

    def apply(self, goal: str, *, rng: random.Random, context: StyleContext) -> AttackPrompt | NotApplicable:
        """See ``Style``."""
        return _applied(self, goal, rng, context)

    def transform(self, draft: Draft, *, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        """See ``Style``.

        Raises:
            ConfigError: two styles open the answer or change its code, or one comes after the template was left.
        """
        for style in self.parts:
            built = style.transform(draft, rng=rng, context=context)
            if isinstance(built, NotApplicable):
                return built
            _refuse_conflict(draft, built, style.name)
            draft = built
        return draft


def _refuse_conflict(before: Draft, after: Draft, name: str) -> None:
    for what, given, now in (
        ("an opening of the answer", before.prefill, after.prefill),
        ("a code for the answer", before.answer_code, after.answer_code),
        ("later turns", before.follow_ups or None, after.follow_ups or None),
        ("a system message", before.system or None, after.system or None),
    ):
        if given is not None and now != given:
            raise ConfigError(f"`{name}` gives {what} where there is one already", hint="Leave one of the two out.")


def _applied(style: Style, goal: str, rng: random.Random, context: StyleContext) -> AttackPrompt | NotApplicable:
    draft = style.transform(Draft(goal, goal), rng=rng, context=context)
    if isinstance(draft, NotApplicable):
        return draft
    return built(draft, StyleMeta(style.name, style.id, style.family, style.needs, draft.notes))
