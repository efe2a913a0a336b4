"""The CultureGuard recipe on a tiny random model and templated text: the whole path, and going on after a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from corral.core.errors import RunError
from corral.core.evidence import EVIDENCE, Evidence
from corral.core.files import atomic_write_json, read_json
from corral.core.recipes import list_recipes, load_profile, plan_recipe, run_recipe
from corral.core.runs import Run, verify_run
from corral.data.messages import Conversation
from corral.data.sources import SOURCES
from corral.guards.cultureguard.guard import CultureGuard
from corral.studies.cultureguard.templated import corpus
from corral.studies.training_cells import TrainingCells

CLAIMS = ["lora_json_guard", "language_gap"]


class _Killed(BaseException):
    """What a kill looks like from inside: nothing gets to tidy up after it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """The tiny profile, killed before its second training and then continued; the trainings that were begun."""
    root, begun = tmp_path_factory.mktemp("runs"), []
    plain = TrainingCells.model

    def killing(cells: TrainingCells, name: str, key: object, train: object) -> Path:
        def counted(checkpoints: Path, model: Path) -> int:
            begun.append(name)
            if len(begun) == 2:
                raise _Killed
            return train(checkpoints, model)  # type: ignore[operator,no-any-return]

        return plain(cells, name, key, counted)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingCells, "model", killing)
        with pytest.raises(_Killed):
            run_recipe("cultureguard/tiny", root=root)
        return run_recipe("cultureguard/tiny", root=root), begun


def test_a_killed_run_goes_on_where_it_was(finished: tuple[Run, list[str]]) -> None:
    run, begun = finished
    assert run.status == "finished"
    assert verify_run(run.path) == []
    assert begun.count(begun[0]) == 1  # what was trained before the kill was not trained again
    assert begun.count(begun[1]) == 2


def test_its_evidence_names_every_claim_as_a_toy(finished: tuple[Run, list[str]]) -> None:
    evidence = Evidence.read(finished[0].artefacts / EVIDENCE)
    assert evidence.system == "cultureguard"
    assert [claim.claim for claim in evidence.claims] == CLAIMS
    assert all(claim.toy and claim.ci95 is not None for claim in evidence.claims)
    assert all(claim.holds or claim.tried for claim in evidence.claims)


def test_the_guard_it_wrote_loads_and_judges(finished: tuple[Run, list[str]]) -> None:
    guard = CultureGuard.load(model=finished[0].artefacts / "guard", min_mass=0.0)
    (verdict,) = guard.classify([Conversation.user("Where is the lamp of the school?")])
    assert verdict.p_harm is not None


def test_nothing_that_is_kept_holds_a_text(finished: tuple[Run, list[str]]) -> None:
    run = finished[0]
    kept = [*run.artefacts.glob("*.json"), *(run.path / "scores").glob("*.jsonl")]
    assert kept
    everything = b"".join(file.read_bytes() for file in kept)
    assert not any(text.encode() in everything for text in corpus())


def test_models_that_are_not_shown_are_let_go(finished: tuple[Run, list[str]]) -> None:
    assert not (finished[0].path / "cells").exists()


def test_a_run_goes_on_only_with_the_rows_it_began_with(finished: tuple[Run, list[str]], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished[0].path, copy)
    account = read_json(copy / "artefacts" / "rows.json")
    atomic_write_json(copy / "artefacts" / "rows.json", {**account, "rows_sha256": "other"})
    with pytest.raises(RunError, match="other rows"):
        run_recipe("cultureguard/tiny", resume=copy)


@pytest.mark.parametrize("profile", ["tiny", "small", "paper"])
def test_profiles_load_and_train_on_nothing_that_is_for_evaluation(profile: str) -> None:
    assert profile in list_recipes()["cultureguard"]
    _, config = load_profile(f"cultureguard/{profile}")
    assert plan_recipe(f"cultureguard/{profile}")
    assert all(SOURCES.get(entry.source).trainable for entry in config.rows.mixture)  # type: ignore[attr-defined]
