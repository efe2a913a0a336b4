"""From a spec to the guard that it describes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from corral.core.config import load_config
from corral.core.errors import ConfigError
from corral.guards.base import Guard
from corral.guards.composition.adjusted import AdjustedGuard
from corral.guards.composition.cascade import Band, CascadeGuard
from corral.guards.composition.ensemble import EnsembleFit, EnsembleGuard
from corral.guards.composition.fitted import check_fitted_with
from corral.guards.composition.presets import Presets
from corral.guards.composition.specs import (
    Adjust,
    Cascade,
    Decode,
    Ensemble,
    GuardSpec,
    NamedGuard,
    leaf_guards,
    name_of,
)
from corral.guards.deobfuscate import DeobfuscatingGuard
from corral.guards.loading import GUARDS, load_guard


@runtime_checkable
class HasPresets(Protocol):
    """A guard whose weights may come with thresholds."""

    @property
    def presets_file(self) -> Path | None:
        """File of the presets fitted for these weights; ``None`` when there is none."""


def build_guard(spec: GuardSpec) -> Guard:
    """The guard that a spec describes, its parts loaded.

    Raises:
        NotFoundError: no guard of that name, or a file that is not there.
        ConfigError: settings that a guard does not have, parts of one name, or a fit made with other guards.
    """
    match spec:
        case str():
            return load_guard(spec)
        case NamedGuard():
            return load_guard(spec.guard, **spec.settings)
        case Cascade():
            return _cascade(spec)
        case Ensemble():
            return _ensemble(spec)
        case Decode():
            return DeobfuscatingGuard(build_guard(spec.decode), name=name_of(spec), part=name_of(spec.decode))
        case Adjust():
            guard = build_guard(spec.adjust)
            presets = _presets(spec, guard)
            return AdjustedGuard(guard, presets, spec.preset, name=name_of(spec), part=name_of(spec.adjust))


def check_spec(spec: GuardSpec, *, where: str = "guard", part: bool = False) -> None:
    """Refuse what can be told without loading weights.

    Args:
        spec: of a guard.
        where: names the setting in messages.
        part: it is part of a composition, and may have a name of its own.

    Raises:
        NotFoundError: no guard of that name.
        ConfigError: a name of its own for a guard of the registry that is part of nothing, or a composition named like
            a guard of the registry, which a policy could take for it.
    """
    for leaf in leaf_guards(spec):
        GUARDS.get(leaf.guard)
    if isinstance(spec, NamedGuard) and not part and spec.name not in (None, spec.guard):
        hint = "Leave `name` out, or use the guard inside a cascade or an ensemble."
        raise ConfigError("only parts of a composition have names of their own", where=f"{where}: name", hint=hint)
    if not isinstance(spec, str | NamedGuard) and name_of(spec) in GUARDS.names():
        raise ConfigError(
            f"`{name_of(spec)}` is a guard that exists, and this composition another",
            where=f"{where}: name",
            hint="Give it another name.",
        )


def _cascade(spec: Cascade) -> CascadeGuard:
    band = load_config(Band, Path(spec.fit)) if spec.band is None and spec.fit else _given(spec)
    guards, names = _parts(spec.cascade)
    check_fitted_with(band.guards, dict(zip(names, guards, strict=True)), where=spec.fit or "cascade.band")
    cheap, costly = guards
    return CascadeGuard(cheap, costly, band=band, name=name_of(spec), names=names)


def _given(spec: Cascade) -> Band:
    low, high = spec.band or (0.0, 1.0)
    return Band(low=low, high=high)


def _ensemble(spec: Ensemble) -> EnsembleGuard:
    fit = None if spec.fit is None else load_config(EnsembleFit, Path(spec.fit))
    guards, names = _parts(spec.ensemble)
    if fit is not None:
        check_fitted_with(fit.guards, dict(zip(names, guards, strict=True)), where=str(spec.fit))
    return EnsembleGuard(guards, rule=spec.rule, fit=fit, missing=spec.missing, name=name_of(spec), names=names)


def _parts(specs: Sequence[GuardSpec]) -> tuple[list[Guard], list[str]]:
    return [build_guard(part) for part in specs], [name_of(part) for part in specs]


def _presets(spec: Adjust, guard: Guard) -> Presets:
    if spec.thresholds is not None:
        return Presets.load(Path(spec.thresholds))
    file = guard.presets_file if isinstance(guard, HasPresets) else None
    if file is None:
        raise ConfigError(
            f"no thresholds of the preset `{spec.preset}` were fitted for guard `{guard.name}`",
            where="preset",
            hint=f"Fit them: `corral eval calibrate presets --guard {guard.name} --rows FILE --out presets.json`. Then "
            "name the file: `--thresholds presets.json`, or `thresholds: presets.json` beside `preset` in a policy.",
        )
    return Presets.load(file)
