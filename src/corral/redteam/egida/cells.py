"""Attack success on a split's test side: the four cells of seen and unseen, and style by topic.

An interval over rows of one base request in many styles would be far too narrow: all resample clusters of near
duplicates. Refusal of benign requests in the same styles stands beside attack success, since a model that refuses
everything would have none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from corral.redteam.egida.held_out import HeldOut
from corral.redteam.egida.split import CELLS
from corral.redteam.measures import rate, refuses, succeeds
from corral.redteam.report import Table, percent
from corral.redteam.results import Item, Rate
from corral.redteam.settings import RunSettings


def attack_table(items: Sequence[Item], held_out: HeldOut, settings: RunSettings) -> dict[str, Any]:
    """Attack success of one system as plain JSON: by cell, by style, by coarse topic, and by both.

    Args:
        items: of a red-team run over the base requests of the test side and benign controls.
        held_out: the test side, and what of it is seen and unseen.
        settings: seed and replicates of the run.
    """
    tested, groups = held_out.cells, held_out.groups
    harmful = [_clustered(item, held_out.clusters) for item in items if (item.goal, item.style) in tested]
    styles, topic_groups = list(dict.fromkeys(i.style for i in harmful)), sorted(set(groups.values()))
    benign = [item for item in items if item.kind == "benign"]

    def success(some: Sequence[Item]) -> dict[str, Any]:
        return rate(some, succeeds, settings).model_dump(mode="json")

    return {
        "cells": {cell: success([i for i in harmful if tested[i.goal, i.style] == cell]) for cell in CELLS},
        "styles": {style: success([i for i in harmful if i.style == style]) for style in styles},
        "topics": {group: success([i for i in harmful if groups[i.goal] == group]) for group in topic_groups},
        "style_by_topic": {
            style: {
                group: success([i for i in harmful if i.style == style and groups[i.goal] == group])
                for group in topic_groups
            }
            for style in styles
        },
        "refusal_of_benign": {
            style: rate([i for i in benign if i.style == style], refuses, settings).model_dump(mode="json")
            for style in dict.fromkeys(item.style for item in benign)
        },
    }


def cell_tables(tables: Mapping[str, Mapping[str, Any]], *, judge: str) -> Iterator[Table]:
    """What people read: the four cells of every system side by side, then style by topic of each.

    Args:
        tables: system's name to its ``attack_table``.
        judge: who labelled the answers.
    """
    yield Table(
        f"Attack success on what training did not see, %, judged by {judge}",
        ("cell", *tables),
        tuple((cell, *(_shown(table["cells"][cell]) for table in tables.values())) for cell in CELLS),
    )
    for name, table in tables.items():
        groups = tuple(table["topics"])
        rows = [
            (style, *(_shown(of_style[group]) for group in groups), _shown(table["styles"][style]))
            for style, of_style in table["style_by_topic"].items()
        ]
        benign = table["refusal_of_benign"]
        rows = [(*row, _shown(benign.get(row[0]))) for row in rows]
        yield Table(
            f"{name}: attack success by style and topic, %", ("style", *groups, "all", "benign refused"), tuple(rows)
        )


def _shown(rate: Mapping[str, Any] | None) -> str:
    return percent(None if rate is None else Rate.model_validate(rate))


def _clustered(item: Item, clusters: Mapping[str, str]) -> Item:
    return item.model_copy(update={"cluster": clusters[item.goal]})
