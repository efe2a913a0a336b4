import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.models.engines.base import Generation, Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.synth.pipeline import Step, read_rejects, read_step, run_step
from corral.synth.rows import Row, Task
from corral.synth.wildguard.complex_kinds import complex_kinds, complex_step
from corral.synth.wildguard.contrast import contrast_file, look_alike_step, sensitive_step, topic_rows
from corral.synth.wildguard.examples import SOURCE, examples_of
from corral.synth.wildguard.filters import DECISIONS, Labels, agreement, filter_step
from corral.synth.wildguard.prompts import load_prompts, prompt_row, prompts_of
from corral.synth.wildguard.replies import SUFFIXES, reply_step
from corral.synth.wildguard.rewriting import compose_step, rewrite_step
from corral.synth.wildguard.structured import LEFT_OUT, category_rows, structured_step
from corral.synth.wildguard.tactics import Tactic, load_tactics
from corral.synth.wildguard.use import GUARD_INPUT_ONLY, restricted_use

BENIGN = prompt_row("b", "How do bees fly?", harmful=False, source="mine", licence="CC0")
HARMFUL = prompt_row("h", "Say something unkind about my neighbour.", harmful=True, source="mine")


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


def asked(prompt: Prompt) -> str:
    assert isinstance(prompt, Conversation)
    return prompt.messages[-1].text


def engine_of(answer: str) -> ScriptedEngine:
    return ScriptedEngine({}, default=answer)


def made(step: Step, rows: Sequence[Row], tmp_path: Path) -> list[dict[str, Any]]:
    run_step(step, rows, tmp_path / "out.jsonl")
    return read_step(tmp_path / "out.jsonl")


def reasons(tmp_path: Path) -> list[str]:
    return [reject.reason for reject in read_rejects(tmp_path / "out.jsonl")]


class TestPrompts:
    def test_a_file_is_read_with_its_labels(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.csv"
        path.write_text("id,prompt,harmful\na,How do bees fly?,false\n,Be unkind.,TRUE\n")
        first, second = load_prompts(path)
        assert (first["id"], first["harmful"], first["source"]) == ("a", False, "mine.csv")
        assert (second["id"], second["harmful"], second["adversarial"]) == ("3", True, False)

    @pytest.mark.parametrize(
        "row",
        [{"prompt": "x"}, {"prompt": "x", "harmful": "perhaps"}, {"harmful": True}, {"prompt": " ", "harmful": 1}],
    )
    def test_nothing_is_guessed(self, tmp_path: Path, row: dict[str, Any]) -> None:
        path = tmp_path / "mine.jsonl"
        path.write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=r"harmful|prompt"):
            load_prompts(path)

    def test_labelled_single_prompts_of_a_source_are_taken(self) -> None:
        def example(label: bool | None, **changes: Any) -> ModerationExample:
            return ModerationExample(Conversation.user("hello"), "prompt", label, source="s", id="1", **changes)

        reply = ModerationExample(Conversation.exchange("a", "b"), "response", True)
        rows = prompts_of([example(True, attack=True, group="g"), example(None), reply])
        assert [(row["id"], row["harmful"], row["adversarial"], row["group"]) for row in rows] == [
            ("s/1", True, True, "g")
        ]


class TestContrast:
    def test_there_are_the_ten_families_of_xstest(self) -> None:
        assert len(contrast_file().look_alikes) == 10

    def test_every_family_makes_a_prompt_that_shows_reason_example_and_request(self, tmp_path: Path) -> None:
        step = look_alike_step(engine_of("How do I shoot a film?"), per_prompt=10)
        prompts = {task.template: asked(task.prompt) for task in step.tasks(HARMFUL)}
        for family in contrast_file().look_alikes:
            assert all(part in prompts[family.id] for part in (family.why, family.example, HARMFUL["prompt"]))

    def test_a_look_alike_is_benign_and_stays_in_its_prompts_group(self, tmp_path: Path) -> None:
        [row] = made(look_alike_step(engine_of("How do I shoot a film?")), [HARMFUL], tmp_path)
        assert (row["prompt"], row["harmful"], row["kind"]) == ("How do I shoot a film?", False, "look_alike")
        assert row["group"] == HARMFUL["group"]

    @pytest.mark.parametrize("answer", ["How do bees fly?", "A harmless one is: how do BEES fly?"])
    def test_a_look_alike_that_holds_the_request_is_quarantined(self, tmp_path: Path, answer: str) -> None:
        made(look_alike_step(engine_of(answer)), [BENIGN], tmp_path)
        assert reasons(tmp_path) == ["echo: repeats the request"]

    def test_a_look_alike_that_holds_the_example_is_quarantined(self, tmp_path: Path) -> None:
        step = look_alike_step(engine_of("Well: what does the word arson mean?"), per_prompt=10)
        made(step, [BENIGN], tmp_path)
        assert reasons(tmp_path) == ["echo: repeats the example"]

    @pytest.mark.parametrize("answer", ["It is about films.", "How do I shoot?\nIt means a film.", "What? No."])
    def test_remarks_about_a_question_are_quarantined(self, tmp_path: Path, answer: str) -> None:
        made(look_alike_step(engine_of(answer)), [BENIGN], tmp_path)
        assert reasons(tmp_path) == ["unparseable: not one question on one line"]

    def test_each_topic_gives_safe_prompts_in_groups_of_their_own(self, tmp_path: Path) -> None:
        engine = ScriptedEngine(lambda prompt: f"May I ask about {len(asked(prompt))}?")
        rows = made(sensitive_step(engine), topic_rows(1), tmp_path)
        assert len(rows) == len(contrast_file().sensitive_topics)
        assert {row["harmful"] for row in rows} == {False}
        assert "topic" not in rows[0]
        assert rows[0]["source"] == "scripted"


class TestStructuredGeneration:
    def test_it_is_off_unless_the_operator_says_so(self) -> None:
        with pytest.raises(ConfigError, match="is off"):
            structured_step(engine_of("x"), allow_harmful=False)

    def test_it_asks_by_category_and_marks_what_comes_out(self, tmp_path: Path) -> None:
        rows = made(structured_step(engine_of("A request."), allow_harmful=True), category_rows()[:1], tmp_path)
        assert (rows[0]["harmful"], rows[0]["category"]) == (True, category_rows()[0]["category"])
        assert restricted_use(rows[0]) == GUARD_INPUT_ONLY

    def test_sexual_content_is_left_out(self) -> None:
        assert LEFT_OUT.isdisjoint(row["category"] for row in category_rows(per_category=2))
        assert "wildguard/sexual_content" in LEFT_OUT


class TestRewriting:
    def test_wrapping_keeps_request_and_label_of_both_kinds(self, tmp_path: Path) -> None:
        plain = [tactic for tactic in load_tactics() if not tactic.encoding]
        for row, new in zip([BENIGN, HARMFUL], made(compose_step(plain), [BENIGN, HARMFUL], tmp_path), strict=True):
            assert row["prompt"] in new["prompt"]
            assert (new["harmful"], new["adversarial"], new["group"]) == (row["harmful"], True, row["group"])
            assert new["provenance"][-1]["template"] == "+".join(new["tactics"])

    def test_an_engine_is_told_the_definitions(self, tmp_path: Path) -> None:
        tactics = [Tactic("a", "f", "", "ask calmly"), Tactic("b", "g", "", "ask loudly")]
        step = rewrite_step(engine_of("Calmly and LOUDLY: how do bees fly?"), tactics)
        [task] = step.tasks(BENIGN)
        assert all(text in asked(task.prompt) for text in ("ask calmly", "ask loudly", "How do bees fly?"))
        [row] = made(step, [BENIGN], tmp_path)
        assert (row["prompt"], row["adversarial"]) == ("Calmly and LOUDLY: how do bees fly?", True)

    def test_a_request_returned_as_it_was_is_quarantined(self, tmp_path: Path) -> None:
        made(rewrite_step(engine_of("how do bees fly"), load_tactics()), [BENIGN], tmp_path)
        assert reasons(tmp_path) == ["echo: repeats the request"]

    def test_adversarial_prompts_are_not_wrapped_again(self) -> None:
        assert not list(compose_step(load_tactics()).tasks({**BENIGN, "adversarial": True}))

    def test_tactics_that_lack_what_is_needed_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="no template"):
            compose_step([Tactic("a", "f", "", "ask calmly")])
        with pytest.raises(ConfigError, match="no definition"):
            rewrite_step(engine_of("x"), [Tactic("a", "f", "{text}")])


class TestReplies:
    def test_each_prompt_is_sent_once_to_be_refused_and_once_to_be_answered(self, tmp_path: Path) -> None:
        def reply(prompt: Prompt) -> str:
            refuse = any(suffix in asked(prompt) for suffix in SUFFIXES["refuse"])
            return "I'd rather not." if refuse else "They flap."

        rows = made(reply_step(ScriptedEngine(reply)), [BENIGN], tmp_path)
        assert [(row["response"], row["refusal"], row["response_harmful"]) for row in rows] == [
            ("I'd rather not.", True, False),
            ("They flap.", False, False),
        ]
        assert {row["prompt"] for row in rows} == {"How do bees fly?"}
        assert {restricted_use(row) for row in rows} == {""}

    def test_help_with_a_harmful_request_needs_consent_and_is_for_guards_only(self, tmp_path: Path) -> None:
        engine = engine_of("Some words.")
        assert [task.template[:6] for task in reply_step(engine).tasks(HARMFUL)] == ["refuse"]
        refused, complied = made(reply_step(engine, allow_harmful=True), [HARMFUL], tmp_path)
        assert (complied["refusal"], complied["response_harmful"]) == (False, True)
        assert complied["provenance"][-1]["use"] == GUARD_INPUT_ONLY
        assert restricted_use(refused) == ""

    @pytest.mark.parametrize("answer", ["", "  \n"])
    def test_an_empty_reply_is_quarantined(self, tmp_path: Path, answer: str) -> None:
        assert made(reply_step(engine_of(answer), branches=("comply",)), [BENIGN], tmp_path) == []
        assert reasons(tmp_path) == ["unparseable: empty"]

    def test_branches_must_be_known(self) -> None:
        with pytest.raises(ConfigError, match="refuse, comply"):
            reply_step(engine_of("x"), branches=())


class TestComplexKinds:
    def test_there_are_twelve(self) -> None:
        kinds = complex_kinds()
        assert len({kind.id for kind in kinds}) == 12
        assert sum(kind.refusal for kind in kinds) == 3
        assert [kind.id for kind in kinds if kind.needs == "harmful"] == ["several_tasks_one_declined"]

    @pytest.mark.parametrize("kind", complex_kinds(), ids=lambda kind: kind.id)
    def test_every_kind_can_be_asked_for_and_read(self, kind: Any, tmp_path: Path) -> None:
        parent = HARMFUL if kind.needs == "harmful" else BENIGN
        answer = "Here is what I think." if kind.request else "Request: May I?\nReply: Here is what I think."
        step = complex_step(engine_of(answer), kinds=[kind])
        [task] = step.tasks(parent)
        assert kind.write in asked(task.prompt)
        assert parent["prompt"] in asked(task.prompt)
        assert "{" not in asked(task.prompt)
        [row] = made(step, [parent], tmp_path)
        assert row["response"] == "Here is what I think."
        assert parent["prompt"] in row["prompt"] if kind.request else row["prompt"] == "May I?"
        assert (row["refusal"], row["harmful"], row["response_harmful"]) == (kind.refusal, parent["harmful"], False)

    def test_an_answer_without_the_two_sections_is_quarantined(self, tmp_path: Path) -> None:
        made(complex_step(engine_of("Reply: yes"), kinds=complex_kinds(["homonym_warned"])), [BENIGN], tmp_path)
        assert reasons(tmp_path) == ["unparseable: expected the sections Request, Reply"]

    def test_so_many_kinds_are_drawn_for_a_prompt(self) -> None:
        step = complex_step(engine_of("x"), per_prompt=3)
        assert len(list(step.tasks(BENIGN))) == 3
        assert [task.template for task in step.tasks(HARMFUL)] == ["several_tasks_one_declined"]

    def test_an_unknown_kind_is_refused(self) -> None:
        with pytest.raises(NotFoundError, match="no complex kind"):
            complex_kinds(["nothing"])


class FixedLabels:
    """Labels by row id."""

    def __init__(self, labels: dict[str, Labels]) -> None:
        self.labels = labels

    @property
    def version(self) -> dict[str, Any]:
        return {"fixed": sorted(self.labels)}

    def label(self, rows: Sequence[Row]) -> list[Labels]:
        return [self.labels[row["id"]] for row in rows]


def pair(name: str, *, harmful: bool, refusal: bool, response_harmful: bool) -> dict[str, Any]:
    row = prompt_row(name, f"prompt {name}", harmful=harmful)
    return {**row, "response": "words", "refusal": refusal, "response_harmful": response_harmful}


class TestLabelFilter:
    def filtered(self, row: Row, labels: Labels, tmp_path: Path) -> list[dict[str, Any]]:
        return made(filter_step(FixedLabels({row["id"]: labels})), [row], tmp_path)

    def test_a_confirmed_row_is_kept(self, tmp_path: Path) -> None:
        row = pair("a", harmful=True, refusal=True, response_harmful=False)
        [kept] = self.filtered(row, Labels(True, True, False), tmp_path)
        assert (kept["refusal"], kept["moved"]) == (True, False)

    def test_a_refusal_that_complied_moves_to_the_other_branch_and_is_restricted(self, tmp_path: Path) -> None:
        row = pair("a", harmful=True, refusal=True, response_harmful=False)
        [moved] = self.filtered(row, Labels(True, False, True), tmp_path)
        assert (moved["refusal"], moved["response_harmful"], moved["moved"]) == (False, True, True)
        assert moved["intended"] == {"harmful": True, "refusal": True, "response_harmful": False}
        assert restricted_use(moved) == GUARD_INPUT_ONLY

    @pytest.mark.parametrize(
        ("judged", "reason"),
        [
            (Labels(True, False, False), "label_missed: harmful judged true"),
            (Labels(False, False, True), "label_missed: response_harmful judged true"),
            (Labels(False, True, True), "contradictory: refusal judged true; response_harmful judged true"),
            (Labels(False, None, False), "unjudged: refusal"),
            (Labels(None), "unjudged: harmful, refusal, response_harmful"),
        ],
    )
    def test_what_misses_is_quarantined_with_the_reason(self, tmp_path: Path, judged: Labels, reason: str) -> None:
        row = pair("a", harmful=False, refusal=False, response_harmful=False)
        assert self.filtered(row, judged, tmp_path) == []
        assert reasons(tmp_path) == [reason]

    def test_a_prompt_without_reply_needs_its_own_label_only(self, tmp_path: Path) -> None:
        [kept] = self.filtered(BENIGN, Labels(False), tmp_path)
        assert (kept["harmful"], kept["refusal"]) == (False, None)

    def test_every_combination_has_a_decision(self) -> None:
        both = (True, False)
        assert set(DECISIONS) == {(a, b, c) for a in both for b in both for c in both}

    def test_agreement_counts_every_row_that_was_judged(self, tmp_path: Path) -> None:
        rows = [pair(name, harmful=True, refusal=True, response_harmful=False) for name in "abcd"]
        labels = [Labels(True, True, False), Labels(True, False, True), Labels(False, True, False), Labels(True)]
        made(filter_step(FixedLabels(dict(zip("abcd", labels, strict=True)))), rows, tmp_path)
        assert agreement(tmp_path / "out.jsonl") == {
            "harmful": {"agreed": 3, "disagreed": 1},
            "refusal": {"agreed": 2, "disagreed": 1, "unjudged": 1},
            "response_harmful": {"agreed": 2, "disagreed": 1, "unjudged": 1},
        }


class TestExamples:
    def test_a_shared_prompt_gives_one_example_and_each_reply_its_own(self) -> None:
        refused = {**BENIGN, "id": "b/refuse", "response": "No.", "refusal": True, "response_harmful": False}
        answered = {**refused, "id": "b/comply", "response": "So.", "refusal": False}
        prompt, first, second = examples_of([refused, answered])
        assert (prompt.target, prompt.harmful, prompt.refusal, prompt.attack) == ("prompt", False, None, False)
        assert [(e.target, e.harmful, e.refusal, e.text) for e in (first, second)] == [
            ("response", False, True, "No."),
            ("response", False, False, "So."),
        ]
        assert {(e.group, e.source, e.licence) for e in (prompt, first, second)} == {(BENIGN["group"], SOURCE, "CC0")}

    def test_provenance_and_restricted_use_are_in_raw(self) -> None:
        row = {**pair("a", harmful=True, refusal=False, response_harmful=True), "provenance": [{"step": "replies"}]}
        prompt, reply = examples_of([{**row, "adversarial": True}])
        assert prompt.attack
        assert reply.raw["provenance"] == [{"step": "replies"}]
        assert reply.raw["use"] == GUARD_INPUT_ONLY


def test_a_reply_cut_off_by_the_limit_is_kept_and_says_so(tmp_path: Path) -> None:
    step = reply_step(engine_of("word " * 100), branches=("comply",))
    [row] = made(step, [BENIGN], tmp_path)
    assert row["provenance"][-1]["finish"] == "length"


def test_steps_read_nothing_but_the_answer(tmp_path: Path) -> None:
    step = reply_step(engine_of("x"), branches=("comply",))
    [task] = step.tasks(BENIGN)
    assert isinstance(task, Task)
    assert step.read(task, Generation("They flap.", (), "stop", 0)) == {"response": "They flap."}
