from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from corral.core.stats import wilson
from corral.evals.compare.pairing import change, pair, tone
from corral.evals.tasks.formulas import ExpRatioOfSums, Mean, Peak, RateAt
from corral.evals.tasks.task import Measure, SampleScore

ACCURACY = Measure(
    name="accuracy", title="Accuracy", unit="share", higher_is_better=True, area="ability", formula=Mean(value="v")
)
PERPLEXITY = Measure(
    name="perplexity",
    title="Perplexity",
    unit="",
    higher_is_better=False,
    area="ability",
    formula=ExpRatioOfSums(numerator="nats", denominator="tokens"),
)


def samples(*values: float | None) -> list[SampleScore]:
    return [SampleScore(f"s{i}", f"c{i}", {"v": value}) for i, value in enumerate(values)]


def texts(*nats: float) -> list[SampleScore]:
    return [SampleScore(f"s{i}", f"c{i}", {"nats": value, "tokens": 10.0}) for i, value in enumerate(nats)]


BITS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=2, max_size=25)


@given(BITS)
def test_the_difference_is_the_other_minus_the_baseline(rows: list[tuple[int, int]]) -> None:
    found = change("B", ACCURACY, samples(*[float(a) for a, _ in rows]), samples(*[float(b) for _, b in rows]))
    assert found.difference.value == pytest.approx(np.mean([b - a for a, b in rows]))
    assert found.difference.ci95 is not None
    low, high = found.difference.ci95
    assert -1 <= low <= found.difference.value + 1e-12 and found.difference.value - 1e-12 <= high <= 1


@given(BITS)
def test_mcnemar_is_the_exact_binomial_test_of_the_samples_that_changed(rows: list[tuple[int, int]]) -> None:
    found = change("B", ACCURACY, samples(*[float(a) for a, _ in rows]), samples(*[float(b) for _, b in rows]))
    gained, lost = rows.count((0, 1)), rows.count((1, 0))
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert found.mcnemar_p == pytest.approx(expected)


def test_pairing_tells_a_small_change_from_the_spread_between_samples() -> None:
    rng = np.random.default_rng(0)
    spread = rng.normal(100, 30, size=60)
    found = change("B", PERPLEXITY, texts(*spread), texts(*(spread + rng.normal(2, 0.5, size=60))))
    assert found.baseline.ci95 is not None and found.other.ci95 is not None
    assert found.other.ci95[0] < found.baseline.ci95[1]  # each by itself could not tell
    assert found.tone == "worse"


def test_the_relative_change_is_a_ratio_on_the_same_resamples() -> None:
    found = change("B", PERPLEXITY, texts(10.0, 20.0, 30.0), texts(20.0, 30.0, 40.0))
    assert found.relative is not None
    # exp((60 + 30) / 30) / exp(60 / 30) = e for every resample, since each text moved by one nat a token
    assert found.relative.value == pytest.approx(np.e - 1)
    assert found.relative.ci95 == pytest.approx((np.e - 1, np.e - 1))
    assert found.mcnemar_p is None


def test_shares_have_no_relative_change() -> None:
    assert change("B", ACCURACY, samples(0.0, 1.0), samples(1.0, 1.0)).relative is None


def test_systems_that_never_differ_are_not_shown_to_be_equal() -> None:
    same = samples(*[1.0, 0.0] * 10)
    found = change("B", ACCURACY, same, same)
    slack = wilson(0, 20).high
    assert found.difference.value == 0.0
    assert found.difference.ci95 == (-slack, slack)  # type: ignore[operator]
    assert found.tone == "open"


def test_a_rate_that_no_counted_row_changed_has_wilsons_reach_over_those_rows() -> None:
    measure = ACCURACY.model_copy(update={"formula": RateAt(truth="t", flagged="f", rate="recall")})

    def rows(flag_negatives: float) -> list[SampleScore]:
        return [
            SampleScore(f"s{i}", f"c{i}", {"t": float(i < 5), "f": 1.0 if i < 5 else flag_negatives}) for i in range(30)
        ]

    found = change("B", measure, rows(0.0), rows(1.0))
    slack = wilson(0, 5).high
    assert found.difference.ci95 == (-slack, slack)  # type: ignore[operator]


def test_only_samples_that_both_could_score_are_paired() -> None:
    paired = pair(ACCURACY, samples(1.0, None, 0.0), [*samples(1.0, 1.0), SampleScore("x", "x", {"v": 1.0})])
    assert [sample.id for sample in paired.ours] == ["s0"]
    assert paired.left_out == 3
    assert change("B", ACCURACY, samples(1.0, None, 0.0), samples(0.0, 1.0)).difference.unscored == 2


def test_an_unscored_sample_that_counts_as_something_stays() -> None:
    measure = ACCURACY.model_copy(update={"unscored_as": 0.0})
    found = change("B", measure, samples(1.0, None), samples(1.0, 1.0))
    assert (found.difference.value, found.difference.n, found.difference.unscored) == (0.5, 2, 1)


def test_samples_are_matched_by_id_and_not_by_place() -> None:
    assert change("B", ACCURACY, samples(1.0, 0.0), list(reversed(samples(1.0, 0.0)))).difference.value == 0.0


def test_peak_memory_has_a_difference_without_an_interval() -> None:
    measure = PERPLEXITY.model_copy(update={"formula": Peak(value="v"), "unit": "MB"})
    found = change("B", measure, samples(100.0, 200.0), samples(300.0, 100.0))
    assert (found.difference.value, found.difference.ci95, found.tone) == (100.0, None, "open")
    assert found.relative is not None and found.relative.value == pytest.approx(0.5)


def test_nothing_shared_is_undefined_and_open() -> None:
    found = change("B", ACCURACY, samples(1.0), [SampleScore("other", "c", {"v": 1.0})])
    assert (found.difference.value, found.difference.n, found.tone) == (None, 0, "open")


@pytest.mark.parametrize(
    ("ci95", "higher_is_better", "said"),
    [
        ((0.1, 0.2), True, "better"),
        ((0.1, 0.2), False, "worse"),
        ((-0.2, -0.1), True, "worse"),
        ((-0.2, -0.1), False, "better"),
        ((-0.1, 0.1), True, "open"),
        ((0.0, 0.1), True, "open"),
        ((0.1, 0.2), None, "open"),
        (None, True, "open"),
    ],
)
def test_the_tone_follows_the_interval(
    ci95: tuple[float, float] | None, higher_is_better: bool | None, said: str
) -> None:
    assert tone(ci95, higher_is_better) == said


def test_an_interval_that_the_exact_test_does_not_back_shows_no_change() -> None:
    assert tone((-0.6, -0.1), True, 0.06) == "open"
    assert tone((-0.6, -0.1), True, 0.03) == "worse"


def test_a_figure_that_may_be_negative_has_no_relative_change() -> None:
    margin = PERPLEXITY.model_copy(update={"formula": Mean(value="v"), "unit": "nats"})
    assert change("B", margin, samples(2.0, -1.0), samples(1.0, 1.0)).relative is None
    assert change("B", margin, samples(2.0, 1.0), samples(1.0, 1.0)).relative is not None
