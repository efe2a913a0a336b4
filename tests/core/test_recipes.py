from pathlib import Path
from typing import Any

import pytest

from corral.core import recipes
from corral.core.config import Config
from corral.core.errors import ConfigError, NotFoundError, RunError, UserError
from corral.core.evidence import EVIDENCE, Claim, Evidence
from corral.core.files import atomic_write_json
from corral.core.recipes import (
    copy_profile,
    list_recipes,
    load_profile,
    plan_recipe,
    publish_evidence,
    read_profile,
    run_recipe,
)
from corral.core.registry import Registry
from corral.core.runs import Run


class Settings(Config):
    steps: int = 1
    seed: int = 0


class Counting:
    """Writes one line a step; fails once after the first when told to."""

    name = "counting"
    config_class = Settings

    def __init__(self) -> None:
        self.fail = False

    def plan(self, config: Settings) -> list[str]:
        return [f"count to {config.steps}"]

    def run(self, config: Settings, run: Run) -> None:
        for step in range(len(list(run.logged())), config.steps):
            run.log(step=step)
            if self.fail:
                raise RunError("told to fail")


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    folder = tmp_path / "packaged" / "counting"
    folder.mkdir(parents=True)
    (folder / "tiny.yaml").write_text("steps: 2\n")
    (folder / "small.yaml").write_text("# long\nsteps: 20\n")
    (folder / "card.md").write_text("A card, not a profile.\n")
    recipe = Counting()
    registry: Registry[Any] = Registry("recipe")
    registry.register("counting", recipe)
    monkeypatch.setattr(recipes, "_folder", lambda: tmp_path / "packaged")
    monkeypatch.setattr(recipes, "RECIPES", registry)
    return recipe


def test_packaged_profiles_are_listed_and_read(counting: Counting) -> None:
    assert list_recipes() == {"counting": ["small", "tiny"]}
    assert read_profile("counting/small") == "# long\nsteps: 20\n"


@pytest.mark.parametrize("name", ["counting/tinny", "counting", "nothing/tiny", "../counting/tiny", "counting/card"])
def test_an_unknown_profile_is_not_found(counting: Counting, name: str) -> None:
    with pytest.raises(NotFoundError, match="no recipe is named"):
        read_profile(name)


def test_an_unknown_profile_is_answered_with_near_ones(counting: Counting) -> None:
    with pytest.raises(NotFoundError) as caught:
        read_profile("counting/tinny")
    assert "`counting/tiny`" in (caught.value.hint or "")


def test_a_recipe_is_planned_without_a_run(counting: Counting) -> None:
    assert plan_recipe("counting/tiny", ["steps=5"]) == ["count to 5"]


def test_a_recipe_runs_in_a_run_directory_of_its_name(counting: Counting, tmp_path: Path) -> None:
    run = run_recipe("counting/tiny", {"seed": 4}, root=tmp_path / "runs")
    assert run.status == "finished"
    assert run.path.parent == tmp_path / "runs" / "counting" / "tiny"
    assert run.manifest.seed == 4
    assert run.config == {"steps": 2, "seed": 4}
    assert len(list(run.logged())) == 2


def test_a_rerun_continues_what_did_not_finish_and_starts_anew_after_what_did(
    counting: Counting, tmp_path: Path
) -> None:
    counting.fail = True
    with pytest.raises(RunError, match="told to fail"):
        run_recipe("counting/tiny", root=tmp_path)
    counting.fail = False
    other = run_recipe("counting/tiny", {"seed": 1}, root=tmp_path)
    continued = run_recipe("counting/tiny", root=tmp_path)
    assert continued.manifest.sessions == 2
    assert [line["step"] for line in continued.logged()] == [0, 1]
    again = run_recipe("counting/tiny", root=tmp_path)
    assert len({other.path, continued.path, again.path}) == 3


def test_resuming_can_be_turned_off_or_pointed_at_a_run(counting: Counting, tmp_path: Path) -> None:
    counting.fail = True
    for _ in range(2):
        with pytest.raises(RunError):
            run_recipe("counting/tiny", root=tmp_path, resume=False)
    first, second = sorted(path.parent for path in tmp_path.rglob("counting/tiny/*/manifest.json"))
    counting.fail = False
    assert run_recipe("counting/tiny", root=tmp_path, resume=first).path == first
    assert Run.open(second).status == "failed"
    with pytest.raises(RunError, match="of other settings"):
        run_recipe("counting/tiny", ["steps=3"], root=tmp_path, resume=second)


def test_a_copied_profile_runs_from_its_file(counting: Counting, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    copy_profile("counting/small", path)
    path.write_text(path.read_text().replace("20", "1"))
    run = run_recipe(str(path), root=tmp_path / "runs")
    assert run.manifest.recipe == "counting/mine"
    assert run.config["steps"] == 1
    with pytest.raises(UserError, match="exists"):
        copy_profile("counting/tiny", path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 1\n", "does not say whose settings"),
        ("- 1\n", "expected `key: value` lines"),
        ("recipe: counting\nstesp: 1\n", "unknown setting `stesp`"),
    ],
)
def test_a_users_file_that_is_not_a_profile_is_named(
    counting: Counting, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_profile(str(path))
    assert (caught.value.where or "").startswith(str(path))


def test_every_packaged_system_is_in_the_registry() -> None:
    assert set(recipes.list_recipes()) <= set(recipes.RECIPES.names())


def finished_run(root: Path, *, toy: bool) -> Run:
    """A finished run with evidence of one claim."""
    claim = Claim(
        claim="counts",
        metric="numbers",
        baseline=None,
        ours=3,
        n=3,
        ci95=None,
        seeds=(0,),
        expected="3",
        holds=True,
        toy=toy,
        tried=(),
    )
    with Run.create(root, "counting/small", Settings()) as run:
        evidence = Evidence(
            system="counting",
            command="corral recipes run counting/small",
            versions={},
            date=run.manifest.started_at.date(),
            machine=run.manifest.machine,
            claims=(claim,),
        )
        atomic_write_json(run.artefacts / EVIDENCE, evidence.model_dump(mode="json"))
    return run


def test_evidence_of_a_finished_run_is_published_under_its_system(tmp_path: Path) -> None:
    path = publish_evidence(finished_run(tmp_path / "runs", toy=False), tmp_path / "evidence")
    assert path == tmp_path / "evidence" / "counting.json"
    assert Evidence.read(path).claims[0].claim == "counts"


def test_a_run_without_evidence_publishes_none(tmp_path: Path) -> None:
    with Run.create(tmp_path, "counting/small", Settings()) as run:
        pass
    assert publish_evidence(run, tmp_path / "evidence") is None
    assert not (tmp_path / "evidence").exists()


def test_a_toy_does_not_take_the_place_of_evidence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="toy only"):
        publish_evidence(finished_run(tmp_path / "runs", toy=True), tmp_path / "evidence")


def test_a_run_that_has_not_finished_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`interrupted`"):
        publish_evidence(Run.create(tmp_path, "counting/small", Settings()), tmp_path / "evidence")
