from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from corral.core.metrics import average_precision
from corral.evals.languages import language_tables
from corral.evals.scored import ScoredSet

Make = Callable[..., ScoredSet]
FAST = 200


def family(make: Make, *, shift: float = 0.0) -> list[ScoredSet]:
    """English with pairs 0 to 59 and German with pairs 20 to 79; German scores are noisier by ``shift``."""
    generator = np.random.default_rng(0)
    sets = []
    for language, pairs, noise in (("en", range(60), 0.2), ("de", range(20, 80), 0.2 + shift)):
        truth = [pair % 2 for pair in pairs]
        scores = np.clip(0.3 + 0.4 * np.array(truth) + generator.normal(0, noise, len(truth)), 0, 1)
        name = "openai_moderation" if language == "en" else f"openai_moderation_{language}"
        sets.append(
            make(
                truth,
                scores.tolist(),
                name=name,
                prompts=[f"{language} text {pair}" for pair in pairs],
                languages=[language] * len(truth),
                raw=[{"pair": f"openai_moderation/{pair}"} for pair in pairs],
            )
        )
    return sets


def test_gap_and_mean_are_taken_on_the_rows_that_both_languages_have(scored_set: Make) -> None:
    english, german = family(scored_set, shift=0.4)
    table = next(t for t in language_tables([german, english], replicates=FAST) if t.metric == "ap")
    assert list(table.by_language) == ["en", "de"]
    common_en = average_precision(english.truth_N[20:], english.scores_N[20:]) or 0
    common_de = average_precision(german.truth_N[:40], german.scores_N[:40]) or 0
    gap = table.gap["de"]
    assert gap.n == 40
    assert gap.value == pytest.approx(common_en - common_de)
    assert gap.ci95 is not None
    assert gap.ci95[0] < gap.value < gap.ci95[1]
    assert table.mean.value == pytest.approx((common_en + common_de) / 2)
    assert table.by_language["en"].n == 60
    assert table.worst_language == "de"


def test_equal_scores_on_aligned_rows_have_no_gap(scored_set: Make) -> None:
    english, _ = family(scored_set)
    raw = [example.raw for example in english.examples]
    german = scored_set(
        english.truth_N.tolist(), english.scores_N.tolist(), name="openai_moderation_de", languages=["de"] * 60, raw=raw
    )
    for table in language_tables([english, german], replicates=FAST):
        assert table.gap["de"].value == 0.0
        assert table.gap["de"].ci95 == (0.0, 0.0)


def test_the_worst_language_has_the_highest_false_positive_rate(scored_set: Make) -> None:
    languages = ["en"] * 10 + ["sw"] * 10 + ["fr"] * 10
    scores = [0.1] * 10 + [0.9] * 5 + [0.1] * 5 + [0.9] + [0.1] * 9
    raw = [{"id": i % 10} for i in range(30)]
    only = scored_set([0] * 30, scores, name="benign_mgsm", languages=languages, raw=raw)
    (table,) = language_tables([only], replicates=FAST)
    assert table.metric == "fpr"
    assert table.worst_language == "sw"
    assert list(table.by_language) == ["en", "fr", "sw"]
    assert table.gap["sw"].value == pytest.approx(-0.5)
    assert table.mean.value == pytest.approx((0.0 + 0.5 + 0.1) / 3)


def test_languages_that_are_not_aligned_have_a_mean_without_interval_and_no_gap(scored_set: Make) -> None:
    german = scored_set([1, 0, 1, 0], [0.9, 0.1, 0.9, 0.9], name="rtp_lx_de", languages=["de"] * 4)
    french = scored_set([1, 0, 1, 0], [0.9, 0.1, 0.1, 0.1], name="rtp_lx_fr", languages=["fr"] * 4)
    table = next(t for t in language_tables([german, french], replicates=FAST) if t.metric == "f1")
    assert table.gap == {}
    assert table.mean.ci95 is None
    assert table.mean.value == pytest.approx((0.8 + 2 / 3) / 2)


def test_one_language_alone_makes_no_table(scored_set: Make) -> None:
    english, _ = family(scored_set)
    assert list(language_tables([english], replicates=FAST)) == []


def test_sets_without_a_family_make_no_table(scored_set: Make) -> None:
    assert list(language_tables([scored_set([1, 0], [0.9, 0.1])], replicates=FAST)) == []
