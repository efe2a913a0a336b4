"""Wordings of styles, packaged as YAML: one file a family, a version at every entry."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any, Final

from pydantic import Field

from corral.core.config import Config, load_config
from corral.core.errors import NotFoundError, suggest
from corral.core.yaml import parse_yaml
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import Draft, Family, Needs, StyleContext
from corral.synth.templates import fill

StyleFactory = Callable[..., Style]
"""Makes a style from its parameters, all of which have defaults."""

_FOLDER: Final = "templates"


class Wording(Config):
    """One entry of a file.

    Attributes:
        name: of the style.
        version: raised with every change of the wording.
        mechanism: what it does, in a line.
        template: of the user's turn; ``{goal}`` is the text as the styles before left it.
        system: of a system message, "" for none.
        follow_ups: of user turns that come after answers.
        draws: slot to what it is drawn from.
    """

    name: str
    version: int = Field(ge=1)
    mechanism: str
    template: str
    system: str = ""
    follow_ups: tuple[str, ...] = ()
    draws: Mapping[str, tuple[str, ...]] = Field(default_factory=dict)

    def fill(self, rng: random.Random, /, **values: str) -> str:
        """The template with its slots filled, those in ``draws`` at random."""
        return fill(self.template, **self.drawn(rng), **values)

    def drawn(self, rng: random.Random) -> dict[str, str]:
        """A value for every slot that is drawn."""
        return {slot: rng.choice(choices) for slot, choices in self.draws.items()}


class _File(Config):
    family: Family
    styles: tuple[Wording, ...]


@cache
def read_packaged(name: str) -> Any:
    """The value of a packaged YAML file."""
    text = (files(__package__) / _FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    return parse_yaml(text, where=f"{_FOLDER}/{name}.yaml")


@cache
def wordings(family: str) -> dict[str, Wording]:
    """The entries of a family by name."""
    return {entry.name: entry for entry in load_config(_File, read_packaged(family)).styles}


def wording(family: str, name: str) -> Wording:
    """One entry.

    Raises:
        NotFoundError: there is none of that name.
    """
    found = wordings(family)
    if name not in found:
        raise NotFoundError(f"family `{family}` has no wording `{name}`", hint=suggest(name, found))
    return found[name]


def templated(family: Family, names: Iterable[str] | None = None) -> dict[str, StyleFactory]:
    """Factories of styles that are nothing but their wording.

    Args:
        family: whose file is read.
        names: of the entries; all when ``None``.
    """
    return {name: _factory(family, name) for name in (wordings(family) if names is None else names)}


def _factory(family: Family, name: str) -> StyleFactory:
    def make() -> Style:
        return wrapped(family, wording(family, name))

    return make


def wrapped(family: Family, entry: Wording, **values: str) -> RuleStyle:
    """A style that puts its wording around the text.

    Args:
        family: of the style.
        entry: the wording.
        values: of slots that are parameters.
    """

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del context
        filled = {**entry.drawn(rng), **values, "goal": draft.text}
        return replace(
            draft,
            text=fill(entry.template, **filled),
            system=fill(entry.system, **filled) or draft.system,
            follow_ups=tuple(fill(each, **filled) for each in entry.follow_ups),
        )

    return RuleStyle(
        entry.name,
        family,
        entry.mechanism,
        rule,
        version=entry.version,
        content=[entry.model_dump(mode="json"), values],
        needs=Needs(multi_turn=bool(entry.follow_ups)),
    )
