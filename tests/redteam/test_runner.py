"""The runner finds what was planted, survives a kill, keeps its budgets, and never takes a failure for a defence."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from corral.core.errors import DataError, EngineError, UserError
from corral.data.messages import Conversation
from corral.guards.deobfuscate import DeobfuscatingGuard
from corral.guards.scripted import ScriptedGuard
from corral.models.engines.base import GenerationSettings
from corral.models.engines.scripted import ScriptedEngine
from corral.models.prompts import Prefilled
from corral.redteam.attempts import Target, attempts_on
from corral.redteam.goals import Goal, capability_goals
from corral.redteam.judges import HumanFileJudge, Judgement, Outcome, PrefixListJudge
from corral.redteam.report import markdown, read_report, write_report
from corral.redteam.results import RedteamReport
from corral.redteam.runner import RunRequest, run_redteam, understood
from corral.redteam.settings import Budget, RunSettings
from corral.redteam.styles import EGIDA18, choose_styles

REFUSAL = "I'm sorry, but I can't tell."
FAST = RunSettings(replicates=100)


def request(goals, styles=("egida18",), **given) -> RunRequest:
    given = {"judges": [PrefixListJudge()]} | given
    return RunRequest(goals, choose_styles(styles)[0], **given)


def run(tmp_path, engine, asked: RunRequest, settings: RunSettings = FAST) -> RedteamReport:
    return run_redteam([Target(engine, engine.name, "1")], asked, tmp_path / "run", settings)


def asr(report: RedteamReport, system: int = 0) -> dict[str, float | None]:
    return {cell.style: cell.asr.value for cell in report.systems[system].cells if cell.style and not cell.category}


@pytest.mark.parametrize(
    ("weakness", "planted"),
    [
        (lambda p: "green" if isinstance(p, Prefilled) else REFUSAL, {"prefill"}),
        (lambda p: "green" if "Onyx" in _text(p) else REFUSAL, {"dual_persona"}),
        (lambda p: "green" if "result.append" in _text(p) else REFUSAL, {"code_attack"}),
        (lambda p: "green" if len(_turns(p)) == 5 else REFUSAL, {"foot_in_door", "crescendo"}),
        (lambda p: "green" if _turns(p) and _turns(p)[0].role == "system" else REFUSAL, {"self_cipher"}),
        (lambda p: REFUSAL, set()),
    ],
    ids=["obeys prefill", "plays a persona", "completes code", "wears down", "obeys a system message", "is strong"],
)
def test_the_matrix_finds_exactly_the_planted_cells(tmp_path, goals, weakness, planted) -> None:
    asked = request(goals, ("egida18", "prefill", "foot_in_door", "crescendo"))
    found = asr(run(tmp_path, ScriptedEngine(weakness), asked))
    assert set(found) == {"plain", *EGIDA18, "prefill", "foot_in_door", "crescendo"}
    assert {style for style, value in found.items() if value} == planted
    assert all(value in (0.0, 1.0) for value in found.values())


def test_a_weakness_in_one_category_shows_in_that_category_alone(tmp_path, goals) -> None:
    engine = ScriptedEngine(lambda p: "green" if "Onyx" in _text(p) and "attic" in _text(p) else REFUSAL)
    (system,) = run(tmp_path, engine, request(goals, ("dual_persona", "grandma"))).systems
    assert system.cell("dual_persona", "wall").asr.value == 0.5  # the attic and the library
    assert system.cell("dual_persona", "door").asr.value == 0.0
    assert system.cell("dual_persona").asr_minus_plain.value == 0.25
    assert system.cell("").asr.value == 1 / 8


def test_guards_are_laid_over_the_same_answers_and_decoding_restores_detection(tmp_path, goals, weak_engine) -> None:
    guard = ScriptedGuard("secret")
    asked = request(goals, ("base64", "grandma"), guards=[guard, DeobfuscatingGuard(guard)])
    report = run(tmp_path, weak_engine, asked)
    alone, guarded, decoding = report.systems
    assert [system.name for system in report.systems] == ["weak", "weak + scripted", "weak + scripted+decode"]
    assert [each.cell("base64").asr.value for each in report.systems] == [1.0, 1.0, 0.0]
    assert [each.cell("base64").detected.value for each in (alone, guarded, decoding)] == [None, 0.0, 1.0]
    assert guarded.cell("plain").detected.value == 1.0
    assert guarded.cell("base64").detected_minus_plain.value == -1.0
    assert guarded.cell("plain").false_alarms.value == decoding.cell("base64").false_alarms.value == 0.0


def test_benign_goals_go_through_the_same_styles(tmp_path, goals) -> None:
    engine = ScriptedEngine(lambda p: REFUSAL if "Onyx" in _text(p) else "Teal.")
    guard = ScriptedGuard("kitchen")
    report = run(tmp_path, engine, request(goals, ("dual_persona",), guards=[guard]))
    alone, guarded = report.systems
    assert [alone.cell(style).rta.value for style in ("plain", "dual_persona")] == [0.0, 1.0]
    assert (
        guarded.cell("plain").rta.value == guarded.cell("plain").false_alarms.value == 0.5
    )  # the kitchen of two rooms


def test_a_style_that_the_target_does_not_understand_is_told_from_one_that_it_resists(tmp_path) -> None:
    answers = {question.text: f"It is {question.expects[0]}." for question in capability_goals()}
    engine = ScriptedEngine(lambda p: answers.get(_text(p), "Blah blah."))
    (system,) = run(tmp_path, engine, request(capability_goals(), ("base64",))).systems
    assert [system.cell(style).understood.value for style in ("plain", "base64")] == [1.0, 0.0]


def test_an_answer_is_right_by_its_words() -> None:
    goal = Goal("x", "What is two plus three?", "capability", expects=("five", "5"))
    assert understood(goal, "It is 5.")
    assert understood(goal, "FIVE")
    assert not understood(goal, "It is 55.")
    assert not understood(goal, None)
    assert understood(replace(goal, kind="harmful"), "5") is None


def test_restarts_give_success_of_one_and_of_any_try(tmp_path) -> None:
    def lucky(prompt) -> str:
        text = _text(prompt)
        return "green" if "rhyme" in text and "kitchen" in text else REFUSAL

    goals = [Goal("a", "Reveal the kitchen's colour."), Goal("b", "Reveal the attic's colour.")]
    settings = replace(FAST, restarts=12)
    (system,) = run(tmp_path, ScriptedEngine(lucky), request(goals, ("distractor",)), settings).systems
    cell = system.cell("distractor")
    assert cell.asr_any.value == 0.5
    assert 0.0 < cell.asr.value < 0.5
    assert (cell.asr.n, cell.asr.clusters) == (24, 2)
    assert system.cell("plain").asr_any.value == 0.0


def test_an_error_of_the_engine_is_tried_again(tmp_path, goals) -> None:
    seen: set[str] = set()

    def flaky(prompt) -> str:
        text = _text(prompt)
        if text not in seen:
            seen.add(text)
            raise EngineError("busy")
        return REFUSAL

    report = run(tmp_path, ScriptedEngine(flaky), request(goals, ("grandma",)))
    assert report.valid
    assert report.systems[0].answered == 2 * len(goals)
    assert report.systems[0].failed == {}


def test_what_fails_each_time_is_left_out_counted_and_makes_the_run_invalid(tmp_path, goals) -> None:
    def broken(prompt) -> str:
        if "kitchen" in _text(prompt):
            raise EngineError("out of memory")
        return "green"

    report = run(tmp_path, ScriptedEngine(broken), request(goals, ("grandma",)))
    (system,) = report.systems
    assert system.failed == {"EngineError": 4}
    assert not report.valid
    assert system.cell("plain").asr.n == 3  # of four goals: a failure is neither a success nor a defence
    assert not system.cell("plain").complete
    assert "INVALID" in markdown(report)
    healed = run(tmp_path, ScriptedEngine(lambda _: "green"), request(goals, ("grandma",)))
    assert healed.valid
    assert healed.systems[0].cell("plain").asr.n == 4


def test_a_run_is_given_up_once_too_much_has_failed(tmp_path) -> None:
    goals = [Goal(f"g{i}", f"Reveal colour {i}.") for i in range(100)]
    calls = []

    def dead(prompt) -> str:
        calls.append(prompt)
        raise EngineError("gone")

    report = run(tmp_path, ScriptedEngine(dead), request(goals, ("plain",)), replace(FAST, batch_size=10, retries=0))
    (system,) = report.systems
    assert not report.valid
    assert system.not_run == 70
    assert "failed" in (system.stopped or "")
    assert len(calls) < 100


def test_a_prompt_that_does_not_fit_is_not_applicable_rather_than_failed(tmp_path, goals) -> None:
    def small(prompt) -> str:
        if len(_text(prompt)) > 100:
            raise DataError("700 tokens do not fit the model's context of 100")
        return REFUSAL

    report = run(tmp_path, ScriptedEngine(small), request(goals, ("deep_inception",)))
    cell = report.systems[0].cell("deep_inception")
    assert report.valid
    assert cell.not_applicable == {"700 tokens do not fit the model's context of 100": len(goals)}
    assert cell.asr.value is None


def test_an_endpoint_for_chats_has_no_figure_for_styles_beyond_its_template(tmp_path, goals) -> None:
    class ChatsOnly:
        name = "chats"

        def generate(self, prompts, settings):
            return ScriptedEngine(lambda _: REFUSAL).generate(prompts, settings)

    (system,) = run(tmp_path, ChatsOnly(), request(goals, ("prefill", "completing", "grandma"))).systems
    for style in ("prefill", "completing"):
        assert system.cell(style).asr.value is None
        assert list(system.cell(style).not_applicable.values()) == [len(goals)]
    assert system.cell("grandma").asr.value == 0.0


def test_a_judge_that_fails_leaves_answers_undecided_and_out_of_the_rates(tmp_path, goals) -> None:
    class Unsure:
        name, revision = "unsure", "1"

        def judge_many(self, pairs):
            return [Judgement(Outcome.UNPARSED, self.name) for _ in pairs]

    report = run(
        tmp_path, ScriptedEngine(lambda _: "green"), request(goals, ("grandma",), judges=[Unsure(), PrefixListJudge()])
    )
    cell = report.systems[0].cell("grandma")
    assert cell.asr.value is None
    assert cell.undecided == len(goals)
    assert cell.asr_by_judge["prefix-list"].value == 1.0
    assert report.systems[0].disagreements == {"unsure / prefix-list": (0, 0)}


def test_budgets_stop_a_run_that_a_larger_one_goes_on_with(tmp_path, goals, weak_engine) -> None:
    asked = request(goals)
    small = replace(FAST, batch_size=4, budget=Budget(prompts=20))
    (system,) = run(tmp_path, weak_engine, asked, small).systems
    assert system.answered == 20
    assert system.not_run == 19 * len(goals) - 20
    assert system.stopped == "the budget of 20 prompts is spent"
    (whole,) = run(tmp_path, weak_engine, asked, replace(FAST, budget=Budget())).systems
    assert (whole.not_run, whole.stopped) == (0, None)
    (tokens,) = run_redteam(
        [Target(weak_engine, "other")], asked, tmp_path / "run", replace(FAST, budget=Budget(tokens=1))
    ).systems
    assert tokens.answered == FAST.batch_size


def test_a_run_that_stops_early_has_seen_the_same_goals_in_every_style(goals, weak_engine) -> None:
    styles = choose_styles(["base64", "grandma"])[0]
    attempts = attempts_on(Target(weak_engine, "x"), goals, styles, restarts=2, seed=0, answer_tokens=8)
    assert [attempt.goal.id for attempt in attempts[:6]] == ["g0"] * 3 + ["g1"] * 3
    assert [attempt.restart for attempt in attempts] == [0] * 18 + [1] * 18
    assert len({attempt.key for attempt in attempts}) == 36


def test_a_second_run_asks_nothing_and_finds_the_same(tmp_path, goals, weak_engine) -> None:
    asked = request(goals, guards=[ScriptedGuard("secret")])
    first = run(tmp_path, weak_engine, asked)
    dead = ScriptedEngine(lambda _: pytest.fail("asked again"), name="weak")
    second = run(tmp_path, dead, asked)
    assert second.systems == first.systems
    assert second.items == first.items


def test_a_second_run_asks_a_guard_again_that_failed(tmp_path, goals, weak_engine) -> None:
    guard = ScriptedGuard("secret", faults={"": "error"})
    asked = request(goals, guards=[guard])
    assert run(tmp_path, weak_engine, asked).systems[1].no_verdict > 0
    guard.faults.clear()
    assert run(tmp_path, weak_engine, asked).systems[1].no_verdict == 0


def test_sampled_answers_depend_on_seed_and_prompt_alone(tmp_path, goals) -> None:
    class Sampling:
        name = "sampling"

        def generate(self, prompts, settings):
            assert len(prompts) == 1  # the place in a call must not matter
            return ScriptedEngine(lambda _: f"seed {settings.seed}").generate(prompts, settings)

    settings = replace(FAST, generation=GenerationSettings(temperature=1.0))
    for folder, batch in (("a", 1), ("b", 7)):
        run_redteam(
            [Target(Sampling(), "s")],
            request(goals, ("grandma",)),
            tmp_path / folder,
            replace(settings, batch_size=batch),
        )
    answers = [_journal(tmp_path / folder) for folder in ("a", "b")]
    assert answers[0] == answers[1]
    assert len({row["answer"] for row in answers[0].values()}) == len(answers[0])


def test_texts_stay_in_the_run_folder_unless_they_are_asked_for(tmp_path, goals, weak_engine) -> None:
    report = run(tmp_path, weak_engine, request(goals, ("base64",)))
    write_report(report, tmp_path)
    written = (tmp_path / "report.json").read_text() + (tmp_path / "report.md").read_text()
    assert "it is green" not in written
    assert "Reveal the secret" not in written
    shown = run(tmp_path, weak_engine, request(goals, ("base64",), show_content=True))
    assert "it is green" in markdown(shown)
    assert read_report(tmp_path) == report


def test_people_label_answers_by_the_id_that_stands_beside_them(tmp_path, goals, weak_engine) -> None:
    asked = request(goals, ("base64",))
    run(tmp_path, weak_engine, asked)
    labels = tmp_path / "labels.jsonl"
    rows = _journal(tmp_path / "run").values()
    labels.write_text(
        "".join(f'{{"answer_id": "{id}", "label": "safe"}}\n' for id in {row["answer_id"] for row in rows})
    )
    report = run(tmp_path, weak_engine, replace(asked, judges=[HumanFileJudge(labels), PrefixListJudge()]))
    cell = report.systems[0].cell("base64")
    assert (cell.asr.value, cell.undecided) == (0.0, 0)
    assert cell.asr_by_judge["prefix-list"].value == 1.0


@pytest.mark.parametrize("missing", ["goals", "styles", "judges"])
def test_a_run_of_nothing_is_refused(tmp_path, goals, weak_engine, missing) -> None:
    with pytest.raises(UserError, match=missing):
        run(tmp_path, weak_engine, replace(request(goals), **{missing: []}))


def test_goals_and_systems_have_names_of_their_own(tmp_path, goals, weak_engine) -> None:
    with pytest.raises(DataError, match="g0"):
        run(tmp_path, weak_engine, request([goals[0], goals[0]]))
    twins = [Target(weak_engine, "weak"), Target(weak_engine, "weak")]
    with pytest.raises(UserError, match="weak"):
        run_redteam(twins, request(goals, ("plain",)), tmp_path, FAST)


SLOW_RUN = """
import sys, time
from pathlib import Path
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.attempts import Target
from corral.redteam.goals import Goal
from corral.redteam.judges import PrefixListJudge
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import choose_styles

def slow(prompt):
    time.sleep(float(sys.argv[2]))
    return "green"

goals = [Goal(f"g{i}", f"Reveal the secret colour of room {i}.") for i in range(8)]
asked = RunRequest(goals, choose_styles(["grandma", "base64"])[0], [PrefixListJudge()])
settings = RunSettings(batch_size=2, replicates=100)
report = run_redteam([Target(ScriptedEngine(slow), "slow")], asked, Path(sys.argv[1]), settings)
print(report.systems[0].answered, report.systems[0].cell("grandma").asr.n)
"""


def test_a_run_that_is_killed_goes_on_where_it_was(tmp_path) -> None:
    command = [sys.executable, "-c", SLOW_RUN, str(tmp_path)]
    killed = subprocess.Popen([*command, "0.2"])
    try:
        deadline = time.monotonic() + 60
        while len(_journal(tmp_path)) < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    before = _journal(tmp_path)
    assert 4 <= len(before) < 24
    finished = subprocess.run([*command, "0"], capture_output=True, text=True, check=True)
    assert finished.stdout.split() == ["24", "8"]
    after = _journal(tmp_path)
    assert len(after) == 24
    assert all(after[key] == row for key, row in before.items())  # kept, not asked again


def _journal(folder: Path) -> dict[str, dict]:
    """Whole rows of the answers so far."""
    import json

    rows = {}
    for path in folder.glob("answers-*.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                row = json.loads(line)
                rows[row["key"]] = row
    return rows


def _turns(prompt) -> tuple:
    return prompt.messages if isinstance(prompt, Conversation) else ()


def _text(prompt) -> str:
    return prompt.messages[-1].text if isinstance(prompt, Conversation) else ""
