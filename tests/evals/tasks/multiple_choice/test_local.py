"""The packaged sets are balanced: neither position nor length gives the answer away."""

from __future__ import annotations

from collections import Counter

import pytest

from corral.core.errors import NotFoundError
from corral.evals.tasks.multiple_choice.local import LOCAL_SETS, local_set, local_sets


@pytest.mark.parametrize("name", LOCAL_SETS)
def test_right_answers_are_spread_evenly_over_positions(name):
    items = local_set(name).items
    assert 60 <= len(items) <= 150
    for choices in {len(item.choices) for item in items}:
        positions = Counter(item.answer for item in items if len(item.choices) == choices)
        assert max(positions.values()) - min(positions[i] for i in range(choices)) <= 3


@pytest.mark.parametrize("name", LOCAL_SETS)
def test_length_alone_is_no_better_than_guessing(name):
    of_set = local_set(name)
    for pick in (max, min):
        hits = 0.0
        for item in of_set.items:
            lengths = [len(choice) for choice in item.choices]
            best = [i for i, length in enumerate(lengths) if length == pick(lengths)]
            hits += (item.answer in best) / len(best)
        # Two standard errors of guessing, and a little.
        assert hits / len(of_set.items) <= of_set.chance + 0.16


@pytest.mark.parametrize("name", LOCAL_SETS)
def test_choices_of_an_item_differ_and_no_item_is_asked_twice(name):
    items = local_set(name).items
    for item in items:
        assert len(set(item.requests)) == len(item.requests)
    assert len({tuple(sorted(item.requests)) for item in items}) == len(items)


def test_partial_items_score_one_ending_after_two_beginnings():
    for item in local_set("refusal_contrast").items:
        assert len({ending for _, ending in item.requests}) == 1
        assert len({beginning for beginning, _ in item.requests}) == 2


def test_an_unknown_set_is_named_with_the_nearest():
    with pytest.raises(NotFoundError, match="grammar"):
        local_set("grammer")
    assert len(local_sets()) == len(LOCAL_SETS)
