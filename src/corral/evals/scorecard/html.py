"""The scorecard as one HTML file: figures at a glance, every measure with its interval, and what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from corral.evals.reporting.charts import PlacedPoint, Point, legend, scatter, share_axis
from corral.evals.reporting.markup import Markup, element, join
from corral.evals.reporting.page import big_value, bullets, facts, folded, page, paragraph, plain_table, section
from corral.evals.reporting.strips import StripRow, strip_table
from corral.evals.reporting.wording import AREAS, basis_text, direction_text, full_title, interval_text, value_text
from corral.evals.scorecard.markdown import published_table
from corral.evals.scorecard.results import MeasureRow, Scorecard
from corral.evals.tasks.task import Area, SampleScore

_SHOWN_SAMPLES: Final = 50
_BESIDE: Final = 4
_SHARES: Final = (
    "A dot is the figure, the bar its 95 % interval, the dashed mark what a subject that knows nothing would get."
)
_TRADE: Final = ("attack_success/asr", "over_refusal/rta")


def html(card: Scorecard, samples: Mapping[str, Sequence[SampleScore]], *, show_content: bool) -> str:
    """The whole page.

    Args:
        card: the figures.
        samples: task to its samples.
        show_content: print requests and replies.
    """
    return page(
        f"Scorecard of {card.subject}",
        _facts(card),
        element("div", *_cards(card), class_="cards"),
        _failed(card),
        _trade_off(card),
        *[_area(card, area) for area in AREAS],
        _published(card),
        _skipped(card),
        _samples(samples, show_content=show_content),
        _method(card),
    )


def _published(card: Scorecard) -> Markup | None:
    table = published_table(card)
    if table is None:
        return None
    rows = [[str(cell or "") for cell in row] for row in table.rows]
    return section(table.title, plain_table(table.columns, rows, numbers=frozenset({3})))


def _facts(card: Scorecard) -> Markup:
    guards = ", ".join(f"{guard.name} ({guard.revision})" for guard in card.guards)
    limit = card.settings.get("limit")
    return facts(
        [
            ("revision", card.revision or "unknown"),
            ("guards", guards),
            ("scorecard", f"version {card.scorecard_version}"),
            ("items a task", f"at most {limit}" if limit else None),
            ("made", card.created),
            ("by", f"Corral {card.corral_version} on {card.machine}"),
        ]
    )


def _cards(card: Scorecard) -> Iterator[Markup]:
    """A card an area: its first headline measure, and the others below, behind guards too."""
    for area, title in AREAS.items():
        headlines = [row for row in card.rows() if row.area == area and row.headline]
        if not headlines:
            continue
        first, *others = headlines
        beside = [_beside(first, row) for row in others[:_BESIDE]]
        yield element(
            "div",
            element("div", title, class_="area"),
            element("div", _title(first), class_="what"),
            big_value(value_text(first.value, first.unit), _interval(first)),
            element("div", _card_basis(first), class_="basis"),
            element("div", *beside, class_="beside") if beside else None,
            class_="card",
        )


def _beside(first: MeasureRow, row: MeasureRow) -> Markup:
    same = row.title == first.title and row.task == first.task and row.area != "guard"
    name = f"behind {row.guard}" if same else _title(row)
    return element("div", f"{name}: ", element("b", value_text(row.value, row.unit)), " ", _interval(row))


def _interval(row: MeasureRow) -> Markup:
    return element("small", interval_text(row.ci95, row.unit))


def _card_basis(row: MeasureRow) -> str:
    direction = direction_text(row.higher_is_better)
    return "; ".join(part for part in (basis_text(row.n, row.clusters, row.unscored), direction) if part)


def _area(card: Scorecard, area: Area) -> Markup | None:
    rows = [row for row in card.rows() if row.area == area]
    shares = [row for row in rows if row.unit == "share"]
    others = [row for row in rows if row.unit != "share"]
    if not rows:
        return None
    return section(AREAS[area], _chart(card, shares) if shares else None, _numbers(others) if others else None)


def _chart(card: Scorecard, rows: Sequence[MeasureRow]) -> Markup:
    """Shares on one axis; the model alone and behind each guard, or several guards, in lanes of one row."""
    systems = ["", *(guard.name for guard in card.guards)]
    lanes: dict[str, list[MeasureRow]] = {}
    for row in rows:
        lanes.setdefault(row.name.partition("@")[0], []).append(row)
    drawn = [_strip(of_row, systems) for of_row in lanes.values()]
    used = {row.guard for row in rows}
    behind = "behind " if "" in used else ""
    names = [(i, f"{behind}{name}" if name else "the model alone") for i, name in enumerate(systems) if name in used]
    return join(strip_table(drawn, share_axis(), caption=_SHARES), legend(names) if used != {""} else None)


def _strip(rows: Sequence[MeasureRow], systems: Sequence[str]) -> StripRow:
    first = rows[0]
    notes = dict.fromkeys(row.note for row in rows)
    return StripRow(
        label=first.title,
        points=tuple(_point(row, systems.index(row.guard)) for row in rows),
        figures=tuple((_figure(row), _basis(row)) for row in rows),
        reference=first.chance,
        note="; ".join(note for note in (direction_text(first.higher_is_better), *notes) if note),
        part=first.group if first.area == "guard" else "",
    )


def _figure(row: MeasureRow) -> str:
    return f"{value_text(row.value, row.unit)} {interval_text(row.ci95, row.unit)}"


def _basis(row: MeasureRow) -> str:
    chance = "" if row.chance is None else f"; chance {value_text(row.chance, row.unit)}"
    return basis_text(row.n, row.clusters, row.unscored) + chance


def _numbers(rows: Sequence[MeasureRow]) -> Markup:
    """Measures without a common axis."""
    cells = [
        (
            _title(row),
            value_text(row.value, row.unit),
            interval_text(row.ci95, row.unit),
            basis_text(row.n, row.clusters, row.unscored),
            "; ".join(note for note in (direction_text(row.higher_is_better), row.note) if note),
        )
        for row in rows
    ]
    return plain_table(("measure", "figure", "95 % interval", "rests on", ""), cells, numbers=frozenset({1, 2}))


def _trade_off(card: Scorecard) -> Markup | None:
    """Attack success against refusal of benign requests, without a guard and behind each."""
    asr, rta = (card.row(name) for name in _TRADE)
    if asr is None or rta is None or not card.guards:
        return None
    points, names = [], []
    for number, guard in enumerate(["", *(guard.name for guard in card.guards)]):
        rows = [card.row(f"{name}@{guard}" if guard else name) for name in _TRADE]
        name = f"behind {guard}" if guard else "the model alone"
        up, along = (_point(row, number) for row in rows)
        points.append(PlacedPoint(along, up, chr(ord("A") + number), f"{name}: {up.label}; {along.label}"))
        names.append((number, f"{chr(ord('A') + number)}: {name}"))
    drawn = scatter(
        points,
        share_axis("refuses benign requests"),
        share_axis("complies with harmful requests"),
        title="What a guard changes",
        description="; ".join(point.label for point in points) + ".",
    )
    return section(
        "What a guard changes",
        element(
            "figure",
            drawn,
            legend(names),
            element("figcaption", f"Lower left is better. Bars are 95 % intervals. {_resting(asr, rta)}"),
        ),
    )


def _resting(asr: MeasureRow, rta: MeasureRow) -> str:
    return f"{asr.n} harmful requests, {rta.n} benign ones that sound harmful."


def _point(row: MeasureRow | None, series: int) -> Point:
    if row is None:
        return Point(None)
    low, high = row.ci95 or (None, None)
    label = f"{_title(row)}: {_figure(row)}"
    return Point(row.value, low, high, series=series, label=label)


def _title(row: MeasureRow) -> str:
    return full_title(row.title, row.area, row.group, row.guard)


def _failed(card: Scorecard) -> Markup | None:
    failed = [f"{task.task}: {task.reason} {task.hint}".strip() for task in card.skipped if task.failed]
    return section("Tasks that failed", bullets(failed), kind="note") if failed else None


def _skipped(card: Scorecard) -> Markup | None:
    rows = [(task.task, task.reason, task.hint) for task in card.skipped if not task.failed]
    return section("Not measured", plain_table(("task", "why", "what to do"), rows)) if rows else None


def _samples(samples: Mapping[str, Sequence[SampleScore]], *, show_content: bool) -> Markup | None:
    parts = [
        folded(_samples_title(task, of_task), _sample_table(of_task, show_content=show_content))
        for task, of_task in samples.items()
        if of_task
    ]
    if not parts:
        return None
    told = None if show_content else join(" Texts are left out; ", element("code", "--show-content"), " puts them in.")
    return section("Samples", element("p", "Every figure is computed from these values alone.", told), *parts)


def _samples_title(task: str, samples: Sequence[SampleScore]) -> str:
    if len(samples) <= _SHOWN_SAMPLES:
        return f"{task}: {len(samples)} samples"
    return f"{task}: the first {_SHOWN_SAMPLES} of {len(samples)} samples; all are in samples.jsonl"


def _sample_table(samples: Sequence[SampleScore], *, show_content: bool) -> Markup:
    shown = list(islice(samples, _SHOWN_SAMPLES))
    names = list(dict.fromkeys(name for sample in shown for name in sample.values))
    texts = list(dict.fromkeys(name for sample in shown for name in sample.texts)) if show_content else []
    groups = any(sample.group for sample in shown)
    rows = [
        [
            sample.id,
            *([sample.group] if groups else []),
            *[_value(sample, name) for name in names],
            *[sample.texts.get(name, "") for name in texts],
        ]
        for sample in shown
    ]
    first = 2 if groups else 1
    columns = ["sample", *(["group"] if groups else []), *names, *texts]
    return plain_table(columns, rows, numbers=frozenset(range(first, first + len(names))))


def _value(sample: SampleScore, name: str) -> str:
    if name not in sample.values:
        return ""
    value = sample.values[name]
    return "unscored" if value is None else f"{value:.6g}"


def _method(card: Scorecard) -> Markup:
    rows = [
        (
            entry.task,
            entry.version,
            entry.data_hash[:12],
            entry.judge_revision or "-",
            f"{entry.samples:,}",
            f"{entry.seconds:,.1f} s",
        )
        for entry in card.tasks
    ]
    columns = ("task", "version", "data", "judge", "samples", "took")
    caveats = [f"{entry.task}: {caveat}" for entry in card.tasks for caveat in entry.caveats]
    return section(
        "How it was measured",
        paragraph(
            "Intervals are 95 %. Shares of exactly 0 or 1 have Wilson's, everything else resamples clusters of items "
            "that stand or fall together. Two scorecards compare task by task where version, data and judge are equal."
        ),
        plain_table(columns, rows, numbers=frozenset({4, 5})),
        join(element("h3", "What to know"), bullets(caveats)) if caveats else None,
    )
