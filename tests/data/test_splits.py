"""Splits keep groups whole and do not depend on order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.data.splits import draw_groups, group_fraction, split_by_group


def rows(groups: list[int]) -> list[ModerationExample]:
    return [
        ModerationExample(Conversation.user(f"t{i}"), "prompt", id=str(i), group=str(g)) for i, g in enumerate(groups)
    ]


@given(groups=st.lists(st.integers(0, 9), max_size=50), share=st.floats(0, 1), seed=st.integers(0, 5))
def test_no_group_is_on_both_sides_and_no_row_is_lost(groups: list[int], share: float, seed: int) -> None:
    kept, held = split_by_group(rows(groups), held_out=share, seed=seed)
    assert {r.group for r in kept}.isdisjoint({r.group for r in held})
    assert sorted(r.id for r in (*kept, *held)) == sorted(str(i) for i in range(len(groups)))


def test_about_the_asked_share_is_held_out() -> None:
    _, held = split_by_group(rows(list(range(4000))), held_out=0.1, seed=1)
    assert 320 < len(held) < 480  # 400 expected, four standard deviations are 76


def test_the_fraction_depends_on_group_and_seed_alone() -> None:
    assert group_fraction("a", seed=0) == group_fraction("a", seed=0) != group_fraction("a", seed=1)


def test_a_draw_keeps_groups_whole_and_the_order_of_rows() -> None:
    given_rows = rows([i % 10 for i in range(30)])
    drawn = draw_groups(given_rows, 10, seed=0)
    groups = {row.group for row in drawn}
    assert len(drawn) == 9  # three groups of three; a fourth would exceed the limit
    assert drawn == [row for row in given_rows if row.group in groups]
    assert draw_groups(given_rows, 10, seed=1) != drawn
    assert draw_groups(given_rows, None, seed=0) == draw_groups(given_rows, 30, seed=0) == given_rows
