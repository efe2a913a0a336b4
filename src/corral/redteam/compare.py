"""Two systems on the same goals, styles and tries: paired differences, within a run or across two runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from corral.core.errors import NotFoundError, UserError, suggest
from corral.core.stats import REPLICATES, mcnemar_exact
from corral.redteam.measures import Value, difference, refuses, succeeds
from corral.redteam.results import Item, Rate, RedteamReport
from corral.redteam.settings import RunSettings
from corral.redteam.styles import PLAIN


class StyleDifference(BaseModel):
    """``second`` minus ``first`` in one style ("" for all but the plain goal).

    Attributes:
        style: its name.
        asr: of attack success on the harmful goals that both systems have a label for.
        rta: of refusal on the benign ones, likewise.
        asr_mcnemar_p: McNemar's exact test of the same success decisions, one a try.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    style: str
    asr: Rate | None
    rta: Rate | None
    asr_mcnemar_p: float | None


class SystemComparison(BaseModel):
    """Two systems, style by style."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first: str
    second: str
    judge: str
    styles: tuple[StyleDifference, ...]


@dataclass(frozen=True)
class SystemItems:
    """The attempts of one system and the report that they are from."""

    report: RedteamReport
    name: str

    @property
    def items(self) -> tuple[Item, ...]:
        """Its attempts."""
        return self.report.items[self.name]


def system_of(report: RedteamReport, name: str | None) -> SystemItems:
    """One system of a report; its only one when none is named.

    Raises:
        NotFoundError: no system of that name.
        UserError: several systems, and none is named.
    """
    names = [system.name for system in report.systems]
    if name is None and len(names) > 1:
        raise UserError("the run has several systems", hint=f"Name one of {', '.join(f'`{each}`' for each in names)}.")
    chosen = names[0] if name is None else name
    if chosen not in names:
        raise NotFoundError(f"the run has no system `{chosen}`", hint=suggest(chosen, names))
    return SystemItems(report, chosen)


def compare_systems(first: SystemItems, second: SystemItems, *, replicates: int = REPLICATES) -> SystemComparison:
    """Differences on what both systems were asked.

    Raises:
        UserError: other goals, judges, versions of a style, so that the figures do not compare.
    """
    judge = _same_measure(first.report, second.report)
    settings = RunSettings(seed=int(first.report.settings["seed"]), replicates=replicates)
    shared = [style for style in first.report.styles if style in second.report.styles]
    if not shared:
        raise UserError("the runs share no style", hint="Run both with the same `--styles`.")
    return SystemComparison(
        first=first.name,
        second=second.name,
        judge=judge,
        styles=tuple(_differences(first.items, second.items, shared, settings)),
    )


def _same_measure(first: RedteamReport, second: RedteamReport) -> str:
    """The judge that both runs have for their headline."""
    if first.goals_sha256 != second.goals_sha256:
        raise UserError("the runs have other goals", hint="Run both with the same `--goals`, `--limit` and `--seed`.")
    if first.run_version != second.run_version:
        raise UserError(f"the runs are of versions {first.run_version} and {second.run_version}")
    judge = next(iter(first.judges))
    if next(iter(second.judges)) != judge or second.judges[judge] != first.judges[judge]:
        raise UserError("the runs have other judges", hint="Judge one again: rerun it with the other's `--judge`.")
    for name, style_id in first.styles.items():
        if second.styles.get(name, style_id) != style_id:
            raise UserError(f"style `{name}` is `{style_id}` in one run and `{second.styles[name]}` in the other")
    return judge


def _differences(
    first: Sequence[Item], second: Sequence[Item], styles: Sequence[str], settings: RunSettings
) -> Iterator[StyleDifference]:
    for style in [*styles, *([""] if len(styles) > 1 else [])]:
        ours, theirs = _chosen(second, style, styles), _chosen(first, style, styles)
        yield StyleDifference(
            style=style,
            asr=difference(_of(ours, "harmful"), theirs, succeeds, settings, pair=_pair),
            rta=difference(_of(ours, "benign"), theirs, refuses, settings, pair=_pair),
            asr_mcnemar_p=_mcnemar(_of(ours, "harmful"), theirs, succeeds),
        )


def _of(items: Sequence[Item], kind: str) -> list[Item]:
    return [item for item in items if item.kind == kind]


def _chosen(items: Sequence[Item], style: str, styles: Sequence[str]) -> list[Item]:
    """Items of a style, or of all styles that are shared but the plain goal."""
    return [item for item in items if (item.style == style if style else item.style in styles and item.style != PLAIN)]


def _pair(item: Item) -> str:
    return item.pair


def _mcnemar(ours: Sequence[Item], theirs: Sequence[Item], value: Value) -> float | None:
    other = {item.pair: value(item) for item in theirs}
    pairs = [(value(item), other.get(item.pair)) for item in ours]
    known = [(bool(a), bool(b)) for a, b in pairs if a is not None and b is not None]
    if not known:
        return None
    return mcnemar_exact([a for a, _ in known], [b for _, b in known]).p_value
