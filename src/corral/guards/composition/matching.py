"""Whether a loaded guard is the one that a policy asks for: by the specs of both, since a name alone proves nothing."""

from __future__ import annotations

from typing import Any

from corral.guards.composition.specs import Adjust, GuardSpec, NamedGuard, kind_of, name_of, parts_of
from corral.guards.loading import GUARDS


def difference(asked: GuardSpec, loaded: GuardSpec) -> str | None:
    """How a loaded guard is not what was asked for, in words; ``None`` when it is.

    A loaded guard may say more than was asked for, never other than it: settings that the asked spec does not give, and
    the file of a preset's thresholds where it names none, are up to the loader. So is everything about a name that is
    no guard's of the registry: whoever asks for it leaves to the loader what it stands for.

    Args:
        asked: as a policy has it.
        loaded: as the guard was made.
    """
    name = name_of(asked)
    if name_of(loaded) != name:
        return f"`{name_of(loaded)}` stands in the place of `{name}`"
    if isinstance(asked, str) and asked not in GUARDS:
        return None
    one, other = _mapping(asked), _mapping(loaded)
    if kind_of(one) != kind_of(other):
        return f"`{name}` is a spec of kind `{kind_of(other)}`, not `{kind_of(one)}`"
    theirs = _own(other)
    for key, value in _own(one).items():
        if theirs.get(key) != value:
            return f"`{key}` of `{name}` is `{theirs.get(key)}`, not `{value}`"
    inner, given = parts_of(one), parts_of(other)
    if len(inner) != len(given):
        return f"`{name}` has {len(given)} parts, not {len(inner)}"
    return next((found for pair in zip(inner, given, strict=True) if (found := difference(*pair))), None)


def _mapping(spec: GuardSpec) -> GuardSpec:
    return NamedGuard(guard=spec) if isinstance(spec, str) else spec


def _own(spec: Any) -> dict[str, Any]:
    """What a spec says beside its name and its parts."""
    if isinstance(spec, NamedGuard):
        return {"guard": spec.guard} | {f"settings.{key}": value for key, value in spec.settings.items()}
    open_ones = {"thresholds"} if isinstance(spec, Adjust) and spec.thresholds is None else set()
    values: dict[str, Any] = spec.model_dump(mode="json", exclude={"name", str(kind_of(spec)), *open_ones})
    return values
