"""Drawing a training mixture: caps by group, labels overridden, evaluation text left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.data.mixture import MixtureEntry, build_mixture, sample_groups


def row(text: str, **fields: Any) -> ModerationExample:
    defaults = {"source": "made", "id": text, "group": text}
    return ModerationExample(Conversation.user(text), "prompt", **(defaults | fields))


def draw(rows: Iterable[ModerationExample], *entries: dict[str, Any], contaminated: Any = lambda _: False) -> Any:
    made = list(rows)
    built = [MixtureEntry.model_validate({"source": "made"} | entry) for entry in entries]
    return build_mixture(built, lambda _: made, contaminated=contaminated, seed=0)


def texts(mixture: Any) -> set[str]:
    return {example.text for example in mixture.rows}


def test_conditions_on_fields_and_upstream_columns_must_all_hold() -> None:
    rows = [
        row("a", harmful=True, raw={"kind": "x"}),
        row("b", harmful=True, raw={"kind": "y"}),
        row("c", harmful=False),
    ]
    assert texts(draw(rows, {"where": {"harmful": True, "kind": ["x", "z"]}})) == {"a"}


def test_rows_of_evaluation_sets_are_left_out_and_counted() -> None:
    rows = [row("seen", eval_overlap=("bench",)), row("near copy"), row("new")]
    mixture = draw(rows, {}, contaminated=lambda text: text == "near copy")
    assert texts(mixture) == {"new"}
    ((_, counts),) = mixture.counts
    assert (counts.available, counts.overlapping, counts.contaminated, counts.taken) == (3, 1, 1, 1)


def test_an_earlier_entry_keeps_its_rows() -> None:
    rows = [row("a", harmful=True), row("b", harmful=False)]
    mixture = draw(rows, {"where": {"harmful": True}}, {})
    assert [example.text for example in mixture.rows] == ["a", "b"]


def test_a_row_of_a_category_may_be_said_to_be_in_no_other() -> None:
    entry = {"category": "llama_guard_3/S12", "sole_category": True}
    (alone,) = draw([row("a")], entry).rows
    assert [code for code, member in alone.categories.items() if member] == ["llama_guard_3/S12"]
    assert len(alone.categories) == 14
    (nothing_said,) = draw([row("a")], {"sole_category": True}).rows
    assert nothing_said.categories == row("a").categories


def test_labels_and_categories_are_overridden() -> None:
    (changed,) = draw([row("a", attack=None)], {"label": {"harmful": True}, "category": "llama_guard_3/S12"}).rows
    assert changed.harmful is True
    assert changed.categories == {"llama_guard_3/S12": True}


def test_long_rows_can_be_left_out() -> None:
    assert texts(draw([row("short"), row("l" * 50)], {"max_chars": 10})) == {"short"}


def test_an_entry_that_takes_nothing_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"mixture\[0\]"):
        draw([row("a", harmful=False)], {"where": {"harmful": True}})


def test_an_unknown_label_is_an_error() -> None:
    with pytest.raises(ConfigError, match="`rude`"):
        draw([row("a")], {"label": {"rude": True}})


@given(groups=st.lists(st.integers(0, 5), min_size=1, max_size=40), cap=st.integers(1, 40))
def test_a_cap_takes_every_group_once_before_any_twice(groups: list[int], cap: int) -> None:
    rows = [row(str(i), group=str(group)) for i, group in enumerate(groups)]
    chosen = sample_groups(rows, cap, rng=np.random.default_rng(0))
    assert len(chosen) == min(cap, len(rows))
    sizes = {group: groups.count(group) for group in set(groups)}
    taken = {group: sum(example.group == str(group) for example in chosen) for group in sizes}
    most = max(taken.values())
    assert all(count >= min(size, most - 1) for (group, size), count in zip(sizes.items(), taken.values(), strict=True))


def test_the_draw_is_the_same_every_time() -> None:
    rows = [row(str(i)) for i in range(100)]
    assert draw(rows, {"cap": 10}).rows == draw(rows, {"cap": 10}).rows


def test_a_share_shrinks_every_entry_alike() -> None:
    rows = [row(f"h{i}", harmful=True) for i in range(10)] + [row(f"b{i}", harmful=False) for i in range(40)]
    entries = [
        MixtureEntry(source="made", where={"harmful": True}),
        MixtureEntry(source="made", where={"harmful": False}, cap=20),
    ]
    mixture = build_mixture(entries, lambda _: rows, contaminated=lambda _: False, seed=0, share=0.25)
    assert [counts.taken for _, counts in mixture.counts] == [3, 5]
