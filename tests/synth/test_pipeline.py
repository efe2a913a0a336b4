import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import ConfigError, DataError, EngineError, UserError
from corral.core.journal import rejects_path
from corral.models.engines.base import Generation, GenerationSettings, Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.synth.duplicates import SameText
from corral.synth.pipeline import Budget, read_rejects, read_step, run_step
from corral.synth.rows import Row, Task, Unusable
from corral.synth.steps import EngineStep, FunctionStep, Outcome


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


class SeededEngine:
    """Answers ``prompt#seed.place`` and records its calls, so that tests see what an answer depended on."""

    name = "seeded"

    def __init__(self, bad: Callable[[str, int], bool] = lambda prompt, call: False, fail_at: int = 0) -> None:
        self.calls: list[tuple[list[Prompt], int]] = []
        self.bad = bad
        self.fail_at = fail_at

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        self.calls.append((list(prompts), settings.seed))
        if len(self.calls) == self.fail_at:
            raise EngineError("the server is down")
        texts = [
            "bad" if self.bad(str(prompt), len(self.calls)) else f"{prompt}#{settings.seed}.{place}"
            for place, prompt in enumerate(prompts)
        ]
        return [Generation(text, tuple(text.encode()), "stop", 3) for text in texts]

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Iterator[str]:
        yield self.generate([prompt], settings)[0].text

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[Any]:
        raise NotImplementedError


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "text": f"text {i}"} for i in range(count)]


def expand(row: Row) -> Iterator[Task]:
    yield Task(f"{row['id']}/new", row, "plain", str(row["text"]))


def read(task: Task, generation: Generation) -> dict[str, str]:
    if generation.text == "bad":
        raise Unusable("unparseable", "it is bad")
    return {"answer": generation.text}


SAMPLED = GenerationSettings(max_new_tokens=50, temperature=0.8, seed=5)


def step_of(engine: Any, **settings: Any) -> EngineStep:
    return EngineStep("write", engine, expand, read, **{"generation": SAMPLED, **settings})


def files_of(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.parent.iterdir())}


def test_every_task_has_a_row_or_a_reason_in_order(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    engine = SeededEngine(bad=lambda prompt, call: prompt in {"text 1", "text 4"})
    report = run_step(step_of(engine), rows_of(6), out, chunk=4)
    assert [row["id"] for row in read_step(out)] == ["r0/new", "r2/new", "r3/new", "r5/new"]
    rejects = read_rejects(out)
    assert [reject.row["id"] for reject in rejects] == ["r1/new", "r4/new"]
    assert {reject.reason for reject in rejects} == {"unparseable: it is bad"}
    assert rejects[0].row["answer"] == "bad"
    assert (report.tasks, report.rows, report.quarantined, report.ended) == (6, 4, {"unparseable": 2}, "complete")


def test_rows_carry_their_parents_fields_and_a_history(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    parent = {"id": "a", "text": "hello", "provenance": [{"step": "earlier"}]}
    run_step(step_of(SeededEngine()), [parent], out)
    [row] = read_step(out)
    earlier, record = row["provenance"]
    assert (row["text"], earlier) == ("hello", {"step": "earlier"})
    assert row["answer"] == f"hello#{record['seed']}.{record['place']}"
    assert {key: record[key] for key in ("step", "template", "parent", "engine", "attempts", "finish")} == {
        "step": "write",
        "template": "plain",
        "parent": "a",
        "engine": "seeded",
        "attempts": 1,
        "finish": "stop",
    }


def test_an_unusable_answer_is_asked_for_again_with_another_seed_and_then_quarantined(tmp_path: Path) -> None:
    engine = SeededEngine(bad=lambda prompt, call: prompt == "text 2" or (prompt == "text 1" and call == 1))
    out = tmp_path / "out.jsonl"
    report = run_step(step_of(engine, retries=2), rows_of(3), out)
    assert [prompts for prompts, _ in engine.calls] == [
        ["text 0", "text 1", "text 2"],
        ["text 1", "text 2"],
        ["text 2"],
    ]
    assert len({seed for _, seed in engine.calls}) == 3
    assert [row["provenance"][-1]["attempts"] for row in read_step(out)] == [1, 2]
    [reject] = read_rejects(out)
    assert reject.row["provenance"][-1]["attempts"] == 3
    # 3 tokens are read a call; the three calls of "text 2" wrote "bad".
    assert reject.row["provenance"][-1]["tokens"] == 3 * (3 + len("bad"))
    assert report.tokens == sum(row["provenance"][-1]["tokens"] for row in [*read_step(out), reject.row])


def test_greedy_answers_are_not_asked_for_again(tmp_path: Path) -> None:
    engine = SeededEngine(bad=lambda prompt, call: True)
    run_step(step_of(engine, generation=GenerationSettings()), rows_of(2), tmp_path / "out.jsonl")
    assert len(engine.calls) == 1


def test_a_filtered_answer_is_not_asked_for_again(tmp_path: Path) -> None:
    def refuse(task: Task, generation: Generation) -> dict[str, str]:
        raise Unusable("filtered", retry=False)

    engine = SeededEngine()
    report = run_step(EngineStep("write", engine, expand, refuse, SAMPLED), rows_of(2), tmp_path / "out.jsonl")
    assert (len(engine.calls), report.quarantined) == (1, {"filtered": 2})


@pytest.mark.parametrize("fail_at", range(1, 7))
def test_interrupted_and_resumed_gives_the_same_bytes_as_uninterrupted(tmp_path: Path, fail_at: int) -> None:
    def bad(prompt: str, call: int) -> bool:
        return prompt.endswith(("3", "7"))

    whole, parts = tmp_path / "whole" / "out.jsonl", tmp_path / "parts" / "out.jsonl"
    expected = run_step(step_of(SeededEngine(bad), retries=1), rows_of(11), whole, chunk=3)
    with pytest.raises(EngineError):
        run_step(step_of(SeededEngine(bad, fail_at), retries=1), rows_of(11), parts, chunk=3)
    assert run_step(step_of(SeededEngine(bad), retries=1), rows_of(11), parts, chunk=3) == expected
    assert files_of(parts) == files_of(whole)


@pytest.mark.parametrize("kept", range(8))
def test_a_torn_chunk_is_completed_with_the_answers_it_would_have_had(tmp_path: Path, kept: int) -> None:
    whole, torn = tmp_path / "whole" / "out.jsonl", tmp_path / "torn" / "out.jsonl"
    run_step(step_of(SeededEngine()), rows_of(8), whole, chunk=4)
    with pytest.raises(EngineError):
        run_step(step_of(SeededEngine(fail_at=1)), rows_of(8), torn, chunk=4)
    lines = whole.read_bytes().splitlines(keepends=True)
    torn.write_bytes(b"".join(lines[:kept]) + lines[kept][:20])
    run_step(step_of(SeededEngine()), rows_of(8), torn, chunk=4)
    assert files_of(torn) == files_of(whole)


def test_a_finished_step_asks_nobody(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run_step(step_of(SeededEngine()), rows_of(5), out)
    again = SeededEngine()
    run_step(step_of(again), rows_of(5), out)
    assert again.calls == []


@pytest.mark.parametrize(
    "change",
    [
        lambda out: run_step(step_of(SeededEngine()), rows_of(4), out),
        lambda out: run_step(step_of(SeededEngine(), retries=0), rows_of(3), out),
        lambda out: run_step(step_of(SeededEngine(), version={"template": "new"}), rows_of(3), out),
        lambda out: run_step(step_of(SeededEngine()), rows_of(3), out, chunk=2),
        lambda out: run_step(step_of(ScriptedEngine({}, default="x")), rows_of(3), out),
    ],
    ids=["rows", "retries", "template", "chunk", "engine"],
)
def test_a_file_begun_under_other_settings_is_not_continued(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    out = tmp_path / "out.jsonl"
    run_step(step_of(SeededEngine()), rows_of(3), out)
    with pytest.raises(UserError, match="other settings"):
        change(out)


def test_a_row_budget_stops_exactly_and_can_be_raised(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole" / "out.jsonl", tmp_path / "out" / "out.jsonl"
    run_step(step_of(SeededEngine()), rows_of(10), whole, chunk=4)
    report = run_step(step_of(SeededEngine()), rows_of(10), out, chunk=4, budget=Budget(rows=6))
    assert (report.rows, report.ended, len(read_step(out))) == (6, "row budget", 6)
    idle = SeededEngine()
    run_step(step_of(idle), rows_of(10), out, chunk=4, budget=Budget(rows=6))
    assert idle.calls == []
    run_step(step_of(SeededEngine()), rows_of(10), out, chunk=4)
    assert files_of(out) == files_of(whole)


def test_a_token_budget_stops_between_chunks_whether_or_not_interrupted(tmp_path: Path) -> None:
    tokens = run_step(step_of(SeededEngine()), rows_of(4), tmp_path / "a" / "o.jsonl", chunk=4).tokens
    budget = Budget(tokens=tokens + 1)
    out = tmp_path / "b" / "o.jsonl"
    with pytest.raises(EngineError):
        run_step(step_of(SeededEngine(fail_at=2)), rows_of(20), out, chunk=4, budget=budget)
    report = run_step(step_of(SeededEngine()), rows_of(20), out, chunk=4, budget=budget)
    assert (report.rows, report.ended) == (8, "token budget")


def test_a_server_that_does_not_count_its_tokens_is_charged_the_most_it_may_write(tmp_path: Path) -> None:
    class Uncounted(SeededEngine):
        def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
            return [Generation("text", (), "stop", 3) for _ in prompts]

    report = run_step(step_of(Uncounted()), rows_of(2), tmp_path / "out.jsonl")
    assert report.tokens == 2 * (3 + SAMPLED.max_new_tokens)


def test_repeated_rows_are_quarantined_also_across_an_interruption(tmp_path: Path) -> None:
    def same(prompt: Prompt) -> str:
        return "Same  TEXT!" if str(prompt) in {"text 0", "text 5"} else f"other {prompt}"

    def run(out: Path, budget: Budget | None = None) -> Any:
        step = step_of(ScriptedEngine(same))
        return run_step(step, rows_of(6), out, chunk=2, duplicates=SameText("answer"), budget=budget)

    out = tmp_path / "out.jsonl"
    run(out, Budget(rows=3))
    assert run(out).quarantined == {"duplicate": 1}
    [reject] = read_rejects(out)
    assert (reject.row["id"], reject.reason) == ("r5/new", "duplicate: of `r0/new`")


def test_rows_of_other_files_can_be_kept_from_being_repeated() -> None:
    known = SameText("text", known=[{"id": "old", "text": "Hello, there"}])
    assert known.admit({"id": "new", "text": "hello there!"}) == "old"
    assert known.admit({"id": "new", "text": "something else"}) is None


def test_a_prompt_that_does_not_fit_takes_no_other_with_it(tmp_path: Path) -> None:
    def too_long(prompt: Prompt) -> str:
        if prompt == "text 1":
            raise DataError("900 tokens do not fit")
        return "fine"

    report = run_step(step_of(ScriptedEngine(too_long)), rows_of(3), tmp_path / "out.jsonl")
    assert (report.rows, report.quarantined) == (2, {"prompt": 1})
    [reject] = read_rejects(tmp_path / "out.jsonl")
    assert reject.reason == "prompt: 900 tokens do not fit"


def test_a_wrong_number_of_answers_is_an_engines_error(tmp_path: Path) -> None:
    class Short(SeededEngine):
        def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
            return super().generate(prompts[1:], settings)

    with pytest.raises(EngineError, match="2 answers to 3 prompts"):
        run_step(step_of(Short()), rows_of(3), tmp_path / "out.jsonl")


def test_two_tasks_of_one_id_are_refused_before_anyone_is_asked(tmp_path: Path) -> None:
    engine = SeededEngine()
    with pytest.raises(DataError, match="made twice"):
        run_step(step_of(engine), [*rows_of(2), rows_of(1)[0]], tmp_path / "out.jsonl")
    assert engine.calls == []


def test_functions_are_steps_too(tmp_path: Path) -> None:
    def shout(tasks: Sequence[Task]) -> list[Outcome]:
        return [Outcome({"text": str(task.row["text"]).upper()}) for task in tasks]

    out = tmp_path / "out.jsonl"
    report = run_step(FunctionStep("shout", expand, shout), rows_of(3), out, chunk=2)
    assert [row["text"] for row in read_step(out)] == ["TEXT 0", "TEXT 1", "TEXT 2"]
    assert (report.tokens, read_rejects(out)) == (0, [])


def test_rejects_are_json_lines_beside_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    run_step(step_of(SeededEngine(bad=lambda prompt, call: True)), rows_of(2), out)
    entries = [json.loads(line) for line in rejects_path(out).read_text().splitlines()]
    assert [(entry["index"], entry["where"], entry["key"]) for entry in entries] == [
        (0, "write", "r0/new"),
        (1, "write", "r1/new"),
    ]


@pytest.mark.parametrize("settings", [{"rows": 0}, {"tokens": -1}])
def test_a_budget_of_nothing_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="below 1"):
        Budget(**settings)
