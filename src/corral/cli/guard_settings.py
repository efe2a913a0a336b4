"""Guards as named on the command line, with settings of the form ``guard.key=value``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from corral.core.errors import ConfigError
from corral.core.yaml import parse_yaml


def settings_by_guard(settings: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings of each named guard, values parsed as YAML.

    Raises:
        ConfigError: a setting of another form, or of a guard that is not named.
    """
    chosen: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in settings:
        path, equals, value = text.partition("=")
        name, dot, key = path.strip().partition(".")
        if not (equals and dot and key):
            hint = "For example `duoguard.window=256`."
            raise ConfigError(f"`{text}` is not of the form `guard.key=value`", where="--set", hint=hint)
        if name not in chosen:
            hint = f"Asked: {', '.join(names)}. Add `--guard {name}`."
            raise ConfigError(f"`{path}` sets a guard that is not asked", where="--set", hint=hint)
        chosen[name][key] = parse_yaml(value, where=f"--set {path}")
    return chosen
