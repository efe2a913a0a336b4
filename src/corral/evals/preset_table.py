"""Presets as a table: thresholds by language, and what they do to the development rows."""

from __future__ import annotations

from corral.evals.report_tables import Cell, number
from corral.guards.composition.presets import LEAST_NEGATIVES, Presets


def preset_rows(presets: Presets) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    """Header and rows: all languages that have a threshold of their own, or enough harmless rows for one."""
    columns = ("target", "preset", "language", "threshold", "n", "harmful", "FPR", "recall", "FPR at common")
    rows: list[tuple[Cell, ...]] = []
    for target, fits in presets.targets.items():
        for preset, fit in fits.items():
            rows.append((target, preset, "common", f"{fit.thresholds.common:.4f}", *_blank()))
            for language, rates in fit.by_language.items():
                if rates.n - rates.positives >= LEAST_NEGATIVES:
                    own = fit.thresholds.languages.get(language)
                    shown = "common" if own is None else f"{own:.4f}"
                    figures = (number(rates.fpr), number(rates.recall), number(rates.common_fpr))
                    rows.append((target, preset, language or "unknown", shown, rates.n, rates.positives, *figures))
    return columns, rows


def _blank() -> tuple[None, ...]:
    return (None,) * 5
