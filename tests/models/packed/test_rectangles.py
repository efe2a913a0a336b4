"""Short segments in batched products against plain attention, in any order and length, beside long ones."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.models.packed.attention import KeysValues, PrefixAttention, Segment
from corral.models.packed.rectangles import LONGEST_SEGMENT, AttentionSizes, alike


def drawn(tokens: int, prefix: int, seed: int, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    query = scale * torch.randn(2, tokens, 3, 4, generator=generator)
    own = KeysValues(*torch.randn(2, 2, tokens, 4, generator=generator))
    before = KeysValues(*torch.randn(2, 2, prefix, 4, generator=generator)) if prefix else None
    return query, own, before


def plain(segments, query, own, before):
    """Each token by itself: softmax, to base 2, over the prefix and what comes before it in its segment."""
    expected = torch.empty_like(query)
    for segment in segments:
        for token in range(segment.start, segment.stop):
            seen = slice(segment.start, token + 1)
            for head in range(2):
                keys, values = own.keys[head, seen], own.values[head, seen]
                if before is not None:
                    keys, values = torch.cat([before.keys[head], keys]), torch.cat([before.values[head], values])
                weights = (query[head, token] @ keys.t() * math.log(2)).softmax(-1)
                expected[head, token] = weights @ values
    return expected


def attended(segments, prefix, query, own, before):
    attention = PrefixAttention([Segment(one, one) for one in segments], AttentionSizes(prefix, 2, 3, 4, torch.float32))
    attention(query, own, before)  # buffers are used again
    found = attention(query, own, before)
    return found.values_KQGE / found.sums_KQG[..., None]


def following(lengths):
    stops = torch.tensor(lengths).cumsum(0).tolist()
    return [slice(stop - length, stop) for length, stop in zip(lengths, stops, strict=True)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 19), min_size=1, max_size=9), st.integers(0, 11), st.integers(0, 99))
def test_segments_of_any_lengths_read_what_plain_attention_reads(lengths, prefix, seed):
    segments = following(lengths)
    drawing = drawn(sum(lengths), prefix, seed)
    assert attended(segments, prefix, *drawing) == pytest.approx(plain(segments, *drawing), abs=1e-5)


@pytest.mark.parametrize("lengths", [[5] * 4, [5] * 4 + [LONGEST_SEGMENT + 3], [LONGEST_SEGMENT + 1, 2, 3]])
def test_equal_segments_and_long_ones_beside_them(lengths):
    segments = following(lengths)
    drawing = drawn(sum(lengths), 2, 0)
    assert attended(segments, 2, *drawing) == pytest.approx(plain(segments, *drawing), abs=1e-5)


def test_texts_of_all_lengths_are_products_of_few_shapes(monkeypatch):
    """A product is compiled for every shape and kept: memory and time of a server that meets all lengths."""
    chance, shapes, multiply = random.Random(0), set(), torch.bmm

    def noted(first, second, **rest):
        shapes.add((*first.shape, second.shape[2]))
        return multiply(first, second, **rest)

    monkeypatch.setattr(torch, "bmm", noted)
    for _ in range(300):
        prefix = chance.randint(0, 30)
        lengths = [chance.randint(1, 64) for _ in range(chance.randint(1, 4))]
        if len(set(lengths)) == len(lengths):  # equal ones may be multiplied as they are
            attended(following(lengths), prefix, *drawn(sum(lengths), prefix, 0))
    assert len(shapes) < 120
    assert all(rows % 24 == 0 and columns % 8 == 0 for _, rows, columns, _ in shapes)


def test_scores_of_any_size_are_computed_with_care():
    segments = following([4, 4, 3])
    drawing = drawn(11, 2, 1, scale=300.0)
    assert attended(segments, 2, *drawing) == pytest.approx(plain(segments, *drawing), abs=1e-4)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 5000))
def test_groups_hold_every_segment_once_within_the_room(lengths, room):
    segments = following(lengths)
    groups = list(alike(segments, room=room, bytes_a_cell=2, prefix=3))
    assert sorted((s.start, s.stop) for group in groups for s in group) == [(s.start, s.stop) for s in segments]
    for group in groups:
        widths = [s.stop - s.start for s in group]
        assert max(widths) <= 1.25 * min(widths)
        assert len(group) == 1 or len(group) * max(widths) * (3 + max(widths)) * 2 <= room
