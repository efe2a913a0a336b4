from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import CorralError, DataError, EngineError, UserError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.evals.tasks.moderator import (
    CANNED_REFUSAL,
    ModeratorResult,
    ModeratorSettings,
    compare_guards,
    run_moderator,
)
from corral.guards.policy import Action, Policy
from corral.guards.scripted import ScriptedGuard
from corral.models.engines.base import Generation, GenerationSettings, Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.judges import Judgement, Outcome, PrefixListJudge

JUDGE = PrefixListJudge()
NEVER = ScriptedGuard(rule=lambda text, target: 0.0, name="never")
ALWAYS = ScriptedGuard(rule=lambda text, target: 1.0, name="always")

Prompts = list[ModerationExample]


def replaced(result: ModeratorResult) -> set[str]:
    return {item.id.partition("/")[2] for item in result.items if item.replaced}


def test_without_a_guard_rates_are_those_of_the_target(prompts: Prompts, engine: Any) -> None:
    found = run_moderator(engine(), None, prompts, JUDGE)
    assert (found.asr.value, found.rta.value) == (0.8, 0.1)  # the reply without text neither complies nor refuses
    assert found.defended == found.undefended
    assert found.guard == "none"


@pytest.mark.parametrize("mode", ["prompt", "response", "both"])
def test_a_guard_that_never_flags_changes_nothing(prompts: Prompts, engine: Any, mode: Any) -> None:
    found = run_moderator(engine(), NEVER, prompts, JUDGE, mode=mode)
    assert found.defended == found.undefended
    assert (found.change.asr.value, found.change.rta.value) == (0.0, 0.0)
    assert replaced(found) == set()


@pytest.mark.parametrize("mode", ["prompt", "both"])
def test_a_guard_that_always_flags_delivers_refusals_only(prompts: Prompts, engine: Any, mode: Any) -> None:
    found = run_moderator(engine(), ALWAYS, prompts, JUDGE, mode=mode)
    assert (found.asr.value, found.rta.value) == (0.0, 1.0)
    assert len(replaced(found)) == len(prompts)


def test_what_is_delivered_instead_is_a_refusal_to_the_judge() -> None:
    assert JUDGE.judge("", CANNED_REFUSAL).refuses


def test_a_reply_without_text_is_not_shown_to_the_guard(prompts: Prompts, engine: Any) -> None:
    found = run_moderator(engine(), ALWAYS, prompts, JUDGE, mode="response")
    assert found.rta.value == 0.9
    (silent,) = [item for item in found.items if item.outcome == "empty"]
    assert (silent.verdicts, silent.replaced) == ({}, False)


@pytest.mark.parametrize(
    ("mode", "flagged"),
    [
        ("prompt", {"reveal secret colour 5"}),
        ("response", {"reveal secret colour 6", "name a fruit 6"}),
        ("both", {"reveal secret colour 5", "reveal secret colour 6", "name a fruit 6"}),
    ],
)
def test_the_mode_says_what_is_checked(prompts: Prompts, engine: Any, mode: Any, flagged: set[str]) -> None:
    words = {"prompt": "reveal secret colour 5", "response": "6"}
    guard = ScriptedGuard(rule=lambda text, target: float(words[target] in text and text.startswith(OPENING[target])))
    assert replaced(run_moderator(engine(), guard, prompts, JUDGE, mode=mode)) == flagged


OPENING = {"prompt": "reveal", "response": "Here"}


def test_rates_and_their_paired_change_are_those_counted_by_hand(prompts: Prompts, engine: Any) -> None:
    # flags four harmful prompts, two of which the target refuses anyway, and three benign ones, one likewise
    words = [f"colour {i}" for i in (0, 1, 2, 3)] + [f"fruit {i}" for i in (0, 2, 3)]
    found = run_moderator(engine(), ScriptedGuard(words), prompts, JUDGE, mode="prompt")
    assert (found.asr.value, found.rta.value) == (0.6, 0.3)
    assert found.change.asr.value == pytest.approx(-0.2)
    assert found.change.rta.value == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("action", "held_back"),
    [(Action.BLOCK, True), (Action.UNDECIDED, True), (Action.FLAG, False), (Action.ALLOW, False)],
)
def test_the_policy_says_what_a_missing_verdict_means(
    prompts: Prompts, engine: Any, action: Action, held_back: bool
) -> None:
    guard = ScriptedGuard(faults={"colour 7": "timeout"})
    settings = ModeratorSettings(policy=Policy(on_error=action))
    found = run_moderator(engine(), guard, prompts, JUDGE, mode="prompt", settings=settings)
    assert found.no_verdict == 1
    assert replaced(found) == ({"reveal secret colour 7"} if held_back else set())


def test_harm_that_the_policy_only_flags_is_delivered(prompts: Prompts, engine: Any) -> None:
    policy = Policy.load({"prompt": {"action": "flag"}, "response": {"action": "flag"}})
    found = run_moderator(engine(), ALWAYS, prompts, JUDGE, settings=ModeratorSettings(policy=policy))
    assert found.defended == found.undefended


def test_the_target_answers_once_for_all_guards(prompts: Prompts, engine: Any, tmp_path: Path) -> None:
    target = engine()
    report = compare_guards(target, [NEVER, ALWAYS, ScriptedGuard(("colour",))], prompts, JUDGE, journal=tmp_path)
    assert len(target.asked) == len(prompts)
    assert [guard.undefended for guard in report.guards] == [report.undefended] * 3
    assert [(each.first, each.second) for each in report.comparisons] == [
        ("never", "always"),
        ("never", "scripted"),
        ("always", "scripted"),
    ]
    always_against_words = report.comparisons[-1].difference
    assert (always_against_words.asr.value, always_against_words.rta.value) == (0.0, 0.9)


def test_a_rerun_asks_a_guard_again_that_failed(prompts: Prompts, engine: Any, tmp_path: Path) -> None:
    guard = ScriptedGuard(faults={"colour 7": "timeout"})
    assert run_moderator(engine(), guard, prompts, JUDGE, mode="prompt", journal=tmp_path).no_verdict == 1
    guard.faults.clear()
    assert run_moderator(engine(), guard, prompts, JUDGE, mode="prompt", journal=tmp_path).no_verdict == 0


def test_a_rerun_asks_nobody_again_and_finds_the_same(prompts: Prompts, engine: Any, tmp_path: Path) -> None:
    first = run_moderator(engine(), ALWAYS, prompts, JUDGE, journal=tmp_path)
    target = engine()
    assert run_moderator(target, ALWAYS, prompts, JUDGE, journal=tmp_path) == first
    assert target.asked == []
    again = ModeratorSettings(resume=False)
    assert run_moderator(target, ALWAYS, prompts, JUDGE, journal=tmp_path, settings=again) == first
    assert len(target.asked) == len(prompts)


def test_a_run_that_broke_off_goes_on_where_it_stopped(prompts: Prompts, engine: Any, tmp_path: Path) -> None:
    class Breaking(engine):
        def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
            if len(self.asked) >= 8:
                raise EngineError("the server is down")
            return super().generate(prompts, settings)

    settings = ModeratorSettings(batch_size=4)
    with pytest.raises(EngineError, match="down"):
        run_moderator(Breaking(), None, prompts, JUDGE, journal=tmp_path, settings=settings)
    target = engine()
    found = run_moderator(target, None, prompts, JUDGE, journal=tmp_path, settings=settings)
    assert target.asked == [each.text for each in prompts[8:]]
    assert found == run_moderator(engine(), None, prompts, JUDGE)


def test_replies_of_other_settings_or_weights_are_not_reused(prompts: Prompts, engine: Any, tmp_path: Path) -> None:
    target = engine()
    for settings in (
        ModeratorSettings(),
        ModeratorSettings(target_revision="r2"),
        ModeratorSettings(generation=GenerationSettings(max_new_tokens=9)),
    ):
        run_moderator(target, None, prompts, JUDGE, journal=tmp_path, settings=settings)
    assert len(target.asked) == 3 * len(prompts)
    assert len(list(tmp_path.glob("replies-*.jsonl"))) == 3


def test_more_prompts_need_only_their_own_replies(prompts: Prompts, engine: Any, tmp_path: Path) -> None:
    run_moderator(engine(), NEVER, prompts[:5], JUDGE, journal=tmp_path)
    target = engine()
    found = run_moderator(target, NEVER, prompts, JUDGE, journal=tmp_path)
    assert target.asked == [each.text for each in prompts[5:]]
    assert len(found.items) == len(prompts)


def test_a_prompt_that_does_not_fit_is_left_out_and_takes_no_other_with_it(prompts: Prompts) -> None:
    def reply(prompt: Prompt) -> str:
        assert isinstance(prompt, Conversation)
        if prompt.messages[-1].text.endswith("colour 3"):
            raise DataError("does not fit")
        return "Green."

    report = compare_guards(ScriptedEngine(reply), [ALWAYS], prompts, JUDGE)
    assert (report.unanswered, report.valid) == (1, True)  # one of twenty
    assert (report.undefended.asr.n, report.undefended.asr.unscored) == (9, 1)
    assert report.guards[0].change.asr.n == 9
    assert next(item for item in report.guards[0].items if item.id.endswith("colour 3")).outcome is None


class ServedEngine(ScriptedEngine):
    """Fails on some prompts with an error of their own, as an engine over a server does."""

    def generate_each(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation | CorralError]:
        out: list[Generation | CorralError] = []
        for prompt in prompts:
            try:
                out += self.generate([prompt], settings)
            except CorralError as error:
                out.append(error)
        return out


def test_a_server_that_refuses_some_prompts_makes_the_run_invalid_beyond_one_in_twenty(prompts: Prompts) -> None:
    replies = {each.text: "Green." for each in prompts[2:]}
    report = compare_guards(ServedEngine(replies), [], prompts, JUDGE)
    assert (report.unanswered, report.valid) == (2, False)


def test_a_server_that_answers_nothing_stops_the_run(prompts: Prompts) -> None:
    with pytest.raises(EngineError):
        run_moderator(ServedEngine({}), None, prompts, JUDGE)


def test_replies_that_the_judge_cannot_label_are_left_out(prompts: Prompts, engine: Any) -> None:
    class Unsure:
        name, revision = "unsure", "r1"

        def judge_many(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
            return [Judgement(Outcome.UNPARSED if "4" in reply else Outcome.COMPLIES, self.name) for _, reply in pairs]

    report = compare_guards(engine(), [ALWAYS], prompts, Unsure())
    assert (report.unjudged, report.undefended.asr.n, report.undefended.asr.value) == (2, 9, 1.0)


def test_the_judge_reads_the_plain_goal_and_the_target_the_wrapped_prompt(make_example: Any, engine: Any) -> None:
    from dataclasses import replace

    seen: list[tuple[str, str]] = []

    class Recording(PrefixListJudge):
        def judge_many(self, pairs: Sequence[tuple[str, str]]) -> list[Judgement]:
            seen.extend(pairs)
            return super().judge_many(pairs)

    wrapped = replace(make_example("In a play, reveal the colour", harmful=True), raw={"goal": "reveal the colour"})
    target = engine()
    run_moderator(target, None, [wrapped], Recording())
    assert target.asked == ["In a play, reveal the colour"]
    assert [goal for goal, _ in seen] == ["reveal the colour"]


def test_sampled_replies_depend_on_the_prompt_and_not_on_its_place(prompts: Prompts) -> None:
    class Sampling(ScriptedEngine):
        def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
            return [Generation(f"{settings.seed}/{i}", (), "stop", 1) for i, _ in enumerate(prompts)]

    settings = ModeratorSettings(generation=GenerationSettings(temperature=1.0))

    def replies(some: Prompts) -> dict[str, str]:
        report = compare_guards(Sampling({}), [NEVER], some, JUDGE, settings=settings, show_content=True)
        return {item.id: item.texts["reply"] for item in report.guards[0].items if item.texts}

    forward, backward = replies(prompts), replies(prompts[::-1])
    assert forward == backward
    assert len(set(forward.values())) == len(prompts)


def test_texts_are_in_the_report_only_on_request(prompts: Prompts, engine: Any) -> None:
    redacted = compare_guards(engine(), [NEVER], prompts[:3], JUDGE).model_dump_json()
    assert "Here you are" not in redacted
    shown = compare_guards(engine(), [NEVER], prompts[:3], JUDGE, show_content=True)
    assert shown.guards[0].items[2].texts == {
        "prompt": "reveal secret colour 2",
        "reply": "Here you are: answer to reveal secret colour 2",
    }


def test_verdict_journals_hold_no_text(prompts: Prompts, engine: Any, tmp_path: Path) -> None:
    run_moderator(engine(), ALWAYS, prompts, JUDGE, journal=tmp_path)
    (verdicts,) = tmp_path.glob("verdicts-always-*.jsonl")
    assert "colour" not in verdicts.read_text()
    assert len([json.loads(line) for line in verdicts.read_text().splitlines()]) == 2 * len(prompts) - 1


@pytest.mark.parametrize("harmful", [None])
def test_prompts_of_unknown_kind_are_refused(
    make_example: Callable[..., ModerationExample], engine: Any, harmful: None
) -> None:
    with pytest.raises(DataError, match="unknown"):
        run_moderator(engine(), None, [make_example("Hello", harmful=harmful)], JUDGE)
    with pytest.raises(DataError, match="no prompts"):
        run_moderator(engine(), None, [], JUDGE)


def test_two_guards_of_one_name_are_refused(prompts: Prompts, engine: Any) -> None:
    with pytest.raises(UserError, match="two guards are named `never`"):
        compare_guards(engine(), [NEVER, NEVER], prompts, JUDGE)
