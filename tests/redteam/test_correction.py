"""A run's rates with the error of its judge corrected for; figures by hand from Rogan and Gladen's formula."""

from __future__ import annotations

import pytest

from corral.core.errors import UserError
from corral.guards.scripted import ScriptedGuard
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.agreement import judge_labelled
from corral.redteam.attempts import Target
from corral.redteam.correction import correct_run
from corral.redteam.judges import GuardJudge, Judgement, Outcome, PrefixListJudge
from corral.redteam.labelled import LabelledReply, LabelledSet
from corral.redteam.report import correction_table
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import choose_styles

REFUSAL = "I'm sorry, but I can't tell."


def labelled(question="success", *, right: int = 8, of: int = 10) -> LabelledSet:
    """Replies on which the list of phrases is right about refusals always, and about other replies ``right`` times."""
    positive_opens_so = question == "refusal"
    replies = [LabelledReply(f"Reveal {i}.", REFUSAL, positive_opens_so, f"r{i}") for i in range(of)]
    replies += [
        LabelledReply(f"Reveal {i}.", "Well, green.", (i < right) is not positive_opens_so, f"a{i}") for i in range(of)
    ]
    return LabelledSet("made-up", question, "whatever", lambda _: iter(replies), "nowhere")


def run(folder, goals, reply, *, guards=(), judge=None):
    asked = RunRequest(goals, choose_styles(["grandma"])[0], [judge or PrefixListJudge()], guards)
    return run_redteam([Target(ScriptedEngine(reply), "m")], asked, folder, RunSettings(replicates=200))


def weak(prompt) -> str:
    return "green" if "grandmother" in prompt.messages[-1].text else REFUSAL


def test_success_is_corrected_style_by_style(tmp_path, goals) -> None:
    judged = judge_labelled(PrefixListJudge(), labelled())
    found = correct_run(run(tmp_path, goals, weak), [judged], replicates=200)
    by_style = {rate.style: rate for rate in found.rates}
    assert list(by_style) == ["plain", "grandma", ""]
    # it said yes of 8 that were and of 2 that were not: sensitivity 8/8, specificity 10/12
    assert by_style["grandma"].sensitivity.value == 1.0
    assert by_style["grandma"].specificity.value == pytest.approx(10 / 12)
    assert (by_style["grandma"].judged.value, by_style["grandma"].corrected.value) == (1.0, 1.0)
    assert (by_style["plain"].judged.value, by_style["plain"].corrected.value) == (0.0, 0.0)
    assert by_style["grandma"].figure == "asr"
    assert "`made-up`" in found.caveats[0]
    assert "grandma" in str(correction_table(found).rows)


def test_what_a_guard_replaced_needs_no_judge(tmp_path, goals) -> None:
    report = run(tmp_path, goals, lambda _: "green", guards=[ScriptedGuard("kitchen")])
    found = correct_run(report, [judge_labelled(PrefixListJudge(), labelled())], replicates=200)
    behind = next(rate for rate in found.rates if rate.system == "m + scripted" and rate.style == "plain")
    assert behind.judged.value == behind.corrected.value == 0.75  # one of four goals is about the kitchen


def test_refusals_of_benign_goals_are_corrected_by_a_set_about_refusal(tmp_path, goals) -> None:
    judged = judge_labelled(PrefixListJudge(), labelled("refusal"))
    found = correct_run(run(tmp_path, goals, lambda _: REFUSAL), [judged], replicates=200)
    plain = found.rates[0]
    assert plain.figure == "rta"
    # said refusal of 10 refusals of 12 (two are in other words): 10/12 of them are found, all others are let be
    assert plain.sensitivity.value == pytest.approx(10 / 12)
    assert plain.corrected.value == 1.0
    harmful = [goal for goal in goals if goal.kind == "harmful"]
    with pytest.raises(UserError, match="no goal of the kind"):
        correct_run(run(tmp_path / "h", harmful, weak), [judged], replicates=200)


def test_what_the_judge_left_open_fails_closed(tmp_path, goals) -> None:
    class Unsure(PrefixListJudge):
        def judge_many(self, pairs):
            undecided = Judgement(Outcome.UNPARSED, self.name)
            return [undecided if "attic" in request else self.judge(request, reply) for request, reply in pairs]

    report = run(tmp_path, goals, lambda _: REFUSAL, judge=Unsure())
    found = correct_run(report, [judge_labelled(PrefixListJudge(), labelled())], replicates=200)
    plain = found.rates[0]
    assert (plain.undecided, plain.corrected.n) == (1, 3)
    assert (plain.corrected.value, plain.fail_closed.value) == (0.0, 0.25)


def test_a_judge_that_the_run_did_not_have_corrects_nothing(tmp_path, goals) -> None:
    judged = judge_labelled(GuardJudge(ScriptedGuard("green")), labelled())
    with pytest.raises(UserError, match="`prefix-list`"):
        correct_run(run(tmp_path, goals, weak), [judged])
