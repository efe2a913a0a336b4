"""The study as one HTML page: quality and safety against effective bits, claims, and the whole matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from corral.core.evidence import Claim
from corral.evals.reporting.charts import Axis, PlacedPoint, Point, legend, nice_axis, scatter
from corral.evals.reporting.markup import Markup, element
from corral.evals.reporting.page import facts, folded, page, paragraph, plain_table, section
from corral.evals.reporting.wording import interval_text, number
from corral.studies.claims import Compared, outcome_of
from corral.studies.low_bit_study.cells import IN_DOMAIN
from corral.studies.low_bit_study.drift import GuardRow, SafetyRow
from corral.studies.low_bit_study.settings import LowBitConfig

_FAMILIES: Final = {
    "rtn": (0, "R", "RTN"),
    "gptq": (1, "G", "GPTQ"),
    "awq": (2, "A", "AWQ"),
    "quip": (3, "Q", "QuIP"),
    "smoothquant": (4, "S", "SmoothQuant"),
    "pb_llm": (5, "P", "PB-LLM"),
    "billm": (5, "B", "BiLLM"),
    "db_llm": (5, "D", "DB-LLM"),
    "nf4": (4, "N", "NF4 (QLoRA's base)"),
    "icq": (4, "I", "ICQ (IR-QLoRA's base)"),
}
"""Method to the number of its colour, its letter in plots and its name."""
_WORST: Final = 1.4
"""Times the bits per byte of the model as it was beyond which a dot is drawn at the edge."""
_BITS: Final = "bits a weight, all that is stored"
_BITS_OF_REFERENCE: Final = 16.0
_DOT: Final = 0.055
"""Width of a dot as a share of a plot's."""
_EQUALS: Final = "The dot = is the model as it was, at the right edge whatever it is stored in."


@dataclass
class Findings:
    """What the page shows.

    Attributes:
        matrix: lines of ``findings.table``, the model as it was first.
        safety: aligned models beside the one as it was.
        guards: guards beside the one that ships.
    """

    matrix: list[dict[str, Any]]
    safety: list[SafetyRow] = field(default_factory=list)
    guards: list[GuardRow] = field(default_factory=list)


def report(config: LowBitConfig, claims: Sequence[Claim], found: Findings) -> str:
    """The page: one HTML file without scripts, for a light and a dark theme."""
    toy = "A toy: random weights or packaged text. It shows that the path works, nothing else." if config.toy else None
    return page(
        f"Low-bit study of {config.model}",
        facts(
            [
                ("calibration", f"{config.calibration.windows} windows of {config.calibration.length} tokens"),
                ("text", config.calibration.source),
                ("blocks", "all" if config.quantized_blocks is None else f"the lowest {config.quantized_blocks}"),
            ]
        ),
        paragraph(toy, kind="muted") if toy else None,
        section("Claims", *[_claim(claim) for claim in claims]),
        _quality(found.matrix),
        _safety(found.safety) if found.safety else None,
        _guards(found.guards) if found.guards else None,
        _matrix(found.matrix),
    )


def _claim(claim: Claim) -> Markup:
    interval = "no interval" if claim.ci95 is None else f"95 % interval {interval_text(claim.ci95, '')}"
    words = claim.ours.get("in_words") if isinstance(claim.ours, dict) else None
    return element(
        "div",
        element("h3", f"{claim.claim}: {outcome_of(claim)}"),
        paragraph(f"{claim.expected[:1].upper()}{claim.expected[1:]}."),
        paragraph(str(words)) if words else None,
        paragraph(f"{claim.metric}; {interval}, n = {claim.n}", kind="basis"),
    )


def _quality(matrix: Sequence[dict[str, Any]]) -> Markup | None:
    reference, *lines = matrix
    drawn = [line for line in lines if not line["error"] and not line["partial"] and line["stored_bits"] is not None]
    if not drawn or reference["error"]:
        return None
    texts = list(reference["texts"])
    plots = []
    for text in texts:
        start = reference["texts"][text]["bits_per_byte"]
        values = [min(line["texts"][text]["bits_per_byte"], _WORST * start) for line in drawn]
        y = nice_axis([start, *values], title=f"bits per byte, {_plain(text)}")
        points = [
            _placed(line["name"], line["stored_bits"], Point(line["texts"][text]["bits_per_byte"])) for line in drawn
        ]
        points.append(_reference(start))
        described = f"Lower is better; {number(start, '')} as it was. Dots at the upper edge lie above it."
        plots.append(_plot(points, _bits_axis(line["stored_bits"] for line in drawn), y, _plain(text), described))
    return section(
        "Quality against effective bits",
        paragraph(
            f"Lower is better. {_EQUALS} Dots at the upper edge lie above it, "
            "side by side. Every figure, and models of which few "
            "blocks are quantized, are in the table below."
        ),
        _legend(line["name"] for line in drawn),
        element("div", *plots, class_="plots"),
    )


def _safety(rows: Sequence[SafetyRow]) -> Markup:
    titles = {
        "refusal": "harmful requests refused",
        "over_refusal": "harmless look-alikes refused",
        "coherent": "coherent replies",
        **{name: f"attack success, {name.partition('@')[2]}" for name in rows[0].measures if "@" in name},
    }
    plots = [_shares(rows, name, title) for name, title in titles.items()]
    lines = [
        [row.cell.name, number(row.cell.stored_bits or 0.0, ""), *(_share(row.measures[name]) for name in titles)]
        for row in rows
    ]
    before = ["as it was", "", *(_percent(rows[0].measures[name].baseline) for name in titles)]
    return section(
        "Safety against effective bits",
        paragraph(
            "Shares of requests. Gibberish neither refuses nor complies. The interval is that of the difference to the "
            f"model as it was, on the same requests. {_EQUALS}"
        ),
        _legend(row.cell.name for row in rows),
        element("div", *plots, class_="plots"),
        plain_table(
            ["model", "bits", *titles.values()], [before, *lines], numbers=frozenset(range(1, 2 + len(titles)))
        ),
    )


def _guards(rows: Sequence[GuardRow]) -> Markup:
    stored = [row for row in rows if row.cell.stored_bits is not None]
    base = rows[0].auroc.baseline
    points = [_placed(row.cell.name, row.cell.stored_bits, _around(row.auroc)) for row in stored]
    values = [value for point in points for value in (point.y.value, point.y.low, point.y.high) if value is not None]
    plot = None
    if stored and base is not None:
        y = nice_axis([base, *values], title="AUROC of harm, mean over sets")
        points.append(_reference(base))
        bits = _bits_axis(row.cell.stored_bits or 0.0 for row in stored)
        plot = _plot(points, bits, y, "English guard", "Higher is better; = is the guard as it ships.")
    sets = list(rows[0].at_threshold)
    before = ["as it ships", "16", _decimals(base), *(_f1_before(rows[0], name) for name in sets)]
    lines = [
        [
            row.cell.name,
            "-" if row.cell.stored_bits is None else number(row.cell.stored_bits, ""),
            _over(_decimals(row.auroc.ours), _signed(row.auroc)),
            *(_f1(row, name) for name in sets),
        ]
        for row in rows
    ]
    return section(
        "The English guard against effective bits",
        paragraph(
            "The dot = is the guard as it ships, at the right edge. In the table F1 at 0.5 with its false-positive "
            "rate; the F1 of flagging everything stands in the head."
        ),
        _legend(row.cell.name for row in stored),
        plot,
        plain_table(
            [
                "guard",
                "bits",
                "AUROC (change)",
                *(f"{name} (all: {rows[0].to_json()['at_threshold'][name]['flag_all_f1']:.3f})" for name in sets),
            ],
            [before, *lines],
            numbers=frozenset(range(1, 3 + len(sets))),
        ),
    )


def _matrix(matrix: Sequence[dict[str, Any]]) -> Markup:
    texts = list(next((line["texts"] for line in matrix if not line["error"]), {}))
    columns = ["model", "seed", "bits, as papers count", "bits stored"]
    columns += ["output lost"]
    columns += [f"{what}, {_plain(text)}" for text in texts for what in ("perplexity", "bits per byte")]
    rows = [
        [
            line["name"],
            str(line["seed"]),
            *("-" if line[count] is None else f"{line[count]:.3f}" for count in ("nominal_bits", "stored_bits")),
            _percent(line["lost_output"]),
            *_figures(line, texts),
            f"{line['seconds']:.0f} s",
        ]
        for line in matrix
        if not line["error"]
    ]
    failed = [[line["name"], str(line["seed"]), line["error"]] for line in matrix if line["error"]]
    return section(
        "Every cell",
        paragraph(
            "Output lost: tr((W - Q) H (W - Q)^T) / tr(W H W^T), mean over layers, on the calibration text; of methods "
            "that see second moments of it."
        ),
        plain_table([*columns, "took"], rows, numbers=frozenset(range(1, len(columns) + 1))),
        folded(f"{len(failed)} failed", plain_table(["model", "seed", "why"], failed)) if failed else None,
    )


def _figures(line: dict[str, Any], texts: Iterable[str]) -> list[str]:
    figures = []
    for text in texts:
        found = line["texts"][text]
        figures += ["-" if found[name] is None else number(found[name], "") for name in ("perplexity", "bits_per_byte")]
    return figures


def _shares(rows: Sequence[SafetyRow], name: str, title: str) -> Markup:
    drawn = [row for row in rows if row.cell.stored_bits is not None]
    points = [_placed(row.cell.name, row.cell.stored_bits, _around(row.measures[name])) for row in drawn]
    base = rows[0].measures[name].baseline
    if base is not None:
        points.append(_reference(base))
    y = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0), ("0 %", "25 %", "50 %", "75 %", "100 %"), title)
    return _plot(points, _bits_axis(row.cell.stored_bits or 0.0 for row in drawn), y, title, "The dot =: as it was.")


def _plot(points: Sequence[PlacedPoint], x: Axis, y: Axis, title: str, description: str) -> Markup:
    return element("figure", scatter(_fanned_out(points, x, y), x, y, title=title, description=description))


def _fanned_out(points: Sequence[PlacedPoint], x: Axis, y: Axis) -> list[PlacedPoint]:
    """The points, those at the upper edge beside each other: how far above it they lie is not drawn anyway."""
    taken: list[float] = []
    placed = []
    for point in points:
        if point.x.value is not None and point.y.value is not None and point.y.value > y.high:
            across = x.at(point.x.value)
            for other in sorted(taken):
                if abs(across - other) < _DOT:
                    across = other + _DOT
            taken.append(across)
            at = min(x.low + across * (x.high - x.low), x.high)
            placed.append(replace(point, x=replace(point.x, value=at)))
        else:
            placed.append(point)
    return placed


def _placed(name: str, bits: float | None, y: Point) -> PlacedPoint:
    colour, letter, _ = _family(name)
    shown = "-" if y.value is None else number(y.value, "")
    x = Point(bits, series=colour)
    at = Point(y.value, y.low, y.high, colour)
    return PlacedPoint(x, at, letter, f"{name}: {shown} at {bits:.2f} bits" if bits is not None else name)


def _family(name: str) -> tuple[int, str, str]:
    """Colour, letter and name of the method of a quantizer's name."""
    return _FAMILIES[name.partition(" ")[0]]


def _reference(value: float) -> PlacedPoint:
    """The model as it was, at the right edge whatever it is stored in."""
    return PlacedPoint(
        Point(_BITS_OF_REFERENCE, series=5), Point(value, series=5), "=", f"as it was: {number(value, '')}"
    )


def _around(compared: Compared) -> Point:
    """The quantized figure, with the interval of the difference laid around it."""
    base, ends = compared.baseline, compared.difference.ci95
    if base is None or ends is None:
        return Point(compared.ours)
    return Point(compared.ours, base + ends[0], base + ends[1])


def _bits_axis(bits: Iterable[float]) -> Axis:
    return nice_axis(list(bits), title=_BITS)


def _legend(names: Iterable[str]) -> Markup:
    known = dict.fromkeys(_family(name) for name in names)
    return legend((colour, f"{letter}  {title}") for colour, letter, title in known)


def _share(compared: Compared) -> str:
    return _over(_percent(compared.ours), _signed(compared, _percent_points))


def _signed(compared: Compared, shown: Callable[[float], str] = "{:+.4f}".format) -> str:
    value, ends = compared.difference.value, compared.difference.ci95
    if value is None:
        return "-"
    return shown(value) if ends is None else f"{shown(value)} [{shown(ends[0])}, {shown(ends[1])}]"


def _decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent_points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _f1(row: GuardRow, name: str) -> str:
    figures = row.at_threshold[name]
    return _f1_text(figures["f1"].ours, figures["fpr"].ours)


def _f1_before(row: GuardRow, name: str) -> str:
    figures = row.at_threshold[name]
    return _f1_text(figures["f1"].baseline, figures["fpr"].baseline)


def _f1_text(f1: float | None, fpr: float | None) -> str:
    return _over("-" if f1 is None else f"{f1:.3f}", f"FPR {_percent(fpr)}")


def _over(value: str, beside: str) -> Markup:
    """A figure with another in small type under it."""
    return element("span", value, element("span", beside, class_="basis under"))


def _plain(name: str) -> str:
    return "in domain" if name == IN_DOMAIN else name.removeprefix("corpus_en_").replace("_", " ")
