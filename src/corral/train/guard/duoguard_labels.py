"""From a moderation example to the twelve labels of DuoGuard's head.

DuoGuard's own data names the categories of a harmful text, and what it does not name is absent (arXiv 2502.05163). So
here: a text that violates some category has label 0 in the others, a benign one in all. A harmful text without a
category is unknown in every category of harm, where the released code would call it all zero, and so benign. The last
label, jailbreak prompts, is the row's own ``attack`` label.
"""

from __future__ import annotations

from typing import Final

from corral.data.examples import ModerationExample
from corral.data.relabelling import with_labels_of
from corral.guards.duoguard import TAXONOMY, duoguard_codes

UNKNOWN: Final = -100.0


def duoguard_labels(row: ModerationExample) -> list[float]:
    """1, 0 or -100 (unknown) for each category, in the order of the head."""
    *harms, _ = duoguard_codes()
    categories = with_labels_of(row, TAXONOMY).categories
    violated = [bool(categories.get(code)) for code in harms]
    if row.harmful is False:
        labels = [0.0] * len(harms)
    elif row.harmful and any(violated):
        labels = [float(present) for present in violated]
    else:
        labels = [UNKNOWN] * len(harms)
    return [*labels, UNKNOWN if row.attack is None else float(row.attack)]


def is_labelled(row: ModerationExample) -> bool:
    """Whether some label of the row is known."""
    return any(label != UNKNOWN for label in duoguard_labels(row))
