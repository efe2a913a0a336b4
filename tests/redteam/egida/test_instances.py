"""Expansion with stable names, and splits that leak nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.redteam.egida.expand import BaseRequest, Expanded, expand, load_base
from corral.redteam.egida.split import CELLS, Split, SplitSettings, check_leaks, split_instances
from corral.redteam.egida.topics import topics
from corral.redteam.goals import Goal
from corral.redteam.styles import choose_styles

STYLES = choose_styles(["leet", "base64", "prefix_injection"])[0]
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


def base(n: int = 24) -> list[BaseRequest]:
    made = []
    for i in range(n):
        topic = ("kitchen", "garden", "cellar")[i % 3]
        text = f"Reveal the hidden colour of the {THINGS[i % 8]} in the {topic} number {i * 977}."
        made.append(BaseRequest(Goal(f"r{i}", text, category=topic, source="made up", licence="none"), (topic,)))
    return made


def made(requests: list[BaseRequest] | None = None, seed: int = 0) -> Expanded:
    return expand(requests or base(), STYLES, seed=seed)


def test_every_request_stands_in_every_style_with_its_provenance() -> None:
    rows = [each.to_json() for each in made(base(3)).instances]
    assert [(row["base_id"], row["style"]) for row in rows[:4]] == [
        ("r0", "plain"), ("r0", "leet"), ("r0", "base64"), ("r0", "prefix_injection"),
    ]  # fmt: skip
    assert rows[0]["messages"] == [{"role": "user", "content": base(1)[0].goal.text}]
    assert {row["source"] for row in rows} == {"made up"}
    assert rows[0]["topics"] == {"kitchen": True}
    assert len({row["uuid"] for row in rows}) == len(rows) == 12


def test_an_instance_depends_neither_on_order_nor_on_the_others() -> None:
    def named(expanded: Expanded) -> dict[str, str]:
        return {each.uuid: json.dumps(each.to_json()) for each in expanded.instances}

    whole = named(made())
    assert named(made(base()[::-1])) == whole
    assert named(made(base(3))).items() <= whole.items()
    assert not named(made(seed=1)).keys() & whole.keys()


def test_requests_without_a_topic_or_with_one_id_are_refused() -> None:
    with pytest.raises(DataError, match="no topic") as caught:
        made([*base(2), BaseRequest(Goal("r9", "Say it."), ())])
    assert caught.value.where == "r9"
    with pytest.raises(DataError, match="two requests"):
        made([*base(2), *base(1)])
    with pytest.raises(DataError, match="no base requests"):
        expand([], STYLES)


def test_base_requests_of_a_file_have_its_topics_or_its_category(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    rows = [
        {"goal": "Open the jar.", "topics": ["kitchen", "cellar"]},
        {"goal": "Ring the bell.", "topics": {"garden": True, "cellar": False}},
        {"goal": "Wind the clock.", "category": "Malware/Hacking"},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = load_base([str(path)])
    assert [request.topics for request in found] == [("kitchen", "cellar"), ("garden",), ("cybercrime",)]
    path.write_text(json.dumps({"goal": "x", "topics": 3}) + "\n")
    with pytest.raises(DataError, match="expected a list"):
        load_base([str(path)])
    with pytest.raises(NotFoundError):
        load_base(["nothing-of-that-name"])


def test_base_requests_about_sex_or_minors_are_left_out_whatever_their_category(tmp_path: Path) -> None:
    path = tmp_path / "base.jsonl"
    rows = [
        {"goal": "Ring the bell.", "category": "Malware/Hacking"},
        {"goal": "Write a letter to a 12-year-old.", "category": "Malware/Hacking"},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert [request.goal.text for request in load_base([str(path)])] == ["Ring the bell."]
    assert [request.goal.text for request in load_base([str(path)], limit=1)] == ["Ring the bell."]


def test_the_topic_file_has_the_published_keys_and_a_group_for_each() -> None:
    named = topics()
    assert len(named.names) == 27
    assert len(set(named.names)) == 27
    assert set(named.aliases) <= set(named.names)
    assert named.group_of("arson") == "fraud_and_property"
    assert named.of_category("Something new") == "something_new"


def split_of(expanded: Expanded, **changes: object) -> Split:
    settings = {"topics": ("cellar",), "styles": ("base64",), "test_share": 0.3, **changes}
    return split_instances(expanded.instances, SplitSettings(**settings))  # type: ignore[arg-type]


def test_the_four_cells_are_what_training_has_and_has_not_seen() -> None:
    split = split_of(made())
    assert all(each.style != "base64" and "cellar" not in each.base.topics for each in split.train)
    for cell, some in split.test.items():
        assert some
        for each in some:
            assert (each.style == "base64") == ("unseen style" in cell)
            assert ("cellar" in each.base.topics) == cell.startswith("unseen topic")
    assert len(split.train) + len(split.tested) + split.unused == len(made().instances)


def test_the_split_is_the_same_in_any_order_of_instances() -> None:
    there, back = split_of(made()), split_of(made(base()[::-1]))
    assert {each.uuid for each in there.train} == {each.uuid for each in back.train}
    assert there.clusters == back.clusters
    assert {each.uuid for each in split_of(made(), seed=5).train} != {each.uuid for each in there.train}


def test_near_duplicates_are_on_one_side() -> None:
    twin = BaseRequest(replace(base()[0].goal, id="twin", text=base()[0].goal.text.upper()), ("cellar",))
    split = split_of(made([*base(), twin]))
    assert split.clusters["twin"] == split.clusters["r0"]
    assert {"twin", "r0"} <= {each.base.id for each in split.tested}


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        ("request", "base request `.*` is on both sides"),
        ("cluster", "cluster of near duplicates"),
        ("style", "held-out style `base64` is in training"),
        ("topic", "held-out topic `cellar` is in training"),
        ("empty", "0 instances to train on"),
    ],
)
def test_every_planted_leak_fails(plant: str, message: str) -> None:
    split = split_of(made())
    first, tested = split.train[0], split.tested[0]
    planted = {
        "request": replace(split, train=(*split.train, replace(tested, uuid="other"))),
        "cluster": replace(split, clusters={**split.clusters, first.base.id: split.clusters[tested.base.id]}),
        "style": replace(split, train=(replace(first, style="base64"),)),
        "topic": replace(split, train=(replace(first, base=replace(first.base, topics=("cellar",))),)),
        "empty": replace(split, train=()),
    }[plant]
    with pytest.raises(DataError, match=message):
        check_leaks(planted)


def test_what_nothing_has_cannot_be_held_out() -> None:
    with pytest.raises(DataError, match="no request has the topic `attic`"):
        split_of(made(), topics=("attic",))
    with pytest.raises(ConfigError, match="no instance is in style `rot13`"):
        split_of(made(), styles=("rot13",))
    with pytest.raises(ConfigError, match="outside"):
        SplitSettings((), (), test_share=1.0)
    assert set(CELLS) == set(split_of(made()).test)
