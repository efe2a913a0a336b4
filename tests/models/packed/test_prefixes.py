"""Which prefixes are computed once, against all cuts; and a cache that forgets what was used longest ago."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from corral.models.packed import prefixes
from corral.models.packed.attention import KeysValues
from corral.models.packed.prefixes import PrefixCache, best_prefixes, shared_length

short = st.lists(st.integers(0, 1), min_size=1, max_size=8)


def arrays(*sequences):
    return [np.array(sequence) for sequence in sequences]


def states(tokens):
    """Two layers of one key head of size 1 that say which token they are of."""
    values = torch.arange(tokens, dtype=torch.float32).view(1, tokens, 1)
    return (KeysValues(values, values), KeysValues(values, values))


def cost(sequences, group):
    """Tokens of a pass over a group, its common prefix computed once, and of the pass itself."""
    common = min(len(sequence) - 1 for sequence in (sequences[i] for i in group))
    for i, j in itertools.pairwise(group):
        common = min(common, shared_length(sequences[i], sequences[j]))
    shared = common if len(group) > 1 else 0
    return 2 + shared + sum(len(sequences[i]) - shared for i in group)


@given(st.lists(short, min_size=1, max_size=6))
def test_no_cuts_of_the_sorted_sequences_are_cheaper(sequences):
    order = sorted(range(len(sequences)), key=sequences.__getitem__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefixes, "_PASS_COST", 2)
        patch.setattr(prefixes, "_WORTH_KEEPING", 1)
        groups = best_prefixes(arrays(*sequences), [0] * len(sequences))
    cheapest = math.inf
    for cuts in itertools.product([False, True], repeat=len(order) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(order)]
        groupings = [order[start:stop] for start, stop in itertools.pairwise(edges)]
        cheapest = min(cheapest, sum(cost(arrays(*sequences), group) for group in groupings))
    ours = sum(2 + g.tokens + sum(len(sequences[i]) - g.tokens for i in g.members) for g in groups)
    assert ours <= cheapest


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=60), min_size=1, max_size=12), st.data())
def test_groups_share_their_prefix_and_never_a_last_token(sequences, data):
    known = [data.draw(st.integers(0, len(sequence) - 1)) for sequence in sequences]
    groups = best_prefixes(arrays(*sequences), known)
    assert sorted(i for group in groups for i in group.members) == list(range(len(sequences)))
    for tokens, members in groups:
        assert len({tuple(sequences[i][:tokens]) for i in members}) == 1
        assert all(tokens < len(sequences[i]) for i in members)


def test_two_policies_are_two_groups():
    first, second = [1] * 100, [2] * 80
    sequences = arrays(*([*policy, 3, i, i] for i in range(3) for policy in (first, second)))
    groups = sorted(best_prefixes(sequences, [0] * 6), key=lambda group: group.tokens)
    assert [(group.tokens, group.members) for group in groups] == [(81, (1, 3, 5)), (101, (0, 2, 4))]


def test_what_is_known_is_not_lengthened_by_a_few_tokens():
    sequences = arrays([*[1] * 100, 5, 5, 6], [*[1] * 100, 5, 5, 7])
    (group,) = best_prefixes(sequences, [100, 100])
    assert group.tokens == 100


def test_the_longest_known_beginning_is_found():
    cache = PrefixCache(10**6)
    cache.keep(np.array([1, 2, 3, 4]), states(4))
    cache.keep(np.array([1, 9]), states(2))
    found = cache.find(np.array([1, 2, 3, 7, 8]))
    assert cache.covered(np.array([1, 2, 3, 7, 8])) == 3
    assert found[0].keys.flatten().tolist() == [0, 1, 2]
    assert cache.find(np.array([5])) == ()


def test_a_longer_prefix_takes_the_place_of_those_it_begins_with():
    cache = PrefixCache(10**6)
    cache.keep(np.array([1, 2]), states(2))
    cache.keep(np.array([1, 2, 3]), states(3))
    assert len(cache) == 1


def test_what_was_used_longest_ago_is_dropped_first():
    cache = PrefixCache(2 * 10 * 16)  # two prefixes of ten tokens
    first, second, third = (np.full(10, i) for i in range(3))
    cache.keep(first, states(10))
    cache.keep(second, states(10))
    cache.find(first)
    cache.keep(third, states(10))
    assert [cache.covered(ids) for ids in (first, second, third)] == [10, 0, 10]


def test_a_prefix_larger_than_the_cache_is_not_kept():
    cache = PrefixCache(100)
    cache.keep(np.full(10, 1), states(10))
    assert len(cache) == 0
