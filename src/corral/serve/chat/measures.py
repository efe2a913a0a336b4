"""What the model behind the gateway measured of itself while it answered, read without trust: numbers by known names.

They go into the audit row of the reply and into metrics, never to the client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

MEASURES: Final = "corral_measures"
"""Field of a choice, or of a streamed one's last event."""
KNOWN: Final = ("gate_unwill", "gate_glad")
"""Mean gates of a mixture (MoGU) over the request and the first tokens of its answer, each in [0, 1]."""


def read_measures(given: object) -> dict[str, float]:
    """The known ones among what an upstream says; what is no number in [0, 1] is left out."""
    if not isinstance(given, Mapping):
        return {}
    return {name: float(given[name]) for name in KNOWN if _is_share(given.get(name))}


def _is_share(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 1
