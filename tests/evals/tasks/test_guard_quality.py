from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import average_precision_score, f1_score

from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard import run_scorecard
from corral.evals.scorecard.html import html
from corral.evals.scorecard.markdown import markdown
from corral.evals.tasks.guard_quality import GuardQuality
from corral.evals.tasks.task import SilentProgress, Subject, TaskResult, TaskSkip
from corral.guards.base import Guard
from corral.models.engines.scripted import ScriptedEngine


def run(task: GuardQuality, cache: Path, *guards: Guard) -> TaskResult | TaskSkip:
    subject = Subject(ScriptedEngine(lambda _: "", name="m"), "m", "r1", guards)
    return task.run(subject, SampleCache(cache), SilentProgress())


def measured(task: GuardQuality, cache: Path, *guards: Guard) -> TaskResult:
    result = run(task, cache, *guards)
    assert isinstance(result, TaskResult)
    return result


@pytest.fixture
def by_number(rule_guard: type[Any]) -> Callable[..., Guard]:
    """A guard whose score rises with the number in the text, so that some are right and some wrong."""

    def make(**changes: Any) -> Guard:
        return rule_guard(lambda text, target: {"p_harm": int(text.split()[2]) / 40}, **changes)

    return make


def test_figures_equal_scikit_learn(aegis: Path, by_number: Callable[..., Guard], tmp_path: Path) -> None:
    result = measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", by_number())
    truth = [i % 2 for i in range(40)]
    scores = [(i % 36) / 40 for i in range(40)]
    assert result.figures["aegis_test/ap@rule"].value == pytest.approx(average_precision_score(truth, scores))
    flagged = [score >= 0.5 for score in scores]
    assert result.figures["aegis_test/f1@rule"].value == pytest.approx(f1_score(truth, flagged))
    gain = result.figures["aegis_test/f1_over_flag_all@rule"].value
    assert gain == pytest.approx(f1_score(truth, flagged) - f1_score(truth, [True] * 40))


def test_every_f1_names_what_flagging_everything_gives_and_every_ap_its_floor(
    aegis: Path, by_number: Callable[..., Guard], tmp_path: Path
) -> None:
    result = measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", by_number())
    chance = {measure.name: measure.chance for measure in result.measures}
    assert chance["aegis_test/ap@rule"] == 0.5
    assert chance["aegis_test/f1@rule"] == pytest.approx(2 / 3)


def test_repeated_prompts_are_one_cluster(aegis: Path, by_number: Callable[..., Guard], tmp_path: Path) -> None:
    figure = measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", by_number()).figures["aegis_test/ap@rule"]
    assert (figure.n, figure.clusters) == (40, 36)


def test_a_row_without_a_verdict_counts_as_flagged(aegis: Path, rule_guard: type[Any], tmp_path: Path) -> None:
    result = measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", rule_guard(lambda text, target: None))
    assert result.figures["aegis_test/fpr@rule"].value == 1.0
    assert result.figures["aegis_test/fpr@rule"].unscored == 40


def test_several_guards_share_their_rows(aegis: Path, by_number: Callable[..., Guard], tmp_path: Path) -> None:
    guards = by_number(name="first"), by_number(name="second")
    result = measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", *guards)
    assert len(result.samples) == 40
    assert result.figures["aegis_test/ap@first"] == result.figures["aegis_test/ap@second"]


def test_a_second_run_judges_nothing(aegis: Path, by_number: Callable[..., Guard], tmp_path: Path) -> None:
    first = measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", by_number())
    again = by_number()
    assert measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", again).figures == first.figures
    assert again.judged == []  # type: ignore[attr-defined]


def test_without_a_guard_or_without_data_the_task_is_skipped(
    by_number: Callable[..., Guard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_DATA", str(tmp_path))
    assert isinstance(run(GuardQuality(), tmp_path / "cache"), TaskSkip)
    skip = run(GuardQuality(), tmp_path / "cache", by_number())
    assert isinstance(skip, TaskSkip)
    assert "openai_moderation" in skip.reason


def test_a_sample_of_a_set_says_that_no_published_figure_stands_beside_it(
    aegis: Path, by_number: Callable[..., Guard], tmp_path: Path
) -> None:
    result = measured(GuardQuality(sets=("aegis_test",), limit=10), tmp_path / "cache", by_number())
    assert any("A sample of 10 of 40 rows" in caveat for caveat in result.caveats)


def test_published_figures_stand_beside_a_set_that_was_measured_whole(
    aegis: Path, by_number: Callable[..., Guard], tmp_path: Path
) -> None:
    whole = measured(GuardQuality(sets=("aegis_test",)), tmp_path / "cache", by_number())
    rows = {(row.system, row.metric): row for row in whole.published["aegis_test"]}
    assert rows["WildGuard", "f1"].value == pytest.approx(0.894)  # table T1, as a fraction
    assert rows["WildGuard", "f1"].mark == "paper"
    sampled = measured(GuardQuality(sets=("aegis_test",), limit=10), tmp_path / "cache", by_number())
    assert not sampled.published


def test_every_report_marks_published_figures_as_not_measured_here(
    aegis: Path, by_number: Callable[..., Guard], tmp_path: Path
) -> None:
    subject = Subject(ScriptedEngine(lambda _: "", name="m"), "m", "r1", (by_number(),))
    found = run_scorecard(subject, [GuardQuality(sets=("aegis_test",))], SampleCache(tmp_path / "cache"))
    for text in (markdown(found.card), html(found.card, found.samples, show_content=False)):
        assert "not measured here" in text
        assert "89.4 %" in text
