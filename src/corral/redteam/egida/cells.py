"""Attack success on a split's test side: the four cells of seen and unseen, and style by topic.

An interval over rows of one base request in many styles would be far too narrow: all resample clusters of near
duplicates. Refusal of benign requests in the same styles stands beside attack success, since a model that refuses
everything would have none of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from corral.redteam.egida.split import CELLS, Split
from corral.redteam.egida.topics import topics
from corral.redteam.measures import rate, refuses, succeeds
from corral.redteam.results import Item
from corral.redteam.settings import RunSettings


def attack_table(items: Sequence[Item], split: Split, settings: RunSettings) -> dict[str, Any]:
    """Attack success of one system as plain JSON: by cell, by style, by coarse topic, and by both.

    Args:
        items: of a red-team run over the base requests of the test side and benign controls.
        split: what is seen and unseen.
        settings: seed and replicates of the run.
    """
    tested = {(each.base.id, each.style): cell for cell in CELLS for each in split.test[cell]}
    groups = {each.base.id: _group(each.base.topics) for each in split.tested}
    harmful = [_clustered(item, split.clusters) for item in items if (item.goal, item.style) in tested]
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


def _group(named: Sequence[str]) -> str:
    """The coarse group of a request: of its first topic."""
    return topics().group_of(named[0])


def _clustered(item: Item, clusters: Mapping[str, str]) -> Item:
    return item.model_copy(update={"cluster": clusters[item.goal]})
