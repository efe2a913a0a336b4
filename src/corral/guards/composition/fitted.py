"""Whether a fit belongs to the guards that it is used with."""

from __future__ import annotations

from collections.abc import Mapping

from corral.core.errors import ConfigError
from corral.guards.base import Guard


def check_fitted_with(fitted: Mapping[str, str], guards: Mapping[str, Guard], *, where: str) -> None:
    """Refuse a fit that was made with other guards, or other weights of them.

    Args:
        fitted: name to revision, as the fit records them; empty for one that was written by hand.
        guards: the guards by name.
        where: the setting, for the message.

    Raises:
        ConfigError: names or revisions differ.
    """
    if not fitted:
        return
    hint = "Fit it again with `corral eval calibrate`, or take the weights that it was fitted with."
    if set(fitted) != set(guards):
        names, given = (", ".join(f"`{name}`" for name in some) for some in (fitted, guards))
        raise ConfigError(f"was fitted for {names}, and used with {given}", where=where, hint=hint)
    for name, revision in fitted.items():
        # What follows a revision's first dash says how the same weights are computed or limited: dtype, longest text.
        if revision.partition("-")[0] != guards[name].revision.partition("-")[0]:
            raise ConfigError(
                f"was fitted for revision `{revision}` of `{name}`, this is `{guards[name].revision}`",
                where=where,
                hint=hint,
            )
