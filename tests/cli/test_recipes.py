"""`corral recipes`, `corral train` and `corral runs`, on a recipe that counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corral.cli import train
from corral.cli.main import main
from corral.cli.recipes import evidence_state
from corral.cli.runs import tree_lines
from corral.core.config import Config
from corral.core.recipes import RECIPES, list_recipes, read_profile
from corral.core.runs import Run


class CountingConfig(Config):
    """How far to count, and where to stop the first time."""

    to: int = 3
    stop_at: int | None = None
    stop_by: str = "interrupt"


class Counting:
    """Counts into a file, one number a line, from where an earlier session left off."""

    name = "counting"
    config_class = CountingConfig

    def plan(self, config: CountingConfig) -> list[str]:
        return [f"count to {config.to}"]

    def run(self, config: CountingConfig, run: Run) -> None:
        file = run.artefacts / "numbers.txt"
        done = file.read_text().split() if file.exists() else []
        for number in range(len(done) + 1, config.to + 1):
            if number == config.stop_at and not done:
                raise KeyboardInterrupt if config.stop_by == "interrupt" else RuntimeError("the counter broke")
            with file.open("a") as stream:
                stream.write(f"{number}\n")
        run.add_output(file)
        run.report({"counted": config.to})


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with `counting.yaml`, whose recipe is registered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES._entries, "counting", Counting())
    monkeypatch.setitem(train.METHODS, "count", ("counting",))
    (tmp_path / "counting.yaml").write_text("recipe: counting\nto: 3\n")
    return tmp_path


def printed_json(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_ls_lists_every_packaged_system_with_its_profiles(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed_json(capsys, "recipes", "ls")
    assert {row["name"]: row["profiles"] for row in rows} == list_recipes()
    assert all(row["evidence"]["state"] == "absent" for row in rows)


def test_show_prints_exactly_the_packaged_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", "default_guard/small"]) == 0
    assert capsys.readouterr().out == read_profile("default_guard/small")


@pytest.mark.parametrize("system", list_recipes())
def test_show_prints_the_card_of_every_system(system: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "show", system]) == 0
    assert capsys.readouterr().out.startswith(f"# {system}\n")


def test_misspelt_recipe_is_the_users_mistake_and_names_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "run", "default_guard/smal"]) == 2
    assert "`default_guard/small`" in capsys.readouterr().err


def test_copied_recipe_can_be_planned_by_its_path(folder: Path) -> None:
    assert main(["recipes", "cp", "default_guard/small", "mine.yaml"]) == 0
    assert main(["recipes", "run", "mine.yaml", "--plan"]) == 0
    assert not (folder / "runs").exists()


def test_copy_keeps_an_existing_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "mine.yaml").write_text("precious")
    assert main(["recipes", "cp", "default_guard/small", "mine.yaml"]) == 2
    assert (folder / "mine.yaml").read_text() == "precious"


def test_run_leaves_a_finished_run_with_its_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed_json(capsys, "recipes", "run", "counting.yaml", "--set", "to=5")
    assert shown["status"] == "finished"
    assert shown["report"] == {"counted": 5}
    run = Run.open(shown["path"])
    assert run.config["to"] == 5
    assert (run.artefacts / "numbers.txt").read_text() == "1\n2\n3\n4\n5\n"


def test_unknown_setting_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "run", "counting.yaml", "--set", "too=5"]) == 2
    assert "`to`" in capsys.readouterr().err


def test_interrupted_run_says_how_to_continue_and_the_same_command_does(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recipes", "run", "counting.yaml", "--set", "stop_at=3"]
    assert main(command) == 130
    assert "corral runs resume" in capsys.readouterr().err
    shown = printed_json(capsys, *command)
    assert shown["manifest"]["sessions"] == 2
    assert (Path(shown["path"]) / "artefacts" / "numbers.txt").read_text() == "1\n2\n3\n"


@pytest.mark.parametrize("verb", ["ls", "graph"])
def test_a_folder_of_runs_that_is_not_there_is_a_mistake(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", verb, "nowhere"]) == 2
    assert "nowhere: there is no such folder" in capsys.readouterr().err
    assert main(["runs", verb]) == 0  # the default folder, before the first run


def test_resume_continues_a_run_with_its_own_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "run", "counting.yaml", "--set", "stop_at=2", "--set", "to=4"]) == 130
    (run,) = printed_json(capsys, "runs", "ls")
    assert run["status"] == "interrupted"
    assert printed_json(capsys, "runs", "resume", run["path"])["status"] == "finished"
    assert (Path(run["path"]) / "artefacts" / "numbers.txt").read_text() == "1\n2\n3\n4\n"


def test_resume_of_a_finished_run_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    path = printed_json(capsys, "recipes", "run", "counting.yaml")["path"]
    assert printed_json(capsys, "runs", "resume", path)["manifest"]["sessions"] == 1


def test_resume_refuses_settings_that_were_edited(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "run", "counting.yaml", "--set", "stop_at=2"]) == 130
    (run,) = printed_json(capsys, "runs", "ls")
    config = Path(run["path"]) / "config.yaml"
    config.write_text(config.read_text().replace("to: 3", "to: 9"))
    assert main(["runs", "resume", run["path"]]) == 1
    assert "was changed since the run started" in capsys.readouterr().err


def test_new_starts_a_second_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["recipes", "run", "counting.yaml", "--set", "stop_at=2", "--new"]
    assert main(command) == 130
    assert main(command) == 130
    assert len(printed_json(capsys, "runs", "ls")) == 2


def test_failed_run_exits_with_1_and_shows_its_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "run", "counting.yaml", "--set", "stop_at=1", "--set", "stop_by=error"]) == 1
    (run,) = printed_json(capsys, "runs", "ls")
    assert run["status"] == "failed"
    assert main(["runs", "show", run["path"]]) == 0
    assert "RuntimeError: the counter broke" in capsys.readouterr().out


def test_train_runs_the_recipe_of_its_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed_json(capsys, "train", "count", "--config", "counting.yaml")["report"] == {"counted": 3}


def test_train_refuses_the_recipe_of_another_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "guard", "--config", "counting.yaml"]) == 2
    assert "does not train with method `guard`" in capsys.readouterr().err


def test_train_with_an_unknown_method_names_a_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "gard", "--config", "counting.yaml"]) == 2
    assert "`guard`" in capsys.readouterr().err


def test_every_training_method_names_packaged_systems() -> None:
    packaged = set(list_recipes())
    assert {s for method, systems in train.METHODS.items() if method != "count" for s in systems} <= packaged


def test_verify_passes_a_finished_run_and_fails_a_changed_one(capsys: pytest.CaptureFixture[str]) -> None:
    path = printed_json(capsys, "recipes", "run", "counting.yaml")["path"]
    assert main(["runs", "verify", path]) == 0
    (Path(path) / "artefacts" / "numbers.txt").write_text("4\n")
    assert main(["runs", "verify", path]) == 1
    assert "numbers.txt" in capsys.readouterr().out


def test_directory_that_is_no_run_is_the_users_mistake(folder: Path) -> None:
    assert main(["runs", "show", str(folder)]) == 2


def test_graph_relates_a_run_to_its_parents(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parent = Run.create(folder / "runs", "a", CountingConfig())
    child = Run.create(folder / "runs", "b", CountingConfig(), parents=[parent])
    graph = printed_json(capsys, "runs", "graph")
    assert graph["edges"] == [{"parent": str(parent.path), "child": str(child.path)}]
    assert main(["runs", "graph"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(str(parent.path))
    assert second.startswith(f"  {child.path}")


@pytest.mark.parametrize(
    ("parents", "lines"),
    [
        ({}, []),
        ({"a": [], "b": []}, ["a", "b"]),
        ({"a": [], "b": ["a"], "c": ["b"], "d": ["a"]}, ["a", "  b", "    c", "  d"]),
        ({"c": ["a", "b"], "a": [], "b": [], "d": ["c"]}, ["a", "  c", "    d", "b", "  c"]),
        ({"b": ["elsewhere"]}, ["elsewhere", "  b"]),
    ],
)
def test_tree_draws_children_below_their_parents(parents: dict[str, list[str]], lines: list[str]) -> None:
    assert tree_lines(parents) == lines


CLAIM = {
    "claim": "counts",
    "metric": "numbers",
    "baseline": None,
    "ours": 3,
    "n": 3,
    "ci95": None,
    "seeds": [0],
    "expected": "3",
    "holds": True,
    "toy": True,
    "tried": [],
}


def test_evidence_state_counts_claims_that_hold(folder: Path) -> None:
    failing = CLAIM | {"claim": "counts faster", "holds": False, "toy": False, "tried": ["counting by twos"]}
    machine = {"platform": "p", "python": "3", "processor": "x", "cpus": 2, "memory_gb": None, "accelerator": None}
    evidence = {
        "schema_version": 1,
        "system": "counting",
        "command": "corral recipes run counting/small",
        "versions": {},
        "date": "2026-01-31",
        "machine": machine,
        "claims": [CLAIM, failing],
    }
    (folder / "counting.json").write_text(json.dumps(evidence))
    expected = {"state": "present", "claims": 2, "hold": 1, "toy": 1, "date": "2026-01-31"}
    assert evidence_state(folder / "counting.json") == expected


def test_damaged_evidence_is_said_to_be_damaged(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "counting.json").write_text('{"claims": []}')
    assert evidence_state(folder / "counting.json")["state"] == "damaged"
    assert "counting.json" in capsys.readouterr().err


def test_run_publishes_evidence_when_asked_to_and_says_when_there_is_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "run", "counting.yaml", "--evidence", "evidence"]) == 0
    assert "counting/counting gives no evidence" in capsys.readouterr().err
    assert not (folder / "evidence").exists()
