"""Sampling follows the probabilities and the nucleus, and each row's own randomness."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from corral.core.errors import EngineError
from corral.models.engines.base import GenerationSettings
from corral.models.engines.sampling import next_tokens, row_random

PROBABILITIES = torch.tensor([0.1, 0.5, 0.15, 0.25])
LOGITS = PROBABILITIES.log()


def frequencies(settings, draws=4000):
    generators = [row_random(0, i) for i in range(draws)]
    counts = Counter(next_tokens(LOGITS.expand(draws, -1), settings, generators))
    return [counts[token] / draws for token in range(4)]


def test_temperature_zero_takes_the_largest_logit():
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 3.0, 1.0]])
    assert next_tokens(logits, GenerationSettings(), []) == [1, 0]


def test_frequencies_follow_the_probabilities():
    assert frequencies(GenerationSettings(temperature=1.0)) == pytest.approx(PROBABILITIES.tolist(), abs=0.03)


def test_temperature_divides_the_logits():
    expected = (LOGITS / 0.5).softmax(dim=-1).tolist()
    assert frequencies(GenerationSettings(temperature=0.5)) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.5, [1]), (0.51, [1, 3]), (0.76, [1, 2, 3]), (1e-9, [1])])
def test_the_nucleus_is_the_smallest_set_that_reaches_top_p(top_p, kept):
    total = PROBABILITIES[kept].sum()
    expected = [float(PROBABILITIES[i] / total) if i in kept else 0.0 for i in range(4)]
    assert frequencies(GenerationSettings(temperature=1.0, top_p=top_p)) == pytest.approx(expected, abs=0.03)


def test_a_draw_at_the_very_top_stays_inside_the_nucleus():
    class Top:
        def random(self):
            return 1.0 - 2**-53

    assert next_tokens(LOGITS[None], GenerationSettings(temperature=1.0, top_p=0.6), [Top()]) == [3]
    assert next_tokens(LOGITS[None], GenerationSettings(temperature=1.0), [Top()]) == [0]


def test_a_rows_randomness_is_its_own():
    assert row_random(1, 2).random() == row_random(1, 2).random()
    assert len({row_random(seed, index).random() for seed in range(3) for index in range(3)}) == 9


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_logits_that_are_not_finite_are_an_engine_error(bad):
    with pytest.raises(EngineError, match="not finite"):
        next_tokens(torch.tensor([[0.0, bad]]), GenerationSettings(), [])
