"""A share with the judge's error corrected for. Golden values are closed forms; coverage is by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import MetricError
from corral.core.judge_error import LabelledSample, corrected_share, rogan_gladen

NAN = float("nan")


def labelled(true_yes: int, missed: int, false_yes: int, true_no: int) -> LabelledSample:
    """Labelled answers by cell of the confusion matrix, each a cluster of its own."""
    truth = [1] * (true_yes + missed) + [0] * (false_yes + true_no)
    said = [1] * true_yes + [0] * missed + [1] * false_yes + [0] * true_no
    return LabelledSample(truth, said, range(len(truth)))


def of(yes: int, no: int, missing: int = 0) -> list[float]:
    return [1.0] * yes + [0.0] * no + [NAN] * missing


def test_rogan_and_gladens_formula() -> None:
    # (0.5 + 0.8 - 1) / (0.9 + 0.8 - 1) = 3 / 7
    share = corrected_share(of(50, 50), range(100), labelled(90, 10, 20, 80))
    assert share.judged.value == 0.5
    assert (share.sensitivity.value, share.specificity.value) == (0.9, 0.8)
    assert share.corrected.value == pytest.approx(3 / 7)
    assert share.corrected.ci95 is not None
    low, high = share.corrected.ci95
    assert low < 3 / 7 < high


@given(st.floats(0, 1), st.floats(0.55, 1), st.floats(0.55, 1))
def test_the_formula_undoes_what_the_judge_does(true: float, sensitivity: float, specificity: float) -> None:
    judged = true * sensitivity + (1 - true) * (1 - specificity)
    found = rogan_gladen(np.array([judged]), np.array([sensitivity]), np.array([specificity]))
    assert found[0] == pytest.approx(true, abs=1e-9)


def test_a_perfect_judge_changes_nothing_and_is_not_taken_for_certain() -> None:
    few, many = (corrected_share(of(30, 70), range(100), labelled(n, 0, 0, n)) for n in (10, 1000))
    assert few.judged.value == 0.3
    assert few.corrected.value == many.corrected.value == pytest.approx(0.3)
    widths = [share.corrected.ci95[1] - share.corrected.ci95[0] for share in (few, many)]  # type: ignore[index]
    assert widths[0] > 1.1 * widths[1]


def test_the_share_is_cut_to_what_a_share_can_be() -> None:
    share = corrected_share(of(18, 82), range(100), labelled(80, 20, 20, 80))
    assert share.corrected.value == 0.0  # fewer than its false alarms
    assert share.corrected.ci95 is not None
    assert share.corrected.ci95[0] == 0.0


def test_a_judge_no_better_than_chance_gives_nothing() -> None:
    share = corrected_share(of(50, 50), range(100), labelled(30, 70, 40, 60))
    assert share.corrected.value is None
    assert "no better than chance" in share.corrected.rule
    barely = corrected_share(of(50, 50), range(100), labelled(6, 4, 5, 5))
    assert barely.corrected.value is not None
    assert barely.corrected.ci95 is None
    assert "not shown" in barely.corrected.rule


def test_answers_without_a_label_are_left_out_counted_and_failed_closed() -> None:
    share = corrected_share(of(50, 50, 25), range(125), labelled(90, 10, 20, 80))
    assert (share.corrected.n, share.corrected.unscored) == (100, 25)
    assert share.corrected.value == pytest.approx(3 / 7)
    assert share.fail_closed.n == 125
    assert share.fail_closed.value == pytest.approx((100 * 3 / 7 + 25) / 125)
    only = corrected_share(of(0, 0, 4), range(4), labelled(90, 10, 20, 80))
    assert only.corrected.value is None
    assert only.fail_closed.value == 1.0


def test_what_is_settled_without_the_judge_is_left_as_it_is() -> None:
    """A guard replaces 60 of 100 answers by a refusal; the judge's error touches the other 40 alone."""
    said, settled = of(100, 0)[:60] + of(20, 20), [0.0] * 60 + [NAN] * 40
    share = corrected_share(said, range(100), labelled(90, 10, 20, 80), settled_N=settled)
    assert share.judged.value == 0.2
    assert share.corrected.value == pytest.approx(0.4 * 3 / 7)
    everything = corrected_share(of(10, 0), range(10), labelled(90, 10, 20, 80), settled_N=[0.0] * 10)
    assert everything.corrected.value == 0.0


def test_labels_that_cannot_explain_what_the_judge_says_give_no_interval() -> None:
    """It says yes of all, and found six in ten: nothing but another kind of answers explains that."""
    share = corrected_share(of(300, 0), range(300), labelled(60, 40, 10, 90))
    assert share.corrected.value == 1.0
    assert share.corrected.ci95 is None
    assert "another kind" in share.corrected.rule
    assert share.judged.ci95 == (pytest.approx(0.9874, abs=1e-3), 1.0)  # Wilson's


def test_a_share_that_is_settled_throughout_has_wilsons_interval() -> None:
    share = corrected_share(of(10, 0), range(10), labelled(90, 10, 20, 80), settled_N=[0.0] * 10)
    assert share.corrected.ci95 == share.judged.ci95 == (0.0, pytest.approx(0.2775, abs=1e-3))


def test_nothing_at_all_has_no_share() -> None:
    share = corrected_share([], [], labelled(9, 1, 2, 8))
    assert share.corrected.value is share.judged.value is share.fail_closed.value is None
    assert share.corrected.n == 0


def test_what_is_not_a_label_is_refused() -> None:
    good = labelled(9, 1, 2, 8)
    with pytest.raises(MetricError, match="neither 0, 1"):
        corrected_share([0.5], [0], good)
    with pytest.raises(MetricError, match="clusters"):
        corrected_share([1.0, 0.0], [0], good)
    with pytest.raises(MetricError, match="all of one kind"):
        labelled(9, 1, 0, 0)
    with pytest.raises(MetricError, match="labelled answers"):
        LabelledSample([1, 0], [1, 0], [0])


def test_the_interval_holds_the_true_share_as_often_as_it_says() -> None:
    """200 worlds with a true share of 0.3, a judge of 0.85 and 0.75, 150 answers and 120 labelled ones of each kind.

    Two standard errors of 95 % in 200 worlds are 3.1 points.
    """
    generator = np.random.default_rng(0)
    held, naive = 0, 0
    for world in range(200):
        truth = generator.random(150) < 0.3
        said = np.where(truth, generator.random(150) < 0.85, generator.random(150) < 0.25).astype(float)
        yes, false = generator.binomial(120, 0.85), generator.binomial(120, 0.25)
        share = corrected_share(
            said, range(150), labelled(yes, 120 - yes, false, 120 - false), seed=world, replicates=400
        )
        assert share.corrected.ci95 is not None
        assert share.judged.ci95 is not None
        held += share.corrected.ci95[0] <= 0.3 <= share.corrected.ci95[1]
        naive += share.judged.ci95[0] <= 0.3 <= share.judged.ci95[1]
    assert 0.90 <= held / 200 <= 0.99
    assert naive / 200 < 0.5
