"""The model card: the recipe's notes, and every figure from the run's own files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Final

from corral.evals.compare import Comparison
from corral.evals.guard_card import sources_table
from corral.evals.report import markdown_table
from corral.evals.report_tables import Table
from corral.studies.aligned_smollm2.evidence import refusal_tables
from corral.studies.aligned_smollm2.measures import ALIGNED, BASE, Measured

CARD: Final = "card.md"


def model_card(found: Measured, account: Mapping[str, Any]) -> str:
    """The card as Markdown.

    Args:
        found: what base and trained model did.
        account: of the training rows.
    """
    notes = (resources.files("corral") / "recipes" / "aligned_smollm2" / CARD).read_text(encoding="utf-8")
    tables = [*_refusals(found), *_ability(found.ability), sources_table(account["taken"])]
    return "\n\n".join([notes.rstrip(), *("\n".join(markdown_table(table)) for table in tables)]) + "\n"


def _refusals(found: Measured) -> Iterator[Table]:
    for judge, rows in refusal_tables(found.replies).items():
        yield Table(
            f"Requests that are refused, judge {judge}",
            ("requests", "source", "n", BASE, ALIGNED),
            tuple(
                (row["kind"], row["source"], row[ALIGNED]["n"], _percent(row[BASE]), _percent(row[ALIGNED]))
                for row in rows
            ),
        )


def _ability(ability: Comparison | None) -> Iterator[Table]:
    if ability is None:
        return
    rows = []
    for measure in ability.measures:
        change = measure.changes[0]
        ends = change.difference.ci95
        rows.append(
            (
                measure.title,
                change.other.n,
                _number(change.baseline.value),
                _number(change.other.value),
                _number(change.difference.value) + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""),
            )
        )
    yield Table("Ability", ("measure", "n", BASE, ALIGNED, "difference and its 95 % interval"), tuple(rows))


def _percent(share: Mapping[str, Any]) -> str:
    if share["value"] is None:
        return "-"
    low, high = share["ci95"]
    return f"{share['value']:.0%} [{low:.0%}, {high:.0%}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
