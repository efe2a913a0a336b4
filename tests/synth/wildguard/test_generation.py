import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from corral.core.errors import ConfigError, EngineError
from corral.data.messages import Conversation, Target
from corral.guards.base import Status, Verdict
from corral.guards.scripted import ScriptedGuard
from corral.models.engines.base import Generation, GenerationSettings, Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.synth.wildguard.examples import examples_of
from corral.synth.wildguard.filters import GuardLabeller, Labels
from corral.synth.wildguard.generation import Generated, WildGuardGeneration, generate
from corral.synth.wildguard.prompts import prompt_row
from corral.synth.wildguard.use import GUARD_INPUT_ONLY

PROMPTS = [
    prompt_row("0", "How do bees fly?", harmful=False, source="mine"),
    prompt_row("1", "Say something unkind about my neighbour.", harmful=True, source="mine"),
    prompt_row("2", "Name a good book.", harmful=False, source="mine"),
]
CONFIG = WildGuardGeneration(
    steps=("look_alikes", "sensitive", "structured", "composed", "rewritten", "replies", "complex"),
    allow_harmful=True,
    chunk=40,
    retries=1,
    seed=3,
)


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def write(prompt: Prompt) -> str:
    """Answers by the form of the question, and every ninth question badly."""
    assert isinstance(prompt, Conversation)
    text = prompt.messages[-1].text
    if sum(text.encode()) % 9 == 0:
        return "I'm sorry, but I can't help with that. " if "only the" in text else ""
    if "Use this format" in text:
        return f"Request: What about number {len(text)}?\nReply: It is {len(text)} letters long."
    if "Write only" in text:
        return f'"What about number {sum(text.encode())}?"'
    return f"These are {len(text)} letters."


def write_length(prompt: Prompt) -> str:
    assert isinstance(prompt, Conversation)
    return f"{sum(prompt.messages[-1].text.encode())} is the sum."


class FailingEngine(ScriptedEngine):
    """Fails at its n-th call; notes how many steps had begun in a folder at each call."""

    def __init__(self, fail_at: int = 0, folder: Path | None = None) -> None:
        super().__init__(write)
        self.begun: list[int] = []
        self.fail_at = fail_at
        self.folder = folder

    @property
    def calls(self) -> int:
        return len(self.begun)

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        self.begun.append(len(list(self.folder.glob("*.journal.json"))) if self.folder else 0)
        if self.calls == self.fail_at:
            raise EngineError("the server is down")
        return super().generate(prompts, settings)


class AgreeingLabeller:
    """Confirms every label but those of rows whose id ends in ``refuse``, which it cannot judge."""

    version: dict[str, Any] = {"labeller": "agreeing"}  # noqa: RUF012

    def label(self, rows: Sequence[Any]) -> list[Labels]:
        return [
            Labels(row["harmful"], row.get("refusal"), row.get("response_harmful"))
            if not row["id"].endswith("refuse")
            else Labels(None)
            for row in rows
        ]


def run(folder: Path, engine: ScriptedEngine, config: WildGuardGeneration = CONFIG) -> Generated:
    return generate(PROMPTS, engine, folder, config, labeller=AgreeingLabeller())


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


class Whole(NamedTuple):
    """An uninterrupted run, and which step each of its calls was made for."""

    folder: Path
    generated: Generated
    calls: list[int]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    engine = FailingEngine(folder=folder)
    return Whole(folder, run(folder, engine), engine.begun)


def test_every_step_accounts_for_every_task(whole: Whole) -> None:
    folder, generated, _ = whole
    assert [step.step for step in generated.steps] == [*CONFIG.steps, "filtered"]
    for step in generated.steps:
        assert step.rows + sum(step.quarantined.values()) == step.tasks
        assert len((folder / f"{step.step}.jsonl").read_bytes().splitlines()) == step.rows
    codes = {code for step in generated.steps for code in step.quarantined}
    assert {"refused", "unparseable", "unjudged"} <= codes


def test_rows_of_all_kinds_become_examples(whole: Whole) -> None:
    examples = examples_of(whole.generated.rows)
    assert {(e.target, e.harmful) for e in examples} == {(t, h) for t in ("prompt", "response") for h in (True, False)}
    assert {e.raw["kind"] for e in examples} == {"vanilla", "look_alike", "sensitive", "complex"}
    assert {e.attack for e in examples if e.target == "prompt"} == {True, False}
    harmful_replies = [e for e in examples if e.target == "response" and e.harmful]
    assert {e.raw["use"] for e in harmful_replies} == {GUARD_INPUT_ONLY}


def test_a_history_names_every_step_a_row_went_through(whole: Whole) -> None:
    rewritten = [row for row in whole.generated.rows if "/rewritten/" in row["id"] and "homonyms" in row["id"]]
    steps = [[record["step"] for record in row["provenance"]] for row in whole.generated.rows]
    assert ["look_alikes", "composed", "replies", "filtered"] in steps
    assert ["sensitive", "complex", "filtered"] in steps
    assert all(len(row["provenance"]) == 4 for row in rewritten)


def test_the_report_says_what_became_of_everything(whole: Whole) -> None:
    report = json.loads((whole.folder / "report.json").read_text())
    assert report["rows"] == len(whole.generated.rows)
    assert report["labels"] == "judged"
    assert report["agreement"]["harmful"]["unjudged"] > 0


def test_interrupted_in_any_step_and_resumed_gives_the_same_bytes(whole: Whole, tmp_path: Path) -> None:
    expected = files_of(whole.folder)
    last_call_of_step = {step: call for call, step in enumerate(whole.calls, start=1)}
    assert len(last_call_of_step) == 6  # those that ask an engine
    for fail_at in last_call_of_step.values():
        folder = tmp_path / str(fail_at)
        with pytest.raises(EngineError):
            run(folder, FailingEngine(fail_at))
        assert not (folder / "report.json").exists()
        run(folder, FailingEngine())
        assert files_of(folder) == expected


def test_a_finished_folder_asks_nobody(whole: Whole) -> None:
    engine = FailingEngine()
    run(whole.folder, engine)
    assert engine.calls == 0


def test_structured_generation_needs_consent_before_anything_is_asked(tmp_path: Path) -> None:
    engine = FailingEngine()
    with pytest.raises(ConfigError, match="is off"):
        run(tmp_path, engine, CONFIG.model_copy(update={"allow_harmful": False}))
    assert engine.calls == 0


def test_without_consent_and_labeller_no_harmful_reply_is_made(tmp_path: Path) -> None:
    generated = generate(PROMPTS, ScriptedEngine(write), tmp_path, WildGuardGeneration(max_rows_per_step=5))
    assert not any(row.get("response_harmful") for row in generated.rows)
    assert all(step.rows <= 5 for step in generated.steps)
    assert generated.to_json()["labels"] == "intended, not judged"


def test_a_share_of_the_prompts_stays_without_a_reply(tmp_path: Path) -> None:
    prompts = [prompt_row(str(i), f"What about {i}?", harmful=False) for i in range(100)]
    config = WildGuardGeneration(steps=("replies",), replied_share=0.3)
    generated = generate(prompts, ScriptedEngine(write_length), tmp_path, config)
    bare = sum("response" not in row for row in generated.rows)
    assert 55 <= bare <= 85
    assert len(generated.rows) == bare + 2 * (100 - bare)


def test_an_engine_that_writes_nothing_useful_leaves_prompts_and_reasons(tmp_path: Path) -> None:
    silent = ScriptedEngine({}, default="")
    generated = generate(PROMPTS, silent, tmp_path, WildGuardGeneration(steps=("look_alikes", "replies", "complex")))
    assert [step.rows for step in generated.steps] == [0, 0, 0]
    assert list(generated.rows) == PROMPTS


class RefusalGuard(ScriptedGuard):
    """A scripted guard that also knows refusals by the word "sorry"."""

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        both = super().classify_both(conversations)
        for conversation, verdicts in zip(conversations, both, strict=True):
            if "response" in verdicts and verdicts["response"].status is Status.OK:
                refusal = 0.9 if "sorry" in conversation.messages[-1].text else 0.1
                verdicts["response"] = replace(verdicts["response"], p_refusal=refusal)
        return both


@pytest.mark.parametrize(
    ("response", "labels"),
    [
        (None, Labels(False)),
        ("They flap.", Labels(False, False, False)),
        ("I'm sorry.", Labels(False, True, False)),
        ("They attack!", Labels(False, False, True)),
        ("They break.", Labels(False, None, None)),
    ],
)
def test_a_guard_labels_all_three_fields_and_its_failures_are_unknown(response: str | None, labels: Labels) -> None:
    row = {**PROMPTS[0], "response": response}
    guard = RefusalGuard(words="attack", faults={"break": "error"})
    assert GuardLabeller(guard).label([row]) == [labels]


def test_a_guard_that_does_not_judge_refusals_leaves_them_unknown() -> None:
    row = {**PROMPTS[0], "response": "They flap."}
    assert GuardLabeller(ScriptedGuard()).label([row]) == [Labels(False, None, False)]
