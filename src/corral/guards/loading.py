"""Guards by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from corral.core.errors import ConfigError, suggest
from corral.core.registry import Registry
from corral.guards.base import Guard

if TYPE_CHECKING:
    from corral.guards.composition.specs import GuardSpec

_STRICT: Final = ConfigDict(strict=True, arbitrary_types_allowed=True)


class GuardLoader(Protocol):
    """A class whose ``load`` makes a guard from settings."""

    def load(self, **settings: Any) -> Guard:
        """Make the guard."""


GUARDS: Final = Registry[GuardLoader]("guard")
GUARDS.register("cultureguard", "corral.guards.cultureguard.guard:CultureGuard")
GUARDS.register("default", "corral.guards.default.pair:DefaultGuard")
GUARDS.register("duoguard", "corral.guards.duoguard:DuoGuard")
GUARDS.register("english", "corral.guards.default.guard:EnglishGuard")
GUARDS.register("latent-guard", "corral.guards.latent_guard.guard:LatentHarmGuard")
GUARDS.register("llama-guard", "corral.guards.llama_guard.guard:LlamaGuard")
GUARDS.register("moderation-api", "corral.guards.moderation_api.guard:ModerationApiGuard")
GUARDS.register("multilingual", "corral.guards.default.guard:MultilingualGuard")
GUARDS.register("perplexity-filter", "corral.guards.perplexity_filter:PerplexityFilter")
GUARDS.register("scripted", "corral.guards.scripted:ScriptedGuard")
GUARDS.register("self-examination", "corral.guards.self_examination:SelfExamination")
GUARDS.register("wildguard", "corral.guards.wildguard.guard:WildGuard")


def load_guard(name: str | GuardSpec | Mapping[str, Any] = "default", /, **settings: Any) -> Guard:
    """Make a guard.

    Args:
        name: one of ``GUARDS.names()``, or a composition of such guards, for example
            ``{"cascade": ["default", {"guard": "llama-guard", "settings": {"model": "FOLDER"}}], "band": [0.2, 0.8]}``;
            see ``guards/composition/specs``.
        settings: what the ``load`` of a named guard takes, for example ``model="path/to/folder"``.

    Raises:
        NotFoundError: no guard of that name.
        ConfigError: a setting that the guard does not have, a value of the wrong type, or a required setting that is
            missing; ``where`` is ``guard.setting``.
        MissingDependencyError: a package or model file is not installed.
    """
    if not isinstance(name, str):
        return _composition(name, settings)
    loader = GUARDS.get(name)
    check_settings(name, loader, settings)
    return loader.load(**settings)


def _composition(spec: Any, settings: Mapping[str, Any]) -> Guard:
    from corral.guards.composition.building import build_guard, check_spec
    from corral.guards.composition.specs import parse_spec

    if settings:
        hint = "Write them beside the guard that they are for: `{guard: NAME, settings: {...}}`."
        raise ConfigError("a composition takes no settings", where=next(iter(settings)), hint=hint)
    parsed = parse_spec(spec)
    check_spec(parsed)
    return build_guard(parsed)


def check_settings(name: str, loader: Any, settings: Mapping[str, Any]) -> None:
    """Refuse settings that the ``load`` of a loader does not take, or not as values of this type.

    Raises:
        ConfigError: such a setting, or a required one that is missing; ``where`` is ``guard.setting``.
    """
    _check_names(name, loader, settings)
    _check_types(name, loader, settings)


def _check_names(name: str, loader: Any, settings: Mapping[str, Any]) -> None:
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


def _check_types(name: str, loader: Any, settings: Mapping[str, Any]) -> None:
    """Refuse values that the annotations of ``load`` do not allow; none is converted."""
    try:
        annotations = get_type_hints(loader.load, include_extras=True)
    except NameError:  # a name that only a type checker imports: the guard has to check for itself
        return
    for setting, value in settings.items():
        if setting not in annotations:
            continue
        try:
            TypeAdapter(annotations[setting], config=_STRICT).validate_python(value)
        except ValidationError as error:
            problems = " or ".join(dict.fromkeys(item["msg"] for item in error.errors(include_url=False)))
            raise ConfigError(f"got `{value}`: {problems}", where=f"{name}.{setting}") from error
