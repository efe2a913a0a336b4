"""Our guards beside every published row, in the same columns: a page of the documentation, from committed evidence.

A published figure stands beside ours only where set, split, label rule and metric are equal; so does a figure of ours
only where the whole set was measured. Everything else is in a block of its own, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from corral.core.evidence import Claim, Evidence
from corral.evals.beside_published import published_rows, refused, standing_nowhere
from corral.evals.published.tables import load_tables, published_cells
from corral.evals.report import markdown_table
from corral.evals.report_tables import Table
from corral.evals.results import NotComparable
from corral.evals.tasks.eval_set import EvalSet
from corral.evals.tasks.moderation_sets import SETS, in_order

COLUMNS: Final = {"f1": "F1", "ap": "AP", "auroc": "AUROC", "fpr": "FPR"}
"""What every table shows, published or ours."""
DEFAULT: Final = "default_guard"
_WHOLE_TABLE: Final = "moderation_table"
_VARIANTS: Final = ("guard", "loss", "seed", "language")
_PIVOT: Final = "en"

_INTRO: Final = """# Our guards beside published ones

Every public set that a published table reports or a guard of ours was measured on, in the same columns: F1 and
false-positive rate (FPR) at the shipped operating point, average precision (AP) and AUROC. Ours come first, with 95 %
intervals over resampled prompts, from the committed [evidence](../systems/default_guard.md); published figures are as
printed, and have no intervals. What the words mean: [Metrics](metrics.md).

A published figure stands in a table only where set, split, label rule and metric are those of ours ("roughly" where our
copy lacks rows); so does one of ours only where the whole set was measured. The others are at the end, each with the
reason. Most published guards have 1 to 8 billion parameters or are hosted services; the default guard has 0.2 billion
and runs on a CPU."""


@dataclass(frozen=True, slots=True)
class OurRow:
    """A guard of ours on one set.

    Attributes:
        system: what it is called in the table.
        set: name of the set.
        n: rows measured.
        figures: metric to value and interval.
        beside: what stands above the table: flag-all F1, floor and positives, where they are known.
        source: page of the evidence.
    """

    system: str
    set: str
    n: int
    figures: Mapping[str, tuple[float, tuple[float, float] | None]]
    beside: Mapping[str, float]
    source: str


def guards_page(evidence: Iterable[Evidence], rows_in_set: Mapping[str, int] | None = None) -> str:
    """The page as Markdown.

    Args:
        evidence: of our systems; those without a figure on a set of the moderation task add nothing.
        rows_in_set: how many rows the sets have, where the default guard's evidence does not say.
    """
    given = sorted(evidence, key=lambda each: (each.system != DEFAULT, each.system))
    ours = [row for each in given for row in our_rows(each)]
    sizes = {**(rows_in_set or {}), **_sizes(given)}
    parts = [_INTRO]
    for name in in_order():
        of_set = [row for row in ours if row.set == name and row.n == sizes.get(name)]
        if table := _set_table(SETS.get(name), of_set):
            parts.append(table)
    parts += _apart(ours, sizes)
    return "\n\n".join(parts) + "\n"


def our_rows(evidence: Evidence) -> Iterator[OurRow]:
    """What a system's evidence says of sets of the moderation task, each set and variant of the system once."""
    claims = [claim for claim in evidence.claims if not claim.toy]
    if any(claim.claim == _WHOLE_TABLE for claim in claims):
        claims = [claim for claim in claims if claim.claim == _WHOLE_TABLE]
    seen: set[tuple[str, str]] = set()
    for claim in claims:
        for row in _rows_of(claim, evidence.system):
            if (row.system, row.set) not in seen:
                seen.add((row.system, row.set))
                yield row


def _rows_of(claim: Claim, system: str) -> Iterator[OurRow]:
    for name, record in _by_set(claim.ours):
        figures = {metric: found for metric in COLUMNS if (found := _figure(record, metric)) is not None}
        if not figures and claim.metric.startswith("AUROC"):
            figures = _compared(record, "auroc")
        if "against_bag_of_words" in record:
            figures |= _compared(record["against_bag_of_words"], "ap")
        if "against_flag_all" in record:
            figures |= _compared(record["against_flag_all"], "f1")
        if figures:
            variants = [f"{key} {record[key]}" for key in _VARIANTS if key in record and record[key] != _PIVOT]
            beside = {key: record[key] for key in ("flag_all_f1", "floor", "positives") if record.get(key) is not None}
            shown = system.replace("_", " ") + (f" ({', '.join(variants)})" if variants else "")
            yield OurRow(shown, name, int(record["n"]), figures, beside, f"../systems/{system}.md")


def _by_set(value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Records of sets within a value: in lists, where they name the set, or in a mapping from names to records."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key in SETS and isinstance(inner, Mapping) and "n" in inner:
                yield key, inner
            else:
                yield from _by_set(inner)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for each in value:
            if isinstance(each, Mapping) and _is_of_a_set(each):
                yield str(each["set"]), each


def _is_of_a_set(record: Mapping[str, Any]) -> bool:
    """Whether a record is of a set as it is: translations are not shown."""
    return record.get("set") in SETS and "n" in record and record.get("language", _PIVOT) == _PIVOT


def _figure(record: Mapping[str, Any], metric: str) -> tuple[float, tuple[float, float] | None] | None:
    value, ends = record.get(metric), record.get(f"{metric}_ci95")
    return None if value is None else (float(value), None if ends is None else (float(ends[0]), float(ends[1])))


def _compared(record: Mapping[str, Any], metric: str) -> dict[str, tuple[float, tuple[float, float] | None]]:
    """The figure of ours in a comparison; its interval is that of the difference, so none is shown."""
    return {metric: (float(record["ours"]), None)} if record.get("ours") is not None else {}


def _sizes(evidence: Iterable[Evidence]) -> dict[str, int]:
    """How many rows each set has, as records of whole tables say."""
    found = {}
    for each in evidence:
        for claim in each.claims:
            for name, record in _by_set(claim.ours):
                if "rows_in_set" in record:
                    found[name] = int(record["rows_in_set"])
    return found


def _set_table(eval_set: EvalSet, ours: Sequence[OurRow]) -> str:
    """Heading, what is positive, and the table of one set; "" where there is nothing to show."""
    published = _published(eval_set)
    if not ours and not published:
        return ""
    rows = [
        (f"**{row.system}**", *(_shown(row.figures.get(metric)) for metric in COLUMNS), f"[ours]({row.source})", None)
        for row in ours
    ]
    table = Table(eval_set.name, ("system", *COLUMNS.values(), "from", "caveat"), (*rows, *published))
    heading, blank, *lines = markdown_table(table)
    return "\n".join([heading, blank, _about(eval_set, ours), "", *lines])


def _about(eval_set: EvalSet, ours: Sequence[OurRow]) -> str:
    """What is positive, and what every figure of the set must be read beside."""
    text = f"Of the {eval_set.target}; positive: {eval_set.rule}."
    known = next((row for row in ours if row.beside), None)
    if known is None:
        return text
    text += f" {known.n:,} rows, {known.beside.get('positives', 0):,.0f} positive."
    if "floor" in known.beside:
        text += f" Flagging all: F1 {known.beside['flag_all_f1']:.3f}. Floor of AP: {known.beside['floor']:.3f}."
    return text


def _published(eval_set: EvalSet) -> list[tuple[str | None, ...]]:
    """A row a system and column of a table, its metrics side by side."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in published_rows(eval_set, tuple(COLUMNS)):
        cells = found.setdefault((row.table, row.column, row.system), {"row": row})
        cells[row.metric] = f"{row.value:.3f}"
    shown = []
    for (table, column, system), cells in found.items():
        row = cells["row"]
        caveat = f"roughly: {row.caveat}" if row.relation == "subset" else row.caveat or None
        source = f"{table}/{column}, {row.mark.replace('_', ' ')}"
        shown.append((system, *(cells.get(metric) for metric in COLUMNS), source, caveat))
    return shown


def _apart(ours: Sequence[OurRow], sizes: Mapping[str, int]) -> Iterator[str]:
    """What may not stand in the tables: ours on samples, published columns of other sets."""
    sampled = [row for row in ours if row.n != sizes.get(row.set)]
    if sampled:
        cells = tuple(
            (
                row.set,
                f"**{row.system}**",
                *(_shown(row.figures.get(metric)) for metric in COLUMNS),
                f"{row.n:,} of {sizes[row.set]:,} rows" if row.set in sizes else f"{row.n:,} rows of the set",
            )
            for row in sampled
        )
        yield "\n".join(
            markdown_table(
                Table("Not comparable: ours, on samples", ("set", "system", *COLUMNS.values(), "why"), cells)
            )
        )
    links = [
        (SETS.get(name), link) for name in in_order() for link in SETS.get(name).published if link.relation == "no"
    ]
    taken = [refused(link, eval_set.name, link.reason) for eval_set, link in links]
    columns = ("table", "published", "could be taken for", "why it is not comparable", "figures as printed")
    rows = tuple(
        (each.table, each.title, each.set or None, each.reason, _as_printed(each))
        for each in [*taken, *standing_nowhere()]
    )
    yield "\n".join(markdown_table(Table("Not comparable: published", columns, rows)))


def _as_printed(each: NotComparable) -> str:
    """Every figure of a refused column; of a whole table, those of all columns that belong to no set of ours."""
    table = load_tables()[each.table]
    if each.column:
        columns = [each.column]
    else:
        linked = {(link.table, link.column) for name in in_order() for link in SETS.get(name).published}
        columns = [column for column in table.columns if (each.table, column) not in linked]
    shown = [
        f"{cell.system}, {cell.metric}{'' if each.column else f' of {column}'} {cell.value:g}"
        for column in columns
        for cell in published_cells(each.table, column)
    ]
    return f"{'; '.join(shown)} ({table.unit})"


def _shown(figure: tuple[float, tuple[float, float] | None] | None) -> str | None:
    if figure is None:
        return None
    value, ends = figure
    return f"{value:.3f}" if ends is None else f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
