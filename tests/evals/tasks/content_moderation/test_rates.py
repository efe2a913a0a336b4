from pathlib import Path

import pytest
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from corral.evals.tasks.content_moderation.classic import KeywordModerator
from corral.evals.tasks.content_moderation.conditions import PLAIN, Condition
from corral.evals.tasks.content_moderation.items import Item
from corral.evals.tasks.content_moderation.matrix import Matrix, MatrixResult
from corral.evals.tasks.content_moderation.moderators import TextModerator, support_of
from corral.evals.tasks.content_moderation.rates import compare_decisions, rates_of, robustness_of
from corral.evals.tasks.content_moderation.report import Hypothesis, report_of
from corral.guards.scripted import ScriptedGuard


def scores(text: str, target: str) -> float:
    return 0.9 if "TRIGGER" in text else 0.1 + len(text) / 1000


@pytest.fixture
def result(tmp_path: Path, items: list[Item]) -> MatrixResult:
    guard = ScriptedGuard(rule=scores, faults={"REFUSE": "unparseable"})
    conditions = [PLAIN, Condition(perturbation="spacing", strength=1.0)]
    moderators = [TextModerator(guard), TextModerator(KeywordModerator(["text", "wars"]))]
    return Matrix(items, moderators, conditions, tmp_path).run()


def test_rates_are_those_of_scikit_learn_and_hand_counts(result: MatrixResult) -> None:
    rates = next(each for each in rates_of(result, replicates=50) if each.moderator == "scripted")
    assert (rates.n, rates.outcomes) == (8, {"ok": 7, "unparseable": 1})
    truth, flagged = [1, 1, 1, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1, 0]
    excluded = rates.ways["excluded"]
    assert excluded.counts.precision == precision_score(truth, flagged)
    assert excluded.counts.recall == recall_score(truth, flagged)
    assert excluded.counts.f1 == pytest.approx(f1_score(truth, flagged))
    assert (excluded.fpr_plain.value, excluded.fpr_plain.n) == (0.0, 2)
    assert (excluded.fpr_sensitive.value, excluded.fpr_sensitive.n) == (0.5, 2)
    known = [(item.harmful, scores(item.text, "")) for item in result.items.values() if "REFUSE" not in item.text]
    assert rates.ap.value == pytest.approx(average_precision_score(*zip(*known, strict=True)))
    assert rates.ap_floor == 3 / 7


def test_cells_without_a_verdict_are_counted_three_ways(result: MatrixResult) -> None:
    rates = next(each for each in rates_of(result, replicates=50) if each.moderator == "scripted")
    fnr = {way: figures.fnr.value for way, figures in rates.ways.items()}
    assert fnr == {
        "excluded": pytest.approx(1 / 3),
        "as_flagged": pytest.approx(1 / 4),
        "as_passed": pytest.approx(0.5),
    }
    accuracy = {way: (figures.accuracy.value, figures.accuracy.n) for way, figures in rates.ways.items()}
    assert accuracy == {"excluded": (5 / 7, 7), "as_flagged": (6 / 8, 8), "as_passed": (5 / 8, 8)}


def test_misses_stand_by_category_and_unsupported_ones_are_left_out(tmp_path: Path, items: list[Item]) -> None:
    guard = ScriptedGuard(categories={"TRIGGER": "llama_guard_3/S10"}, faults={"REFUSE": "unparseable"})
    insult = [Item(**{**{f: getattr(items[0], f) for f in items[0].__slots__}, "id": "o", "category": "offensive"})]
    result = Matrix(items + insult, [TextModerator(guard)], [PLAIN], tmp_path).run()
    (rates,) = rates_of(result, replicates=50)
    assert rates.n == 8
    found = {category: (support, fnr and fnr.value) for category, (support, fnr) in rates.fnr_by_category.items()}
    assert found == {
        "": ("overall", 0.0),
        "hate": ("exact", 0.0),
        "violence": ("narrower", 1.0),
        "offensive": ("none", None),
    }
    assert rates.macro_recall == pytest.approx(2 / 3)


def test_support_is_read_from_the_crosswalk() -> None:
    assert support_of("llama_guard_3", "hate") == "exact"
    assert support_of("llama_guard_3", "drugs") == "broader"
    assert support_of("llama_guard_3", "alcohol") == "none"
    assert support_of("", "alcohol") == "overall"


def test_robustness_compares_the_same_items(result: MatrixResult) -> None:
    found = {each.moderator: each for each in robustness_of(result, replicates=50)}
    # spaced letters hide TRIGGER from the guard and every word from the list
    assert found["scripted"].flip_rate.value == pytest.approx(3 / 7)
    assert found["scripted"].flip_rate.unscored == 1
    assert found["scripted"].fnr_change.value == pytest.approx(2 / 3)
    assert found["scripted"].fpr_change.value == pytest.approx(-1 / 4)


def test_mcnemar_is_exact(result: MatrixResult) -> None:
    found = compare_decisions(result, "scripted", "keywords-harm")
    # right: guard h1 h3 p1 p2 s2; list h1 p1 p2 s1
    assert (found.only_a, found.only_b) == (2, 1)
    assert found.p_value == pytest.approx(binomtest(2, 3, 0.5).pvalue)


def test_reports_hold_no_text_unless_asked_and_no_published_number(result: MatrixResult) -> None:
    report = report_of(result, hypotheses=[Hypothesis("A.", "secondary", "cannot say", "why")], replicates=50)
    markdown = report.to_markdown()
    assert "nothing to find" not in markdown + report.to_csv() + str(report.to_json())
    assert "nothing to find" in report.to_markdown(show_content=True)
    assert "No published number stands here" in markdown
    assert "| A. | secondary | cannot say | why |" in markdown
    lines = report.to_csv().splitlines()
    assert len(lines) == 1 + 32
    assert lines[1].startswith("h1,text,other,hate,")
