from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import NotFoundError, UserError
from corral.evals.compare import Judges, compare, write_comparison
from corral.evals.compare.html import html
from corral.evals.compare.markdown import markdown
from corral.evals.sample_cache import SampleCache
from corral.evals.scorecard import TaskSettings, choose_tasks, run_scorecard, write_scorecard
from corral.evals.scorecard.folder import read_scorecard
from corral.evals.tasks.delivered_answers import DeliveredAnswers, JudgedByGuard
from corral.evals.tasks.perplexity.task import Perplexity
from corral.evals.tasks.perplexity.texts import Document, TextSet
from corral.evals.tasks.task import EvalTask, Subject
from corral.guards.base import Guard
from corral.guards.composition.specs import GuardSpec, parse_spec, spec_json
from corral.guards.loading import load_guard
from corral.guards.scripted import ScriptedGuard
from corral.models.engines.scripted import ScriptedEngine
from corral.models.engines.torch import TorchEngine
from corral.models.tiny import write_tiny_llama

Make = Callable[..., Path]
RIGHT, WRONG = [1.0] * 30 + [0.0] * 10, [1.0] * 10 + [0.0] * 30


@pytest.fixture
def two(make_card: Make, samples_of: Callable[..., Any]) -> list[Path]:
    """A model that got 30 of 40 right, and one that lost 20 of them and needs more bits."""
    sizes = [float(i % 7) for i in range(40)]
    return [
        make_card("before", samples_of(RIGHT, [4.0 + size for size in sizes])),
        make_card("after", samples_of(WRONG, [5.0 + size for size in sizes])),
    ]


def test_a_loss_is_shown_with_its_interval(two: list[Path]) -> None:
    accuracy, size = compare(two).measures
    [change] = accuracy.changes
    assert (accuracy.name, change.letter, change.tone) == ("given/accuracy", "B", "worse")
    assert change.difference.value == -0.5
    assert change.difference.ci95 is not None and change.difference.ci95[1] < 0.0
    assert change.mcnemar_p is not None and change.mcnemar_p < 1e-5
    assert size.changes[0].relative is not None and size.changes[0].tone == "worse"


def test_every_further_scorecard_is_compared_with_the_first(
    two: list[Path], make_card: Make, samples_of: Callable[..., Any]
) -> None:
    third = make_card("third", samples_of(RIGHT))
    found = compare([*two, third])
    assert [side.letter for side in found.sides] == ["A", "B", "C"]
    assert [change.letter for change in found.measures[0].changes] == ["B", "C"]
    assert found.measures[0].changes[1].difference.value == 0.0


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"data_hash": "e" * 64}, "data `d"),
        ({"version": "2"}, "task version `1` (A) against `2` (B)"),
        ({"judge_revision": "other@1"}, "judge `` (A) against `other@1` (B)"),
    ],
)
def test_what_was_measured_differently_is_refused_by_name(
    changed: dict[str, str], named: str, make_card: Make, samples_of: Callable[..., Any]
) -> None:
    cards = [make_card("before", samples_of(RIGHT)), make_card("after", samples_of(WRONG), **changed)]
    with pytest.raises(UserError) as refused:
        compare(cards)
    assert "`given`" in refused.value.message
    assert named in refused.value.message
    assert ("--rejudge" in (refused.value.hint or "")) == ("judge_revision" in changed)


def test_times_of_another_machine_are_left_out_and_named(make_card: Make, samples_of: Callable[..., Any]) -> None:
    timed = {"task": "timed", "reproducible": False}
    cards = [
        make_card("before", samples_of(RIGHT), **timed),
        make_card("after", samples_of(RIGHT), data_hash="e" * 64, **timed),
    ]
    with pytest.raises(NotFoundError, match="no measure in common"):
        compare(cards)


def test_tasks_that_only_one_has_are_named(two: list[Path], make_card: Make, samples_of: Callable[..., Any]) -> None:
    other = make_card("other", samples_of(RIGHT), task="another")
    found = compare([*two, other])
    assert [(each.name, each.reason) for each in found.not_compared] == [
        ("given", "C has no task `given`"),
        ("another", "A has no such task"),
    ]


def test_one_scorecard_or_none_in_common_is_refused(
    two: list[Path], make_card: Make, samples_of: Callable[..., Any]
) -> None:
    with pytest.raises(UserError, match="nothing to be compared with"):
        compare(two[:1])
    with pytest.raises(NotFoundError, match="no measure in common"):
        compare([two[0], make_card("other", samples_of(RIGHT), task="another")])
    with pytest.raises(NotFoundError, match="no measure in common"):
        compare(two, tasks=["absent"])


def test_reports_hold_the_same_figures_and_need_nothing_else(two: list[Path], tmp_path: Path) -> None:
    found = compare(two)
    write_comparison(found, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["measures"][0]["name"] == "given/accuracy"
    shown = markdown(found)
    assert "−50.0 points" in shown and "worse" in shown and "< 0.001" in shown
    page = html(found)
    assert "−50.0 points" in page and "n = 40" in page
    assert "<script" not in page and "http://" not in page
    assert "no headline measure of safety" in page


def test_another_judge_labels_the_cached_answers_of_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = choose_tasks(["over_refusal"], TaskSettings(limit=6))
    folders = []
    for name, reply in (("kind", "Surely."), ("stern", "I'm sorry, I cannot help with that.")):
        subject = Subject(ScriptedEngine(lambda _, said=reply: said, name=name), name, f"r-{name}")
        run = run_scorecard(subject, tasks, SampleCache(tmp_path / "cache"), settings={"limit": 6, "seed": 0})
        write_scorecard(run.card, run.samples_file, tmp_path / name)
        folders.append(tmp_path / name)
    path = folders[0] / "scorecard.json"
    judge = read_scorecard(folders[0])[0].tasks[0].judge_revision
    path.write_text(path.read_text().replace(judge, "prefix-list@older"))
    with pytest.raises(UserError, match="judge `prefix-list@older`"):
        compare(folders)
    found = compare(folders, rejudged=True, cache=tmp_path / "cache")
    assert found.measures[0].changes[0].difference.value == 1.0
    assert any("labelled by prefix-list@" in caveat for caveat in found.caveats)
    with pytest.raises(UserError, match="cannot be judged again"):
        compare(folders, rejudged=True, cache=tmp_path / "empty")


def guarded_card(
    folder: Path, name: str, cache: Path, guard: Guard, task: EvalTask, spec: Mapping[str, Any] | None = None
) -> Path:
    subject = Subject(ScriptedEngine(lambda _: f"{name} answers", name=name), name, f"r-{name}", (guard,))
    specs = {} if spec is None else {guard.name: parse_spec(spec)}
    settings = {"limit": 4, "seed": 0}
    run = run_scorecard(subject, [task], SampleCache(cache), settings=settings, specs=specs)
    write_scorecard(run.card, run.samples_file, folder / name)
    return folder / name


@pytest.fixture
def judged_task(tmp_path: Path) -> EvalTask:
    rows = tmp_path / "goals.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Reveal colour {i}."}) + "\n" for i in range(4)))
    requests = DeliveredAnswers("judged", "Judged", "harmful", str(rows), limit=4)
    return JudgedByGuard("attack_success_guard_judge", requests)


def test_a_guard_that_judged_in_other_revisions_judges_again_as_it_is_today(
    tmp_path: Path, judged_task: EvalTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two revisions of one guard by name; today's knows another word."""
    cache = tmp_path / "cache"
    folders = [
        guarded_card(tmp_path, name, cache, ScriptedGuard(trigger), judged_task)
        for name, trigger in (("kind", "old"), ("stern", "older"))
    ]
    with pytest.raises(UserError, match="judge"):
        compare(folders)
    loaded: list[Any] = []

    def load(spec: GuardSpec) -> ScriptedGuard:
        loaded.append(spec_json(spec))
        return ScriptedGuard("kind")

    monkeypatch.setattr("corral.evals.compare.rejudge.load_guard", load)
    judges = Judges(tasks=[judged_task], guard_settings={"scripted": {"trigger": "kind"}})
    found = compare(folders, rejudged=True, judges=judges, cache=cache)
    [change] = found.measures[0].changes
    assert (change.baseline.value, change.other.value) == (1.0, 0.0)
    assert loaded == [{"guard": "scripted", "settings": {"trigger": "kind"}}]
    assert any("labelled by guard:scripted@" in caveat for caveat in found.caveats)


def test_a_composition_that_judged_is_made_again_from_what_the_scorecard_holds(
    tmp_path: Path, judged_task: EvalTask
) -> None:
    cache = tmp_path / "cache"
    spec = {"decode": {"guard": "scripted", "settings": {"words": ["kind"]}}, "name": "mine"}
    folders = [guarded_card(tmp_path, name, cache, load_guard(spec), judged_task, spec) for name in ("kind", "stern")]
    path = folders[1] / "scorecard.json"
    judge = read_scorecard(folders[1])[0].tasks[0].judge_revision
    path.write_text(path.read_text().replace(judge, "guard:mine@older"))
    [change] = compare(folders, rejudged=True, judges=Judges(tasks=[judged_task]), cache=cache).measures[0].changes
    assert (change.baseline.value, change.other.value) == (1.0, 0.0)
    foreign = Judges(tasks=[judged_task], guard_settings={"default": {"window": 64}})
    with pytest.raises(UserError, match="`default` does not judge: `mine` does"):
        compare(folders, rejudged=True, judges=foreign, cache=cache)


def test_a_guard_of_which_nothing_is_known_is_not_loaded_again(tmp_path: Path, judged_task: EvalTask) -> None:
    cache, guard = tmp_path / "cache", ScriptedGuard("kind", name="mine")
    folders = [guarded_card(tmp_path, name, cache, guard, judged_task) for name in ("kind", "stern")]
    path = folders[1] / "scorecard.json"
    judge = read_scorecard(folders[1])[0].tasks[0].judge_revision
    path.write_text(path.read_text().replace(judge, "guard:mine@older"))
    with pytest.raises(UserError, match="does not say how it was made"):
        compare(folders, rejudged=True, judges=Judges(tasks=[judged_task]), cache=cache)


def test_a_task_of_ones_own_is_judged_again_only_where_it_is_given(
    make_card: Make, samples_of: Callable[..., Any], tmp_path: Path
) -> None:
    folders = [make_card(name, samples_of(RIGHT), judge_revision=name) for name in ("a", "b")]
    with pytest.raises(UserError, match="not a task of Corral's own"):
        compare(folders, rejudged=True, cache=tmp_path / "cache")


def test_naive_three_bit_rounding_of_a_model_shows_as_a_loss(write_model: Callable[..., Path], tmp_path: Path) -> None:
    """On a tiny model fitted to one text, so that it has something to lose."""
    text = "the quick brown fox jumps over the lazy dog. " * 4
    source = fitted(write_tiny_llama(tmp_path / "source", layers=2), text)
    folders = []
    for name, bits in (("bf16", None), ("three-bit", 3)):
        model = write_model(str(source), tmp_path / f"{name}-model", bits=bits)
        subject = Subject(TorchEngine.load(model), name, name)
        documents = tuple(Document(str(i), text[i * 7 : i * 7 + 90]) for i in range(12))
        task = Perplexity(texts=(TextSet("fox", documents, cut="documents"),), window=128)
        run = run_scorecard(subject, [task], SampleCache(tmp_path / "cache"))
        write_scorecard(run.card, run.samples_file, tmp_path / name)
        folders.append(tmp_path / name)
    bits_per_byte = next(m for m in compare(folders).measures if m.name == "perplexity/bits_per_byte")
    assert bits_per_byte.changes[0].tone == "worse"
    assert bits_per_byte.changes[0].difference.ci95 is not None


def fitted(folder: Path, text: str) -> Path:
    """The model after a few steps on one text."""
    import torch

    from corral.models.loading import load_causal_lm, load_tokenizer

    model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
    ids = torch.tensor([tokenizer(text)["input_ids"][:160]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
    model.train()
    for _ in range(60):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder
