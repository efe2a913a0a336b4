"""The tables of a moderator report, for Markdown and the terminal alike, and the files it is written to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from corral.core.files import atomic_write_json, atomic_write_text
from corral.evals.published.tables import load_tables
from corral.evals.report import markdown_table
from corral.evals.report_tables import Cell, Table
from corral.evals.results import Figure
from corral.evals.tasks.moderator.results import ItemLog, ModeratorReport, ModeratorResult

_PUBLISHED: Final = "T3"


def write_report(report: ModeratorReport, out: Path) -> None:
    """Write ``report.json`` and ``report.md`` into a folder, each whole or not at all."""
    atomic_write_json(out / "report.json", report.model_dump(mode="json"))
    atomic_write_text(out / "report.md", markdown(report))


def terminal_tables(report: ModeratorReport) -> Iterator[Table]:
    """What is printed after a run: rates of each guard, guards against each other, and texts where they were asked."""
    yield Table(
        f"{report.target}: delivered answers, {report.harmful} harmful and {report.benign} benign prompts",
        ("guard", "checks", "ASR", "ASR change", "RTA", "RTA change", "no verdict"),
        (
            ("none", None, percent(report.undefended.asr), None, percent(report.undefended.rta), None, None),
            *(_guard_row(guard) for guard in report.guards),
        ),
    )
    if report.comparisons:
        yield Table(
            "Guards against each other, same replies",
            ("first", "second", "ASR difference", "McNemar p", "RTA difference", "McNemar p"),
            tuple(
                (
                    each.first,
                    each.second,
                    percent(each.difference.asr, signed=True),
                    f"{each.asr_mcnemar_p:.2g}",
                    percent(each.difference.rta, signed=True),
                    f"{each.rta_mcnemar_p:.2g}",
                )
                for each in report.comparisons
            ),
        )
    for guard in report.guards:
        yield from _wrongly_delivered(guard)


def remarks(report: ModeratorReport) -> Iterator[str]:
    """What a reader of the rates must know."""
    settings = report.settings
    yield (
        f"judge {report.judge} ({report.judge_revision}), policy {report.policy} ({report.policy_hash}), at most "
        f"{settings['max_new_tokens']} tokens, temperature {settings['temperature']:g}"
    )
    if report.empty:
        yield f"{report.empty} replies have no text: they neither comply nor refuse."
    left_out = report.unanswered + report.unjudged
    if left_out:
        yield (
            f"{report.unanswered} prompts have no reply and {report.unjudged} replies no label; they are left out."
            + ("" if report.valid else " That is more than 5 %: the run is not valid.")
        )
    yield from report.caveats


def markdown(report: ModeratorReport) -> str:
    """The whole report as Markdown."""
    facts = {
        "task": f"{report.task} version {report.task_version}, Corral {report.corral_version}, {report.created}",
        "machine": report.machine,
        "target": f"{report.target}, revision {report.target_revision or 'unknown'}",
        "prompts": f"{report.harmful} harmful, {report.benign} benign, sha256 {report.rows_sha256[:12]}",
        **{f"guard {guard.guard}": f"revision {guard.revision}" for guard in report.guards},
    }
    lines = ["# Moderator report", "", *(f"- {name}: {value}" for name, value in facts.items())]
    lines += [f"- {remark}" for remark in remarks(report)]
    tables = [*terminal_tables(report), *(_slice_table(guard) for guard in report.guards if guard.slices), _published()]
    for table in tables:
        lines += ["", *markdown_table(table)]
    return "\n".join(lines) + "\n"


def percent(figure: Figure, *, signed: bool = False) -> str:
    """Value and interval in percent."""
    if figure.value is None:
        return "-"
    shown = f"{100 * figure.value:{'+' if signed else ''}.1f}"
    if figure.ci95 is None:
        return f"{shown} [withheld]"
    return f"{shown} [{100 * figure.ci95[0]:.1f}, {100 * figure.ci95[1]:.1f}]"


def _guard_row(guard: ModeratorResult) -> tuple[Cell, ...]:
    return (
        guard.guard,
        "prompt, reply" if guard.mode == "both" else guard.mode,
        percent(guard.asr),
        percent(guard.change.asr, signed=True),
        percent(guard.rta),
        percent(guard.change.rta, signed=True),
        guard.no_verdict,
    )


def _wrongly_delivered(guard: ModeratorResult) -> Iterator[Table]:
    """Texts of the harmful answers that got through and of the benign prompts that were refused; none is shown unless
    the run was asked to."""
    harmful = [each for each in guard.items if each.harmful and each.outcome == "complies" and not each.replaced]
    refused = [each for each in guard.items if not each.harmful and (each.outcome == "refuses" or each.replaced)]
    for title, items in (("harmful, delivered", harmful), ("benign, refused", refused)):
        rows = tuple(_item_row(item) for item in items if item.texts is not None)
        if rows:
            yield Table(f"{guard.guard}: {title}", ("id", "prompt", "reply"), rows)


def _item_row(item: ItemLog) -> tuple[Cell, ...]:
    texts = item.texts or {}
    return item.id, texts["prompt"], "(replaced by a refusal)" if item.replaced else texts["reply"]


def _slice_table(guard: ModeratorResult) -> Table:
    rows = tuple(
        (
            each.by,
            each.value,
            each.defended.asr.n,
            percent(each.undefended.asr),
            percent(each.defended.asr),
            each.defended.rta.n,
            percent(each.undefended.rta),
            percent(each.defended.rta),
        )
        for each in guard.slices
    )
    columns = ("by", "value", "harmful", "ASR alone", "ASR", "benign", "RTA alone", "RTA")
    return Table(f"{guard.guard}: by source and category", columns, rows)


def _published() -> Table:
    """Figures of the paper, which stand here for orientation only."""
    table = load_tables()[_PUBLISHED]
    systems: dict[tuple[str, str], dict[str, float]] = {}
    for cell in table.cells:
        systems.setdefault((cell.column, cell.system), {})[cell.metric] = cell.value
    rows = tuple(
        (table.columns[column], system, f"{cells['asr']:.1f}", f"{cells['rta']:.1f}")
        for (column, system), cells in systems.items()
    )
    title = f"Not comparable: {_PUBLISHED} (paper), other targets, prompts and judge"
    return Table(title, ("target", "guard", "ASR %", "RTA %"), rows)
