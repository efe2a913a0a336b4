"""Guards by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, Protocol

from corral.core.errors import ConfigError, suggest
from corral.core.registry import Registry
from corral.guards.base import Guard


class GuardLoader(Protocol):
    """A class whose ``load`` makes a guard from settings."""

    def load(self, **settings: Any) -> Guard:
        """Make the guard."""


GUARDS: Final = Registry[GuardLoader]("guard")
GUARDS.register("default", "corral.guards.default.guard:DefaultGuard")
GUARDS.register("duoguard", "corral.guards.duoguard:DuoGuard")
GUARDS.register("scripted", "corral.guards.scripted:ScriptedGuard")


def load_guard(name: str = "default", **settings: Any) -> Guard:
    """Make a guard.

    Args:
        name: one of ``GUARDS.names()``.
        settings: what its ``load`` takes, for example ``model="path/to/folder"``.

    Raises:
        NotFoundError: no guard of that name.
        ConfigError: a setting that the guard does not have, or a required one that is missing.
        MissingDependencyError: a package or model file is not installed.
    """
    loader = GUARDS.get(name)
    _check_settings(name, loader, settings)
    return loader.load(**settings)


def _check_settings(name: str, loader: GuardLoader, settings: Mapping[str, Any]) -> None:
    parameters = inspect.signature(loader.load).parameters
    named = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    if len(named) == len(parameters):  # else the rest is passed on, and checked where it is used
        for setting in settings:
            if setting not in named:
                hint = suggest(setting, named)
                raise ConfigError(f"guard `{name}` has no setting `{setting}`", where=f"{name}.{setting}", hint=hint)
    for setting, parameter in named.items():
        if parameter.default is parameter.empty and setting not in settings:
            raise ConfigError(
                f"guard `{name}` needs the setting `{setting}`",
                where=f"{name}.{setting}",
                hint=f'`load_guard("{name}", {setting}=...)`, or `--set {name}.{setting}=...` on the command line.',
            )
