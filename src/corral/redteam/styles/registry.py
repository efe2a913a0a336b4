"""Styles by name: ``leet``, ``caesar:shift=7``, and chains of them, ``leet+prefix_injection``."""

from __future__ import annotations

import inspect
import random
from typing import Any, Final

from corral.core.errors import ConfigError, suggest
from corral.core.registry import Registry
from corral.core.yaml import parse_yaml
from corral.redteam.styles import cached, code, competing, context, encodings, formats, noise, payload, scenario, search
from corral.redteam.styles.base import Chain, RuleStyle, Style
from corral.redteam.styles.prompt import Draft, StyleContext
from corral.redteam.styles.templates import StyleFactory

PLAIN: Final = "plain"


def plain() -> Style:
    """The goal as it is: what every other style is compared with."""

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        del rng, context
        return draft

    return RuleStyle(PLAIN, "plain", "asks as it is", rule)


STYLES: Final[Registry[StyleFactory]] = Registry("style")
STYLES.register(PLAIN, plain)
for _family in (competing, encodings, noise, payload, code, scenario, context, formats, cached, search):
    for _name, _factory in _family.STYLES.items():
        STYLES.register(_name, _factory)


SEARCHES: Final = tuple(search.STYLES)
"""Styles that search for their prompt; each costs many calls of the target for every goal."""


def load_style(text: str) -> Style:
    """The style of that name.

    Args:
        text: a name, parameters behind it as ``:key=value``, chains with ``+``, the innermost first.

    Raises:
        NotFoundError: no such style.
        ConfigError: a parameter that the style does not have, or a value that it does not take.
    """
    parts = [_load_one(part.strip()) for part in text.split("+")]
    return parts[0] if len(parts) == 1 else Chain(parts)


def _load_one(text: str) -> Style:
    name, *settings = text.split(":")
    factory = STYLES.get(name)
    parameters = inspect.signature(factory).parameters
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"`{setting}` is not of the form `key=value`", where=name, hint="`caesar:shift=5`.")
        if key not in parameters:
            raise ConfigError(f"style `{name}` has no parameter `{key}`", where=text, hint=suggest(key, parameters))
        values[key] = _typed(parse_yaml(value, where=text), parameters[key].default, f"{name}.{key}")
    return factory(**values)


def _typed(value: Any, default: Any, where: str) -> Any:
    """A value of the type of the parameter's default."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        raise ConfigError(f"`{value}` is not {type(default).__name__}", where=where)
    return value
