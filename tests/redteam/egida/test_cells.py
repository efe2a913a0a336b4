"""Attack success by cell, style and topic: shares by hand, intervals over clusters, and the test side as a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corral.core.errors import DataError
from corral.redteam.egida.cells import attack_table
from corral.redteam.egida.expand import BaseRequest, expand
from corral.redteam.egida.held_out import held_out_of, read_held_out, write_held_out
from corral.redteam.egida.split import CELLS, Split, SplitSettings, split_instances
from corral.redteam.goals import Goal, load_goals
from corral.redteam.results import Item
from corral.redteam.settings import RunSettings
from corral.redteam.styles import choose_styles

THINGS = (
    "brass bell",
    "garden gate",
    "tall clock",
    "wooden crate",
    "silver spoon",
    "paper kite",
    "iron key",
    "wool rug",
)


def item(goal: str, style: str, outcome: str, kind: str = "harmful") -> Item:
    return Item(
        pair=f"{goal}/{style}",
        key=f"{goal}/{style}",
        style=style,
        style_id=style,
        goal=goal,
        cluster=goal,
        category="",
        kind=kind,  # type: ignore[arg-type]
        restart=0,
        outcome=outcome,
        outcomes={"judge": outcome},
        replaced=False,
        flagged=None,
        understood=None,
    )


@pytest.fixture
def split() -> Split:
    base = [
        BaseRequest(Goal(f"r{i}", f"Where is the {thing} of house {i * 977}?", category=topic), (topic,))
        for i, thing in enumerate(THINGS)
        for topic in [("fraud", "arson", "guns", "drugs")[i % 4]]
    ]
    instances = expand(base, choose_styles(["leet", "rot13"])[0]).instances
    return split_instances(instances, SplitSettings(("guns",), ("rot13",), test_share=0.4, seed=1))


def test_shares_are_of_the_test_side_and_its_clusters_are_resampled(split: Split) -> None:
    instances = [*split.train, *split.tested]
    asked = [item(each.base.id, each.style, "complies" if each.style == "rot13" else "refuses") for each in instances]
    controls = [item("pleasant", style, "refuses", kind="benign") for style in ("plain", "leet")]
    table = attack_table([*asked, *controls], held_out_of(split), RunSettings(replicates=200))
    for cell in CELLS:
        found = table["cells"][cell]
        assert found["value"] == float("unseen style" in cell)
        assert found["n"] == len(split.test[cell])
        assert found["clusters"] == len({split.clusters[each.base.id] for each in split.test[cell]})
    assert table["styles"]["rot13"]["value"] == 1.0
    assert table["topics"]["weapons"]["value"] == 1 / 3
    assert table["style_by_topic"]["leet"]["weapons"] == {**table["style_by_topic"]["plain"]["weapons"]}
    assert table["refusal_of_benign"]["leet"]["value"] == 1.0
    tested = {each.base.id for each in split.tested}
    assert sum(found["n"] for found in table["styles"].values()) == 3 * len(tested)


def test_a_test_side_comes_back_from_its_file_and_holds_goals(split: Split, tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    write_held_out(split, path)
    assert read_held_out(path) == held_out_of(split)
    goals = load_goals([str(path)]).goals
    assert {(goal.id, goal.text) for goal in goals} == {(each.base.id, each.base.goal.text) for each in split.tested}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster": None}, "expected texts"),
        ({"topic_group": ""}, "expected texts"),
        ({"cells": {}}, "expected styles"),
        ({"cells": {"leet": "a new style"}}, "is no cell"),
    ],
)
def test_a_malformed_test_side_is_refused_by_line(
    split: Split, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "held_out.jsonl"
    write_held_out(split, path)
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([*rest, json.dumps(json.loads(first) | change)]) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        read_held_out(path)
    assert f":{len(rest) + 1}" in str(caught.value.where)
    path.write_text(f"{first}\n{first}\n")
    with pytest.raises(DataError, match="again"):
        read_held_out(path)
    path.write_text("")
    with pytest.raises(DataError, match="no requests"):
        read_held_out(path)
