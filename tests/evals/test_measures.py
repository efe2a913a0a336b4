from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from corral.evals.measures import FIGURES, measure, point
from corral.evals.scored import ScoredSet
from corral.evals.tasks.eval_set import EvalSet, harmful
from corral.evals.tasks.moderation_sets import SETS

Make = Callable[..., ScoredSet]
FAST = 200

# Ranked: 0.9 (1), 0.8 (1), 0.6 (0), 0.4 (1), 0.2 (0), 0.1 (0); at 0.5 two hits, one miss, one false alarm.
TRUTH = [1, 1, 0, 0, 0, 1]
SCORES = [0.9, 0.4, 0.6, 0.1, 0.2, 0.8]


def test_six_rows_by_hand(scored_set: Make) -> None:
    result = measure(scored_set(TRUTH, SCORES), replicates=FAST)
    values = {name: figure.value for name, figure in result.figures.items()}
    assert list(values) == list(FIGURES["mixed"])
    assert values["ap"] == pytest.approx(1 / 3 + 1 / 3 + 1 / 3 * 3 / 4)
    assert values["auroc"] == pytest.approx(8 / 9)
    assert values["precision"] == values["recall"] == values["f1"] == pytest.approx(2 / 3)
    assert values["flag_all_f1"] == pytest.approx(2 * 0.5 / 1.5)
    assert values["f1_minus_flag_all"] == pytest.approx(0.0)
    assert values["fpr"] == pytest.approx(1 / 3)
    assert values["accuracy"] == pytest.approx(4 / 6)
    assert values["brier"] == pytest.approx((0.1**2 + 0.6**2 + 0.6**2 + 0.1**2 + 0.2**2 + 0.2**2) / 6)
    assert values["recall_at_fpr_1"] is None  # fewer than 30 negatives
    assert result.floor == 0.5
    assert result.lift == pytest.approx((11 / 12 - 0.5) / 0.5)
    # (n - 1)/(N - 1) + (H_N / N)(N - n)/(N - 1) with n = 3, N = 6, H_6 = 2.45
    assert result.expected_random_ap == pytest.approx(2 / 5 + 2.45 / 6 * 3 / 5)
    counts = result.confusion
    assert (counts.tp, counts.fp, counts.fn, counts.tn) == (2, 1, 1, 2)
    assert (result.n, result.positives, result.clusters, result.unscored) == (6, 3, 6, 0)
    assert (result.latency_ms_p50, result.latency_ms_p95) == (2.5, 4.75)


def test_every_figure_carries_n_and_an_interval_around_it(scored_set: Make) -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random(300) < 0.4).astype(int)
    scores = np.clip(generator.normal(0.3 + 0.3 * truth, 0.2), 0, 1)
    result = measure(scored_set(truth.tolist(), scores.tolist()), replicates=FAST)
    for figure in result.figures.values():
        assert figure.n == 300
        assert figure.ci95 is not None
        assert figure.value is not None
        assert figure.rule
    assert (result.figures["f1_minus_flag_all"].ci95 or (0, 0))[0] > 0
    low, high = result.figures["auroc"].ci95 or (0, 0)
    assert low < (result.figures["auroc"].value or 0) < high


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=4, max_size=40))
def test_points_agree_with_scikit_learn(rows: list[tuple[bool, int]]) -> None:
    truth = np.array([int(t) for t, _ in rows], dtype=np.int8)
    scores = np.array([s / 8 for _, s in rows])
    if 0 < truth.sum() < len(truth):
        assert point("ap", truth, scores) == pytest.approx(average_precision_score(truth, scores))
        assert point("auroc", truth, scores) == pytest.approx(roc_auc_score(truth, scores))
        assert point("f1", truth, scores) == pytest.approx(f1_score(truth, scores >= 0.5, zero_division=0))


def test_repeated_prompts_are_one_cluster(scored_set: Make) -> None:
    prompts = ["the same prompt"] * 4 + ["another", "The SAME prompt!"]
    result = measure(scored_set(TRUTH, SCORES, prompts=prompts), replicates=FAST)
    assert result.clusters == 2
    assert result.figures["ap"].clusters == 2


def test_repeating_rows_widens_nothing_when_clusters_are_resampled(scored_set: Make) -> None:
    generator = np.random.default_rng(1)
    truth = (generator.random(100) < 0.5).astype(int).tolist()
    scores = generator.random(100).tolist()
    prompts = [f"prompt {i}" for i in range(100)]
    once = measure(scored_set(truth, scores, prompts=prompts), replicates=500).figures["accuracy"]
    four = measure(scored_set(truth * 4, scores * 4, prompts=prompts * 4), replicates=500).figures["accuracy"]
    assert four.ci95 == pytest.approx(once.ci95)


def test_an_all_positive_set_shows_recall_and_the_f1_that_follows_from_it(scored_set: Make) -> None:
    result = measure(scored_set([1] * 8, [0.9] * 6 + [0.1] * 2, name="strongreject"), replicates=FAST)
    assert list(result.figures) == ["recall", "f1"]
    recall = result.figures["recall"].value
    assert recall == 0.75
    assert result.figures["f1"].value == pytest.approx(2 * recall / (1 + recall))
    assert result.floor is None


def test_a_benign_set_shows_the_false_positive_rate_alone(scored_set: Make) -> None:
    result = measure(scored_set([0] * 8, [0.9] + [0.1] * 7, name="benign_oktest"), replicates=FAST)
    assert list(result.figures) == ["fpr"]
    assert result.figures["fpr"].value == 0.125


def test_unscored_rows_count_as_flagged_and_all_three_ways_are_shown(scored_set: Make) -> None:
    result = measure(scored_set([*TRUTH, 1, 0], [*SCORES, None, None]), replicates=FAST)
    assert result.unscored == 2
    assert result.unscored_counted_as == "positive"
    assert result.figures["recall"].value == pytest.approx(3 / 4)
    assert result.figures["fpr"].value == pytest.approx(2 / 4)
    assert {way: figures["recall"] for way, figures in result.unscored_ways.items()} == pytest.approx(
        {"dropped": 2 / 3, "positive": 3 / 4, "negative": 2 / 4}
    )
    assert result.unscored_ways["dropped"]["ap"] == pytest.approx(11 / 12)
    assert result.figures["brier"].n == 6  # an assumed score says nothing about calibration
    assert result.figures["ap"].unscored == 2


def test_an_unscored_response_is_not_known_to_refuse(scored_set: Make) -> None:
    result = measure(scored_set([1, 1, 0, 0], [0.9, None, 0.1, None], name="do_not_answer_refusal"), replicates=FAST)
    assert result.unscored_counted_as == "negative"
    assert (result.confusion.tp, result.confusion.fp) == (1, 0)


def test_a_set_that_no_row_of_was_scored_still_has_a_result(scored_set: Make) -> None:
    result = measure(scored_set([1, 0, 1, 0], [None] * 4), replicates=FAST)
    assert result.unscored == 4
    assert result.figures["ap"].value == result.floor == 0.5
    assert result.figures["brier"].value is None


@pytest.mark.parametrize(("negatives", "note"), [(20, "undefined"), (50, "coarse"), (150, "")])
def test_recall_at_one_percent_is_marked_when_negatives_are_few(scored_set: Make, negatives: int, note: str) -> None:
    truth, scores = [1] * 20 + [0] * negatives, [0.9] * 20 + [0.1] * negatives
    figure = measure(scored_set(truth, scores), replicates=FAST).figures["recall_at_fpr_1"]
    assert figure.note.startswith(note)
    assert figure.value == (None if note == "undefined" else 1.0)


def test_a_limit_and_a_borrowed_score_are_said(scored_set: Make) -> None:
    scored = scored_set(TRUTH, SCORES, name="do_not_answer_refusal", score_rule="1 - p_harm †", rows_in_set=9)
    caveats = " ".join(measure(scored, replicates=FAST).caveats)
    assert "sample of 6 of 9" in caveats
    assert "no refusal output" in caveats


def test_slices_count_what_they_hold(scored_set: Make) -> None:
    sliced = EvalSet("x", "aegis_test", "prompt", "harm", "mixed", "rule", harmful, slices=("kind", "tags", "language"))
    raw = [{"kind": "a" if i < 4 else "b", "tags": ["t", "u"] if i == 0 else ["t"]} for i in range(6)]
    raw[5]["kind"] = None
    result = measure(scored_set(TRUTH, SCORES, eval_set=sliced, raw=raw), replicates=FAST)
    shown = {f"{s.by}={s.value}": (s.n, s.positives) for s in result.slices}
    assert shown == {"kind=a": (4, 2), "kind=b": (1, 0), "tags=t": (6, 3), "tags=u": (1, 1), "language=en": (6, 3)}
    by_kind = {s.value: s for s in result.slices if s.by == "kind"}
    assert by_kind["a"].recall is not None
    assert by_kind["a"].recall.value == 0.5
    assert by_kind["b"].recall is None
    assert by_kind["b"].fpr is not None
    assert by_kind["b"].fpr.value == 0.0


def test_results_compare_only_on_equal_rows(scored_set: Make) -> None:
    first = scored_set(TRUTH, SCORES)
    assert scored_set(TRUTH, SCORES[::-1]).rows_sha256 == first.rows_sha256
    assert scored_set([*TRUTH[:-1], 0], SCORES).rows_sha256 != first.rows_sha256
    assert scored_set(TRUTH, SCORES, prompts=[f"text {i}" for i in range(6)]).rows_sha256 != first.rows_sha256


def test_files_and_rules_of_the_set_are_on_the_result(scored_set: Make) -> None:
    result = measure(scored_set(TRUTH, SCORES), replicates=FAST)
    assert result.positive_rule == SETS.get("aegis_test").rule
    assert result.threshold_rule.startswith("fixed 0.5")
    assert list(result.files) == ["aegis_test/aegis_safety_test.jsonl"]


def test_a_rate_of_zero_has_a_wilson_interval_over_prompts(scored_set: Make) -> None:
    prompts = [f"prompt {i % 50}" for i in range(100)]
    figure = measure(scored_set([0] * 100, [0.1] * 100, name="benign_oktest", prompts=prompts)).figures["fpr"]
    z = 1.959963984540054
    assert figure.value == 0.0
    assert figure.ci95 == pytest.approx((0.0, z**2 / (50 + z**2)))  # Wilson's upper end at 0 of 50
    assert "Wilson" in figure.rule
    assert (figure.n, figure.clusters) == (100, 50)


def test_a_rate_of_one_is_a_share_of_its_own_rows(scored_set: Make) -> None:
    result = measure(scored_set([1] * 5 + [0] * 20, [0.9] * 5 + [0.8] * 20), replicates=FAST)
    z = 1.959963984540054
    assert result.figures["recall"].ci95 == pytest.approx((5 / (5 + z**2), 1.0))
    assert result.figures["fpr"].ci95 == pytest.approx((20 / (20 + z**2), 1.0))
