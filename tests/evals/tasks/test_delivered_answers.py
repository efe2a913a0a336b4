from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from corral.data.self_written import self_written_rows
from corral.evals.sample_cache import SampleCache
from corral.evals.tasks.delivered_answers import DeliveredAnswers, JudgedByGuard
from corral.evals.tasks.task import SilentProgress, Subject, TaskResult, TaskSkip
from corral.guards.base import Guard
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine


class Target(ScriptedEngine):
    """Refuses whatever names a stone, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(self._answer, name="target")

    def _answer(self, prompt: Prompt) -> str:
        assert not isinstance(prompt, str)
        self.asked.append(prompt.messages[-1].text)
        return "I'm sorry, I cannot do that." if "stone" in self.asked[-1] else "Surely: green."


@pytest.fixture
def requests(tmp_path: Path) -> str:
    texts = ["name a fruit", "name a stone", "name a TRIGGER", "name a TRIGGER stone"]
    path = tmp_path / "requests.jsonl"
    path.write_text("".join(f"{json.dumps({'id': str(i), 'prompt': text})}\n" for i, text in enumerate(texts)))
    return str(path)


@pytest.fixture
def guard(rule_guard: type[Any]) -> Guard:
    return rule_guard(lambda text, target: {"p_harm": 0.9 if "TRIGGER" in text else 0.1})


def task(kind: Any, source: str, **changes: Any) -> DeliveredAnswers:
    return DeliveredAnswers(name="requests", title="Requests", kind=kind, source=source, **changes)


def run(made: DeliveredAnswers, engine: Target, cache: Path, *guards: Guard) -> TaskResult:
    result = made.run(Subject(engine, "target", "r1", guards), SampleCache(cache), SilentProgress())
    assert isinstance(result, TaskResult)
    return result


def test_harmful_requests_count_as_success_unless_refused_or_replaced(
    requests: str, guard: Guard, tmp_path: Path
) -> None:
    result = run(task("harmful", requests), Target(), tmp_path / "cache", guard)
    assert [sample.values["asr"] for sample in result.samples] == [1.0, 0.0, 1.0, 0.0]
    assert [sample.values["asr@rule"] for sample in result.samples] == [1.0, 0.0, 0.0, 0.0]
    assert {name: figure.value for name, figure in result.figures.items()} == {"asr": 0.5, "asr@rule": 0.25}


def test_benign_requests_count_as_refused_by_the_model_or_by_the_guard(
    requests: str, guard: Guard, tmp_path: Path
) -> None:
    result = run(task("benign", requests), Target(), tmp_path / "cache", guard)
    assert {name: figure.value for name, figure in result.figures.items()} == {"rta": 0.5, "rta@rule": 0.75}
    assert {measure.area for measure in result.measures} == {"over_refusal"}


def test_a_second_run_asks_nobody(requests: str, guard: Guard, tmp_path: Path) -> None:
    first = run(task("benign", requests), Target(), tmp_path / "cache", guard)
    again = Target()
    judged = len(guard.judged)  # type: ignore[attr-defined]
    assert run(task("benign", requests), again, tmp_path / "cache", guard).figures == first.figures
    assert again.asked == []
    assert len(guard.judged) == judged  # type: ignore[attr-defined]


def test_an_answer_that_the_judge_cannot_label_is_unscored_never_safe(requests: str, tmp_path: Path) -> None:
    from corral.redteam.judges import Judgement, Outcome

    class Silent:
        name, revision = "silent", "1"

        def judge_many(self, pairs: Any) -> list[Judgement]:
            return [Judgement(Outcome.UNPARSED, "silent") for _ in pairs]

    result = run(task("harmful", requests, judge=Silent()), Target(), tmp_path / "cache")
    assert (result.figures["asr"].value, result.figures["asr"].unscored) == (None, 4)
    assert result.judge_revision == "silent@1"


def test_data_that_is_not_there_is_a_skip_with_a_hint(tmp_path: Path) -> None:
    made = task("harmful", "jailbreakbench", root=tmp_path)
    skip = made.run(Subject(Target(), "target", "r1"), SampleCache(tmp_path / "cache"), SilentProgress())
    assert isinstance(skip, TaskSkip)
    assert skip.hint


def test_a_guard_as_the_judge_reads_the_answers_that_are_there(
    requests: str, rule_guard: type[Any], tmp_path: Path
) -> None:
    run(task("harmful", requests), Target(), tmp_path / "cache")
    guard = rule_guard(lambda text, target: {"p_harm": 0.9 if "green" in text else 0.1})
    again, made = Target(), JudgedByGuard("judged", task("harmful", requests))
    result = made.run(Subject(again, "target", "r1", (guard,)), SampleCache(tmp_path / "cache"), SilentProgress())
    assert isinstance(result, TaskResult)
    assert again.asked == []
    assert (result.task, result.figures["asr"].value) == ("judged", 0.5)
    assert result.judge_revision.startswith("guard:rule@")
    skipped = made.run(Subject(again, "target", "r1"), SampleCache(tmp_path / "cache"), SilentProgress())
    assert isinstance(skipped, TaskSkip)


def test_answering_anew_answers_once_for_all_tasks_that_share_answers(requests: str, tmp_path: Path) -> None:
    run(task("harmful", requests), Target(), tmp_path / "cache")
    cache, again = SampleCache(tmp_path / "cache", reuse=False), Target()
    for _ in range(2):
        task("harmful", requests).run(Subject(again, "target", "r1"), cache, SilentProgress())
    assert len(again.asked) == 4


def test_the_data_hash_tells_requests_apart_and_not_subjects(
    requests: str, guard: Guard, tmp_path: Path, rule_guard: Callable[..., Guard]
) -> None:
    whole = run(task("benign", requests), Target(), tmp_path / "a")
    assert run(task("benign", requests), Target(), tmp_path / "b", guard).data_hash == whole.data_hash
    assert run(task("benign", requests, limit=2), Target(), tmp_path / "c").data_hash != whole.data_hash
    assert run(task("harmful", requests), Target(), tmp_path / "d").data_hash != whole.data_hash


def test_texts_are_kept_apart_from_values(requests: str, tmp_path: Path) -> None:
    sample = run(task("benign", requests), Target(), tmp_path / "cache").samples[0]
    assert sample.texts == {"request": "name a fruit", "reply": "Surely: green."}
    assert "fruit" not in json.dumps([sample.id, sample.cluster, dict(sample.values), sample.group])


def test_the_packaged_look_alikes_are_benign_and_all_different() -> None:
    rows = list(self_written_rows("benign_lookalikes"))
    assert len({row.text for row in rows}) == len(rows) == 80
    assert {row.harmful for row in rows} == {False}
