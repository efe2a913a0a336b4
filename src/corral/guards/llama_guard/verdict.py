"""What the Llama Guard guard says beyond what every guard says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from corral.guards.base import Verdict


@dataclass(frozen=True, slots=True)
class LlamaGuardVerdict(Verdict):
    """A verdict with what the score rests on.

    Attributes:
        p_raw: probability of ``unsafe`` among everything that the model might write: the papers' score. ``None`` where
            it is not known: the answer was generated, or the model's head is trimmed.
        mass: probability that the model writes either label, the smallest over windows; ``None`` as ``p_raw``.
        taxonomy: id of the taxonomy in the prompt; codes are written ``taxonomy/code``.
        taxonomy_version: its version.
    """

    p_raw: float | None = None
    mass: float | None = None
    taxonomy: str = ""
    taxonomy_version: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, keys as in the attribute lists."""
        # Without super(): a dataclass with slots is a second class, which super() of Python 3.11 does not know.
        return Verdict.to_json(self) | {
            "p_raw": self.p_raw,
            "mass": self.mass,
            "taxonomy": self.taxonomy,
            "taxonomy_version": self.taxonomy_version,
        }
