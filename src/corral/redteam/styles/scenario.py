"""Scenes: nested stories (arXiv 2311.03191), other tenses, persuasion (2401.06373), nesting (ReNeLLM, 2311.08268)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from corral.core.errors import ConfigError, suggest
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import Draft, NotApplicable, StyleContext
from corral.redteam.styles.rewriting import in_future, in_past
from corral.redteam.styles.templates import StyleFactory, templated, wording, wordings, wrapped


def deep_inception(layers: int = 5) -> Style:
    """Stories within stories.

    Raises:
        ConfigError: fewer than two layers.
    """
    if layers < 2:
        raise ConfigError(f"`{layers}` is below 2", where="deep_inception.layers")
    style = wrapped("scenario", wording("scenario", "deep_inception"), layers=str(layers))
    return style if layers == 5 else replace(style, name=f"deep_inception:layers={layers}")


def tense(name: str, retell: Callable[[str], str | None]) -> Style:
    """The request as a question about another time, by rule."""

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del rng, context
        text = retell(draft.text)
        return NotApplicable("no rule rewrites a request of this form") if text is None else draft.with_text(text)

    when = name.partition("_")[0]
    return RuleStyle(name, "scenario", f"asks about the {when}", rule, content=when, languages=("en",))


def one_of(stem: str, choice: str, *, default: str, parameter: str) -> Style:
    """The wording ``stem_choice``.

    Raises:
        ConfigError: there is none.
    """
    known = [name.removeprefix(f"{stem}_") for name in wordings("scenario") if name.startswith(f"{stem}_")]
    if choice not in known:
        raise ConfigError(
            f"no {parameter} is called `{choice}`", where=f"{stem}.{parameter}", hint=suggest(choice, known)
        )
    style = wrapped("scenario", wording("scenario", f"{stem}_{choice}"))
    return replace(style, name=stem if choice == default else f"{stem}:{parameter}={choice}")


def persuasion(technique: str = "authority") -> Style:
    """A reason to help."""
    return one_of("persuasion", technique, default="authority", parameter="technique")


def scenario_nesting(scene: str = "story") -> Style:
    """The request as a part of something to be completed."""
    return one_of("scenario_nesting", scene, default="story", parameter="scene")


STYLES: Final[Mapping[str, StyleFactory]] = {
    "deep_inception": deep_inception,
    "past_tense": partial(tense, "past_tense", in_past),
    "future_tense": partial(tense, "future_tense", in_future),
    "persuasion": persuasion,
    "scenario_nesting": scenario_nesting,
    **templated("scenario", ["hypothetical", "academic"]),
}
