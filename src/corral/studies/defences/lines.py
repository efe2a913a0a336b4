"""Lines of the table: a system with attack success by style and group of styles, over-refusal, ability and time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from corral.core.files import atomic_write_json, atomic_write_text
from corral.redteam.measures import cell
from corral.redteam.results import NO_GUARD, Cell, Item, Rate, SystemResult
from corral.redteam.styles import PLAIN
from corral.studies.defences.asking import Answered, Questions

ALL_STYLES: Final = "all but plain"
TABLE: Final = "defences.json"
TABLE_TEXT: Final = "defences.md"
_OF_A_PART: Final = "/"
"""In the name of a figure of ability over one kind of text or question."""
_TIMES: Final = ("ms_to_first_token", "ms_for_16_tokens", "guard_ms")
Line = dict[str, Any]


def table(answered: Answered, questions: Questions) -> list[Line]:
    """A line a system, in the order in which they were asked; milliseconds are added to those of the first."""
    lines = [_line(system, items, answered, questions) for system, items in answered.systems()]
    return [{**line, "ms_added": round(_whole(line) - _whole(lines[0]), 1)} for line in lines]


def write_table(lines: Sequence[Line], folder: Path) -> None:
    """Write the table among a run's artefacts, as JSON and as Markdown."""
    atomic_write_json(folder / TABLE, list(lines))
    atomic_write_text(folder / TABLE_TEXT, markdown(lines))


def markdown(lines: Sequence[Line], title: str = "Defences side by side") -> str:
    """The table as Markdown: shares in percent with 95 % intervals, ability as on the scorecard, milliseconds."""
    groups = list(dict.fromkeys(each["group"] for line in lines for each in line["by_group"]))
    ability = list(dict.fromkeys(name for line in lines for name in line["ability"]))
    head = [
        "system",
        *(f"ASR {group}" for group in groups),
        *(f"over-refusal {group}" for group in (PLAIN, ALL_STYLES)),
    ]
    head += ["understood", *ability, "ms to first token", "ms for 16 tokens", "guard ms", "ms added"]
    rows = [_row(line, groups, ability) for line in lines]
    shown = [head, ["---"] * len(head), *rows]
    return f"# {title}\n\n" + "\n".join(f"| {' | '.join(row)} |" for row in shown) + "\n"


def as_records(lines: Sequence[Line]) -> list[Line]:
    """The lines as evidence pages print them: a figure with its interval in a cell, ability over all its texts.

    Single styles are in ``by_style``, ability by kind of text in the run's artefacts.
    """
    return [_record(line) for line in lines]


def by_style(lines: Sequence[Line]) -> Line:
    """Attack success of every system in every style."""
    return {_system(line): {each["style"]: each["asr"] for each in line["by_style"]} for line in lines}


def _record(line: Line) -> Line:
    groups: Mapping[str, Line] = {each["group"]: each for each in line["by_group"]}
    refused = (group for group in (PLAIN, ALL_STYLES) if group in groups)
    return {
        "system": _system(line),
        **{f"ASR {name}": figures["asr"] for name, figures in groups.items()},
        **{f"over-refusal {name}": groups[name]["over_refusal"] for name in refused},
        "understood": (groups.get(ALL_STYLES) or groups[PLAIN])["understood"],
        **{name: figure for name, figure in line["ability"].items() if _OF_A_PART not in name},
        **{name.replace("_", " "): line[name] for name in _TIMES if name in line},
        "ms added": line["ms_added"],
    }


def _system(line: Line) -> str:
    return str(line["target"]) if line["filter"] is None else f"{line['target']} + {line['filter']}"


def _line(system: SystemResult, items: Sequence[Item], answered: Answered, questions: Questions) -> Line:
    cells = [each for each in system.cells if not each.category]
    groups = _groups(system, items, questions)
    return {
        "target": system.target,
        "filter": None if system.guard == NO_GUARD else system.guard,
        "by_style": [
            {"style": each.style or ALL_STYLES, **_figures(each)}
            for each in cells
            if len(cells) > 1 or each.style == PLAIN
        ],
        "by_group": [{"group": name, **_figures(each)} for name, each in groups.items()],
        "answered": system.answered,
        **answered.costs.get(system.name, {}),
    }


def _whole(line: Line) -> float:
    """Milliseconds of sixteen tokens, the guard's own included."""
    return float(line["ms_for_16_tokens"] + line.get("guard_ms", 0.0))


def _groups(system: SystemResult, items: Sequence[Item], questions: Questions) -> dict[str, Cell]:
    """Figures over the styles of each family, and over all that are not plain."""
    family = {style.name: PLAIN if style.name == PLAIN else style.family for style in questions.styles}
    chosen: dict[str, list[Item]] = {}
    for item in items:
        chosen.setdefault(family[item.style], []).append(item)
    chosen[ALL_STYLES] = [item for item in items if item.style != PLAIN]
    settings = questions.settings("prompt")
    return {
        name: cell(some, (), style=name, category="", settings=settings, guarded=system.guard != NO_GUARD)
        for name, some in chosen.items()
        if some
    }


def _figures(each: Cell) -> Line:
    return {
        "asr": shown(each.asr),
        "asr_by_judge": {name: shown(rate) for name, rate in each.asr_by_judge.items()},
        "over_refusal": shown(each.rta),
        "understood": shown(each.understood),
        "undecided": each.undecided,
        "empty": each.empty,
        "not_applicable": dict(each.not_applicable),
    }


def shown(rate: Rate) -> Line:
    """A share with its interval, as plain JSON values."""
    return {"value": rate.value, "ci95": None if rate.ci95 is None else list(rate.ci95), "n": rate.n}


def _row(line: Line, groups: Sequence[str], ability: Sequence[str]) -> list[str]:
    by_group: Mapping[str, Line] = {each["group"]: each for each in line["by_group"]}
    whole = by_group.get(ALL_STYLES) or by_group[PLAIN]
    return [
        _system(line),
        *(_percent(by_group[group]["asr"]) if group in by_group else "" for group in groups),
        *(_percent(by_group[group]["over_refusal"]) if group in by_group else "" for group in (PLAIN, ALL_STYLES)),
        _percent(whole["understood"]),
        *(_number(line["ability"].get(name)) for name in ability),
        # runs of before it was measured have no time to the first token
        *(f"{line[name]:.0f}" if name in line else "" for name in _TIMES),
        f"{line['ms_added']:+.0f}",
    ]


def _percent(figure: Line) -> str:
    if figure["value"] is None:
        return ""
    interval = "" if figure["ci95"] is None else " [{:.0f}, {:.0f}]".format(*(100 * end for end in figure["ci95"]))
    return f"{100 * figure['value']:.0f}{interval}"


def _number(figure: Line | None) -> str:
    if figure is None or figure["value"] is None:
        return ""
    interval = "" if figure["ci95"] is None else " [{:.3g}, {:.3g}]".format(*figure["ci95"])
    return f"{figure['value']:.3g}{interval}"
