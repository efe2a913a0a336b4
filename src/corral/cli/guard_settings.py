"""Guards as named on the command line, alone or in compositions, with settings of the form ``guard.key=value``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from corral.core.errors import ConfigError
from corral.core.yaml import parse_yaml

if TYPE_CHECKING:
    from corral.guards.composition.specs import GuardSpec


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


def parse_guards(texts: Sequence[str], *, parts: bool = False) -> list[GuardSpec]:
    """Guards as ``--guard`` names them, each once: a name, or a composition in YAML's braces.

    Args:
        texts: as given.
        parts: they are parts of one composition, so that a guard may have a name of its own.

    Raises:
        ConfigError: braces that hold no composition.
        NotFoundError: no guard of that name.
    """
    from corral.guards.composition.building import check_spec
    from corral.guards.composition.specs import by_name, parse_spec

    specs: list[GuardSpec] = []
    for text in texts:
        braces = text.lstrip().startswith("{")
        spec = parse_spec(parse_yaml(text, where="--guard") if braces else text, where="--guard")
        check_spec(spec, where="--guard", part=parts)
        specs.append(spec)
    return list(by_name(specs, where="--guard").values())


def names_in(specs: Sequence[GuardSpec]) -> list[str]:
    """Names that ``--set`` may use: of the guards at the bottom of compositions, in the registry or their own."""
    from corral.guards.composition.specs import leaf_names

    return leaf_names(specs)


def chosen_specs(specs: Sequence[GuardSpec], settings: Mapping[str, Mapping[str, Any]]) -> list[GuardSpec]:
    """The guards with their settings."""
    from corral.guards.composition.specs import with_settings

    return [with_settings(spec, settings) for spec in specs]
