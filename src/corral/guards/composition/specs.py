"""How compositions are written: in a policy's list of guards, on the command line, and in Python.

A guard is a name, or a mapping with one of these keys::

    {guard: llama-guard, settings: {model: FOLDER}, name: big}
    {cascade: [CHEAP, COSTLY], band: [0.2, 0.8]}                 # or fit: band.json
    {ensemble: [GUARD, GUARD, ...], rule: mean, missing: fail}   # and fit: weights.json
    {decode: GUARD}
    {adjust: GUARD, preset: strict}                              # and thresholds: presets.json

where each GUARD is such a spec again, and every composition may have a ``name``. Specs are plain values: they name
guards of the registry and files of numbers, never code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import Discriminator, Field, JsonValue, StringConstraints, Tag, TypeAdapter, model_validator

from corral.core.config import Config, load_config
from corral.core.errors import ConfigError
from corral.guards.composition.cascade import Score
from corral.guards.composition.ensemble import Missing, Rule
from corral.guards.composition.presets import Preset

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
MAX_DEPTH: Final = 8
"""Compositions within compositions; deeper ones are a mistake."""


class NamedGuard(Config):
    """A guard of the registry with settings, and perhaps a name of its own within a composition."""

    guard: Name
    settings: Mapping[str, JsonValue] = Field(default_factory=dict)
    name: Name | None = None


class Cascade(Config):
    """A cheap guard, and a costly one for what the cheap one is uncertain of."""

    cascade: tuple[GuardSpec, GuardSpec]
    band: tuple[Score, Score] | None = Field(None, description="given by hand")
    fit: Name | None = Field(None, description="file that `corral eval calibrate band` wrote")
    name: Name | None = None

    @model_validator(mode="after")
    def _one_band(self) -> Cascade:
        if (self.band is None) == (self.fit is None):
            raise ValueError("a cascade needs either `band: [low, high]` or `fit: FILE`")
        if self.band is not None and self.band[0] > self.band[1]:
            raise ValueError(f"the band begins at {self.band[0]} and ends at {self.band[1]}")
        return self


class Ensemble(Config):
    """Several guards whose scores are combined."""

    ensemble: Annotated[tuple[GuardSpec, ...], Field(min_length=2)]
    rule: Rule = "mean"
    missing: Missing = "fail"
    fit: Name | None = Field(None, description="file that `corral eval calibrate ensemble` wrote")
    name: Name | None = None


class Decode(Config):
    """A guard that also judges what is left when codes and disguises are undone."""

    decode: GuardSpec
    name: Name | None = None


class Adjust(Config):
    """A guard under the thresholds of a preset."""

    adjust: GuardSpec
    preset: Preset = "balanced"
    thresholds: Name | None = Field(
        None, description="file that `corral eval calibrate presets` wrote; else the guard's"
    )
    name: Name | None = None


_KINDS: Final[Mapping[str, type[Config]]] = {
    "guard": NamedGuard,
    "cascade": Cascade,
    "ensemble": Ensemble,
    "decode": Decode,
    "adjust": Adjust,
}


def kind_of(value: Any) -> str | None:
    """The key that tells what a spec is, ``name`` for a plain name; ``None`` for what is no spec."""
    if isinstance(value, str):
        return "name"
    for kind, model in _KINDS.items():
        if isinstance(value, model) or (isinstance(value, Mapping) and kind in value):
            return kind
    return None


GuardSpec = Annotated[
    Annotated[Name, Tag("name")]
    | Annotated[NamedGuard, Tag("guard")]
    | Annotated[Cascade, Tag("cascade")]
    | Annotated[Ensemble, Tag("ensemble")]
    | Annotated[Decode, Tag("decode")]
    | Annotated[Adjust, Tag("adjust")],
    Discriminator(
        kind_of,
        custom_error_type="guard_spec",
        custom_error_message=f"a guard is a name, or a mapping with one of the keys {', '.join(_KINDS)}",
    ),
]
for _model in _KINDS.values():
    _model.model_rebuild()


class _One(Config):
    spec: GuardSpec


def parse_spec(value: Any, *, where: str = "guard") -> GuardSpec:
    """A spec from plain values.

    Raises:
        ConfigError: not a spec; names the field.
    """
    try:
        spec = load_config(_One, {"spec": value}).spec
    except ConfigError as error:
        inner = (error.where or "").removeprefix("spec").lstrip(".")
        raise ConfigError(error.message, where=f"{where}: {inner}" if inner else where, hint=error.hint) from error
    if depth(spec) > MAX_DEPTH:
        raise ConfigError(f"more than {MAX_DEPTH} compositions within each other", where=where)
    return spec


def spec_json(spec: GuardSpec) -> Any:
    """The spec as plain JSON values, settings that were not given left out."""
    return TypeAdapter(GuardSpec).dump_python(spec, mode="json", exclude_unset=True)


def written(spec: GuardSpec) -> str:
    """The spec as ``--guard`` takes it: a name, or JSON, which is YAML."""
    return spec if isinstance(spec, str) else json.dumps(spec_json(spec), ensure_ascii=False)


def parts_of(spec: GuardSpec) -> tuple[GuardSpec, ...]:
    """The specs that a spec is made of; none for a guard of the registry."""
    match spec:
        case Cascade():
            return spec.cascade
        case Ensemble():
            return spec.ensemble
        case Decode():
            return (spec.decode,)
        case Adjust():
            return (spec.adjust,)
        case _:
            return ()


def depth(spec: GuardSpec) -> int:
    """How many compositions lie within each other."""
    return 1 + max(map(depth, parts_of(spec)), default=-1)


def leaf_guards(spec: GuardSpec) -> Iterator[NamedGuard]:
    """The guards of the registry that a spec is made of, in order; one may come more than once."""
    if isinstance(spec, str):
        yield NamedGuard(guard=spec)
    elif isinstance(spec, NamedGuard):
        yield spec
    else:
        for part in parts_of(spec):
            yield from leaf_guards(part)


def name_of(spec: GuardSpec) -> str:
    """The name of the guard that a spec makes, without making it."""
    if isinstance(spec, str):
        return spec
    if isinstance(spec, NamedGuard):
        return spec.name or spec.guard
    return spec.name or _default_name(spec)


def _default_name(spec: Cascade | Ensemble | Decode | Adjust) -> str:
    inner = ",".join(map(name_of, parts_of(spec)))
    match spec:
        case Cascade():
            return f"cascade({inner})"
        case Ensemble():
            return f"{spec.rule}({inner})"
        case Decode():
            return f"{inner}+decode"
        case Adjust():
            return f"{inner}+{spec.preset}"


def under_preset(spec: GuardSpec, preset: Preset | None, thresholds: str | None = None) -> GuardSpec:
    """The spec under a preset: one that chose its own keeps it.

    Args:
        spec: of the guard.
        preset: ``None`` leaves the spec as it is.
        thresholds: file of the thresholds; ``None`` for those that come with the guard.
    """
    if preset is None or isinstance(spec, Adjust):
        return spec
    return Adjust(adjust=spec, preset=preset, thresholds=thresholds)


def with_settings(spec: GuardSpec, settings: Mapping[str, Mapping[str, Any]]) -> GuardSpec:
    """The spec with settings put on every guard of the registry that they name, by its own name within the composition
    or the registry's; they win over the spec's own.
    """
    if isinstance(spec, str):
        chosen = settings.get(spec)
        return NamedGuard(guard=spec, settings=dict(chosen)) if chosen else spec
    if isinstance(spec, NamedGuard):
        own = settings.get(spec.name, {}) if spec.name is not None else {}
        return spec.model_copy(update={"settings": {**spec.settings, **settings.get(spec.guard, {}), **own}})
    match spec:
        case Cascade():
            cheap, costly = (with_settings(part, settings) for part in spec.cascade)
            return spec.model_copy(update={"cascade": (cheap, costly)})
        case Ensemble():
            return spec.model_copy(update={"ensemble": tuple(with_settings(part, settings) for part in spec.ensemble)})
        case Decode():
            return spec.model_copy(update={"decode": with_settings(spec.decode, settings)})
        case Adjust():
            return spec.model_copy(update={"adjust": with_settings(spec.adjust, settings)})


def by_name(specs: Iterable[GuardSpec], *, where: str) -> dict[str, GuardSpec]:
    """The specs by the names of the guards that they make, each once.

    Raises:
        ConfigError: two that differ make guards of one name, so that one would take the other's place.
    """
    found: dict[str, GuardSpec] = {}
    for spec in specs:
        if found.setdefault(name_of(spec), spec) != spec:
            hint = "Give one of them another: `{..., name: NAME}`."
            raise ConfigError(f"two guards are named `{name_of(spec)}`", where=where, hint=hint)
    return found


def leaf_names(specs: Iterable[GuardSpec]) -> list[str]:
    """Names that settings may be given under: of the guards at the bottom, in the registry or their own."""
    leaves = [leaf for spec in specs for leaf in leaf_guards(spec)]
    return list(dict.fromkeys(name for leaf in leaves for name in (leaf.guard, leaf.name) if name is not None))
