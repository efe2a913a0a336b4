from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

import corral
from corral.core.errors import DataError, NotFoundError, UserError
from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard import (
    TASKS,
    ScorecardRun,
    TaskSettings,
    choose_tasks,
    load_subject,
    read_scorecard,
    run_scorecard,
    write_scorecard,
)
from corral.evals.scorecard.html import html
from corral.evals.scorecard.markdown import markdown
from corral.evals.scorecard.report import write_reports
from corral.evals.tasks.task import Subject
from corral.models.engines.scripted import ScriptedEngine


def test_every_measure_is_listed_with_what_makes_it_comparable(card_run: ScorecardRun, tmp_path: Path) -> None:
    write_scorecard(card_run.card, card_run.samples_file, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "scorecard.json").read_text())
    accuracy = next(row for row in written["measures"] if row["name"] == "choices/acc")
    assert accuracy["value"] == 0.5
    assert accuracy["ci95"][0] < 0.5 < accuracy["ci95"][1]
    assert (accuracy["n"], accuracy["clusters"], accuracy["unscored"]) == (10, 5, 0)
    assert (accuracy["task_version"], accuracy["data_hash"], accuracy["judge_revision"]) == ("3", "a" * 64, "j1")
    assert accuracy["rule"]


def test_a_skipped_and_a_failed_task_leave_the_others_standing(card_run: ScorecardRun) -> None:
    card = card_run.card
    assert [entry.task for entry in card.tasks] == ["choices"]
    assert [(task.task, task.failed) for task in card.skipped] == [("absent", False), ("broken", True)]
    assert card.skipped[1].reason == "the model is down"
    assert not card.complete


def test_a_scorecard_comes_back_from_its_folder(card_run: ScorecardRun, tmp_path: Path) -> None:
    write_scorecard(card_run.card, card_run.samples_file, tmp_path)
    card, samples = read_scorecard(tmp_path)
    assert card == card_run.card
    assert [sample.values for sample in samples["choices"]] == [s.values for s in card_run.samples["choices"]]


def test_samples_that_are_not_the_scorecards_are_refused(card_run: ScorecardRun, tmp_path: Path) -> None:
    write_scorecard(card_run.card, card_run.samples_file, tmp_path)
    (tmp_path / "samples.jsonl").write_bytes(card_run.samples_file.replace(b'"right":1.0', b'"right":0.0', 1))
    with pytest.raises(DataError, match="not those of the scorecard"):
        read_scorecard(tmp_path)


def test_a_folder_without_a_scorecard_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="corral eval scorecard MODEL"):
        read_scorecard(tmp_path)


def test_a_scorecard_of_another_schema_is_refused(card_run: ScorecardRun, tmp_path: Path) -> None:
    write_scorecard(card_run.card, card_run.samples_file, tmp_path)
    path = tmp_path / "scorecard.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(DataError, match="schema_version"):
        read_scorecard(tmp_path)


def test_texts_are_written_only_when_asked_for(subject: Subject, card_run: ScorecardRun, tmp_path: Path) -> None:
    write_scorecard(card_run.card, card_run.samples_file, tmp_path)
    write_reports(card_run.card, card_run.samples, tmp_path)
    for file in tmp_path.glob("*.*"):
        assert "secret" not in file.read_text()
    write_reports(card_run.card, card_run.samples, tmp_path, show_content=True)
    assert "secret 3" in (tmp_path / "scorecard.html").read_text()


def test_the_page_needs_nothing_else_and_runs_nothing(card_run: ScorecardRun) -> None:
    shown = html(card_run.card, card_run.samples, show_content=True)
    tags = tags_of(shown)
    assert not tags & {"script", "link", "img", "iframe", "object", "form"}
    assert "http://" not in shown and "https://" not in shown and "url(" not in shown
    assert "a &lt;model&gt;" in shown
    assert "&lt;script&gt;secret" in shown


def test_the_page_shows_interval_and_n_of_every_measure_in_both_themes(card_run: ScorecardRun) -> None:
    shown = html(card_run.card, card_run.samples, show_content=False)
    for row in card_run.card.rows():
        assert row.title in shown
    assert shown.count("n = 10, 5 clusters") >= 2
    assert 'id="theme-dark"' in shown
    assert "light-dark(" in shown and "@media print" in shown


def test_failures_and_skips_stand_apart_on_the_page(card_run: ScorecardRun) -> None:
    shown = html(card_run.card, card_run.samples, show_content=False)
    assert shown.index("Tasks that failed") < shown.index("the model is down") < shown.index("Not measured")
    assert "Fetch them." in shown


def test_markdown_holds_the_same_figures(card_run: ScorecardRun) -> None:
    shown = markdown(card_run.card)
    assert "| Accuracy | 50.0 % |" in shown
    assert "25.0 %" in shown
    assert "| absent | no data | Fetch them. |" in shown
    assert "- choices: Made up." in shown


def test_the_progress_bar_stays_silent_off_a_terminal(
    subject: Subject, card_run: ScorecardRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capsys.readouterr().err == ""


def test_the_default_tasks_have_unique_names_and_measures() -> None:
    tasks = choose_tasks()
    assert [task.name for task in tasks] == list(TASKS)
    for task in tasks:
        names = [measure.name for measure in task.measures]
        assert len(set(names)) == len(names)


def test_an_unknown_task_is_named_with_the_nearest_one() -> None:
    with pytest.raises(NotFoundError, match="over_refusal"):
        choose_tasks(["over_refusals"])
    with pytest.raises(NotFoundError, match="no task was named"):
        choose_tasks([])


def test_a_limit_reaches_every_task() -> None:
    for task in choose_tasks(settings=TaskSettings(limit=3)):
        assert getattr(task, "requests", task).limit == 3


def test_from_python_an_engine_of_unknown_revision_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path / "cache"))
    engine = ScriptedEngine(lambda _: "I'm sorry, I cannot.", name="refuser")
    card = corral.scorecard(engine, tasks=["over_refusal"], limit=4, out=tmp_path / "out")
    row = card.row("over_refusal/rta")
    assert row is not None and row.value == 1.0
    assert (tmp_path / "out" / "scorecard.html").is_file()
    assert not (tmp_path / "cache").exists()


def test_two_guards_of_one_name_are_refused(rule_guard: type) -> None:
    guards = [rule_guard(lambda text, target: None), rule_guard(lambda text, target: None)]
    with pytest.raises(UserError, match="two guards are named `rule`"):
        load_subject(ScriptedEngine(lambda _: ""), guards)


def test_a_rerun_gives_the_same_figures(subject: Subject, card_run: ScorecardRun, tmp_path: Path) -> None:
    from corral.evals.tasks.task import EvalTask

    tasks: list[EvalTask] = choose_tasks(["over_refusal"], TaskSettings(limit=5))
    cache = SampleCache(tmp_path / "cache")
    first, second = run_scorecard(subject, tasks, cache), run_scorecard(subject, tasks, cache)
    assert [row.value for row in first.card.rows()] == [row.value for row in second.card.rows()]
    assert first.samples_file == second.samples_file


def tags_of(page: str) -> set[str]:
    found: set[str] = set()

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.add(tag)

    Tags().feed(page)
    return found
