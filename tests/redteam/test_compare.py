"""Two systems compare on the same goals, styles and tries, or not at all."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corral.core.errors import NotFoundError, UserError
from corral.guards.scripted import ScriptedGuard
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.attempts import Target
from corral.redteam.compare import compare_systems, system_of
from corral.redteam.judges import GuardJudge, PrefixListJudge
from corral.redteam.report import comparison_table
from corral.redteam.runner import RunRequest, run_redteam
from corral.redteam.settings import RunSettings
from corral.redteam.styles import choose_styles

REFUSAL = "I'm sorry, but I can't tell."
SETTINGS = RunSettings(replicates=200)


def run(folder, goals, reply, *, styles=("grandma", "base64"), guards=(), judge=None, settings=SETTINGS):
    asked = RunRequest(goals, choose_styles(styles)[0], [judge or PrefixListJudge()], guards)
    return run_redteam([Target(ScriptedEngine(reply), folder.name)], asked, folder, settings)


def test_a_defence_is_compared_with_none_style_by_style(tmp_path, goals) -> None:
    def weak(prompt):
        return "green" if "grandmother" in prompt.messages[-1].text else REFUSAL

    before, after = run(tmp_path / "weak", goals, weak), run(tmp_path / "strong", goals, lambda _: REFUSAL)
    found = compare_systems(system_of(before, None), system_of(after, None), replicates=200)
    by_style = {each.style: each for each in found.styles}
    assert list(by_style) == ["plain", "grandma", "base64", ""]
    assert by_style["grandma"].asr.value == -1.0
    assert by_style["grandma"].asr_mcnemar_p == pytest.approx(2 * 0.5**4)  # four goals, all one way
    assert by_style["base64"].asr.value == 0.0
    assert by_style[""].asr.value == -0.5
    assert by_style["grandma"].rta.value == 1.0
    assert "strong minus weak" in comparison_table(found).title


def test_systems_of_one_run_are_named(tmp_path, goals) -> None:
    report = run(tmp_path / "m", goals, lambda _: "green", guards=[ScriptedGuard("secret")])
    found = compare_systems(system_of(report, "m"), system_of(report, "m + scripted"), replicates=200)
    assert next(each for each in found.styles if each.style == "plain").asr.value == -1.0
    with pytest.raises(UserError, match="several"):
        system_of(report, None)
    with pytest.raises(NotFoundError, match="m \\+ other"):
        system_of(report, "m + other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"goals": 3}, "other goals"),
        ({"judge": GuardJudge(ScriptedGuard("green"))}, "other judges"),
        ({"styles": ("evil_confidant",)}, None),
    ],
)
def test_runs_that_measured_something_else_are_refused(tmp_path, goals, change, message) -> None:
    first = run(tmp_path / "a", goals, lambda _: "green")
    given = {"judge": change.get("judge"), "styles": change.get("styles", ("grandma", "base64"))}
    second = run(tmp_path / "b", goals[: change.get("goals", len(goals))], lambda _: "green", **given)
    if message is None:  # the plain goal is in every run
        found = compare_systems(system_of(first, None), system_of(second, None), replicates=200)
        assert [each.style for each in found.styles] == ["plain"]
        return
    with pytest.raises(UserError, match=message):
        compare_systems(system_of(first, None), system_of(second, None))


def test_a_style_of_another_wording_is_refused(tmp_path, goals) -> None:
    first = run(tmp_path / "a", goals, lambda _: "green")
    changed = first.model_copy(update={"styles": {**first.styles, "grandma": "grandma@2-00000000"}})
    with pytest.raises(UserError, match="grandma@2"):
        compare_systems(system_of(first, None), system_of(changed, None))


def test_tries_are_paired(tmp_path, goals) -> None:
    settings = replace(SETTINGS, restarts=2)
    report = run(tmp_path / "a", goals, lambda _: "green", settings=settings)
    found = compare_systems(system_of(report, None), system_of(report, None), replicates=200)
    assert all(each.asr.n == 2 * 4 for each in found.styles if each.style)
