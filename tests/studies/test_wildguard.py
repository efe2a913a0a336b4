"""The WildGuard recipe, on a tiny random model and templated text: the whole path, and going on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from corral.core.errors import RunError, UserError
from corral.core.evidence import EVIDENCE, Evidence
from corral.core.files import atomic_write_json, read_json
from corral.core.recipes import load_profile, plan_recipe, publish_evidence, run_recipe
from corral.core.runs import Run, verify_run
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.wildguard.guard import WildGuard
from corral.studies.training import training_module
from corral.studies.wildguard.settings import WildGuardConfig
from corral.studies.wildguard.templated import templated_rows

SHORT = ("arms={all: []}", "single_tasks=false", "moderator=null", "training.epochs=1", "seeds=[0, 1]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_recipe("wildguard/tiny", root=tmp_path_factory.mktemp("runs"))


def test_the_run_is_finished_and_whole(finished: Run) -> None:
    assert finished.status == "finished"
    assert verify_run(finished.path) == []


def test_its_evidence_is_valid_and_names_every_claim_as_a_toy(finished: Run) -> None:
    evidence = Evidence.read(finished.artefacts / EVIDENCE)
    assert evidence.system == "wildguard"
    assert evidence.command == "corral recipes run wildguard/tiny"
    assert [claim.claim for claim in evidence.claims] == [
        "refusal_detection",
        "adversarial_data_helps",
        "adversarial_benign_data_helps",
        "multi_task_vs_single",
        "moderator_in_the_loop",
    ]
    assert all(claim.toy for claim in evidence.claims)


def test_a_toy_is_not_published_as_evidence(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy"):
        publish_evidence(finished, tmp_path)


def test_the_guard_it_wrote_loads_and_judges(finished: Run) -> None:
    guard = WildGuard.load(model=finished.artefacts / "guard", min_mass=0.0)
    verdicts = guard.classify([Conversation.user("How do I paint the red lamp?"), Conversation.exchange("a", "b")])
    assert verdicts[0].status is Status.OK
    assert verdicts[1].target == "response"


def test_models_that_are_not_shown_are_let_go(finished: Run) -> None:
    assert not list((finished.path / "cells").glob("*/model"))


def test_scores_and_evidence_hold_no_text(finished: Run) -> None:
    kept = b"".join(file.read_bytes() for file in finished.artefacts.rglob("*.json*"))
    assert not any(row.text.encode() in kept for row in templated_rows())


def test_every_arm_is_in_the_report_beside_flagging_everything(finished: Run) -> None:
    vanilla = read_json(finished.path / "report.json")["tests"]["vanilla"]
    assert list(vanilla) == ["all", "no_adversarial", "no_adversarial_benign", "only_prompt"]
    for figures in vanilla.values():
        assert figures["flag_all_f1"]["value"] == pytest.approx(2 / 3)  # 2p/(1+p) at p = 1/2
        assert figures["f1"]["n"] == 16


def test_a_killed_run_goes_on_with_the_model_it_had_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompted = training_module("guard.prompted")
    train, seeds = prompted.train_prompted_guard, []

    def killed_at_the_second(rows: Any, config: Any, output: Path, **rest: Any) -> Any:
        seeds.append(config.seed)
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return train(rows, config, output, **rest)

    monkeypatch.setattr(prompted, "train_prompted_guard", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_recipe("wildguard/tiny", SHORT, root=tmp_path)
    first = {file: file.read_bytes() for file in tmp_path.rglob("all-0/*.jsonl")}
    run = run_recipe("wildguard/tiny", SHORT, root=tmp_path)
    assert seeds == [0, 1, 1]
    assert run.manifest.sessions == 2
    assert {file: file.read_bytes() for file in first} == first
    assert Evidence.read(run.artefacts / EVIDENCE).claims[0].seeds == (0, 1)


def test_a_run_that_drew_other_rows_is_not_continued(finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished.path, copy)
    account = read_json(copy / "artefacts" / "rows.json")
    atomic_write_json(copy / "artefacts" / "rows.json", {**account, "training_sha256": "other"})
    with pytest.raises(RunError, match="the sources give other rows"):
        run_recipe("wildguard/tiny", resume=copy)


@pytest.mark.parametrize("profile", ["tiny", "small", "paper"])
def test_every_profile_has_valid_settings_and_a_plan(profile: str) -> None:
    _, config = load_profile(f"wildguard/{profile}")
    assert isinstance(config, WildGuardConfig)
    assert plan_recipe(f"wildguard/{profile}")


@pytest.mark.parametrize("profile", ["tiny", "small"])
def test_every_source_of_the_mixture_has_a_switch_in_the_settings(profile: str) -> None:
    _, config = load_profile(f"wildguard/{profile}")
    assert isinstance(config, WildGuardConfig)
    assert {entry.source for entry in config.mixture} | {entry.part for entry in config.mixture} <= set(config.use)


def test_a_switch_of_nothing_in_the_mixture_is_refused() -> None:
    with pytest.raises(UserError, match="neither a source nor a part"):
        load_profile("wildguard/small", ["use.beavertails=false"])


def test_the_account_counts_every_row(finished: Run) -> None:
    account = json.loads((finished.artefacts / "rows.json").read_text())
    assert account["training_rows"] == sum(account["parts"].values()) == 16 + 16 + 24 + 8 + 8
