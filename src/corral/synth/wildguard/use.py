"""What a generated row may be used for."""

from __future__ import annotations

from typing import Final

from corral.synth.rows import Row

GUARD_INPUT_ONLY: Final = "input to a guard, never a fine-tuning target"


def restricted_use(row: Row) -> str:
    """The restriction on a row, by its history or because its reply is now labelled harmful; "" when there is none."""
    if row.get("response_harmful"):
        return GUARD_INPUT_ONLY
    uses = (record.get("use", "") for record in row.get("provenance", ()))
    return next(filter(None, uses), "")
