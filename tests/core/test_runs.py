import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corral.core.config import Config, config_hash
from corral.core.errors import CorralError, NotFoundError, RunError
from corral.core.files import read_json
from corral.core.runs import Run, list_runs, read_report, resumable_run, verify_run


class Settings(Config):
    seed: int = 0
    text: str = "1e-4"
    rates: tuple[float, ...] = (1e-5, 0.1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs", "derta/small", Settings(), seed=3)


def test_a_run_starts_with_a_manifest_that_says_started(run: Run) -> None:
    manifest = read_json(run.path / "manifest.json")
    assert manifest["status"] == "started"
    assert manifest["schema_version"] == 1
    assert (manifest["recipe"], manifest["seed"]) == ("derta/small", 3)
    assert manifest["config_hash"] == config_hash(Settings())
    assert manifest["packages"]["numpy"]
    assert manifest["machine"]["cpus"] >= 1
    assert run.path.parent.parts[-2:] == ("derta", "small")
    assert run.config == Settings().model_dump(mode="json")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, "finished", None),
        (KeyboardInterrupt(), "interrupted", None),
        (RunError("no room", hint="Make some."), "failed", "RunError: no room\nMake some."),
        (SystemExit(1), "failed", "SystemExit: 1"),
    ],
)
def test_the_manifest_says_how_the_run_ended(
    run: Run, error: BaseException | None, status: str, message: str | None
) -> None:
    def work() -> None:
        with run:
            assert read_json(run.path / "manifest.json")["status"] == "started"
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    manifest = Run.open(run.path).manifest
    assert (manifest.status, manifest.error, manifest.sessions) == (status, message, 1)
    assert manifest.ended_at is not None


def test_a_killed_run_reads_as_interrupted_and_can_be_continued(run: Run) -> None:
    code = (
        "import sys, time; from pathlib import Path; from corral.core.runs import Run\n"
        "with Run.open(sys.argv[1]) as run:\n    run.log(step=1, loss=2.0); print(1, flush=True); time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    with worker.stdout:
        worker.stdout.readline()
        assert Run.open(run.path).status == "started"
        with pytest.raises(RunError, match="another process"), Run.open(run.path):
            pass
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    assert Run.open(run.path).status == "interrupted"
    with Run.open(run.path) as again:
        again.log(step=2, loss=1.0)
    assert (again.status, again.manifest.sessions) == ("finished", 2)
    assert [line["step"] for line in again.logged()] == [1, 2]


def test_metrics_are_lines_of_json_and_survive_a_torn_one(run: Run) -> None:
    with run:
        run.log(step=1, loss=0.5, note=None)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    with Run.open(run.path) as again:
        again.log(step=2, loss=float("nan"))
        again.log(accuracy=1)
    lines = (run.path / "metrics.jsonl").read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == [
        {"step": 1, "loss": 0.5, "note": None},
        {"step": 2, "loss": "nan"},
        {"step": None, "accuracy": 1},
    ]
    with pytest.raises(RunError, match="cannot be logged"):
        run.log(step=1, model=object())


def test_rewinding_drops_the_steps_that_a_resume_repeats(run: Run) -> None:
    with run:
        for step in (10, 20, 30):
            run.log(step=step)
    with Run.open(run.path) as again:
        again.rewind_log(20)
        again.log(step=21)
        again.rewind_log(40)
    assert [line["step"] for line in again.logged()] == [10, 20, 21]


def test_rewinding_one_training_keeps_the_steps_of_another_and_what_has_none(run: Run) -> None:
    with run:
        for training in ("sft", "dpo"):
            for step in (10, 20):
                run.log(step=step, training=training)
            run.log(done=training)
        run.rewind_log(10, training="sft")
        run.log(step=11, training="sft")
    assert [(line["step"], line.get("training")) for line in run.logged()] == [
        (10, "sft"),
        (None, None),
        (10, "dpo"),
        (20, "dpo"),
        (None, None),
        (11, "sft"),
    ]


def test_inputs_and_outputs_are_recorded_with_their_hashes(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(b"{}\n")
    with run:
        run.add_input(data)
        model = run.artefacts / "model"
        model.mkdir()
        (model / "weights").write_bytes(b"first")
        run.add_output(model)
        (model / "weights").write_bytes(b"second")
        run.add_output(model)
        run.report({"loss": 0.25})
        with pytest.raises(RunError, match="no such file"):
            run.add_output(tmp_path / "absent")
    manifest = Run.open(run.path).manifest
    assert [(record.path, record.bytes) for record in manifest.inputs] == [(str(data.resolve()), 3)]
    outputs = {record.path: record.bytes for record in manifest.outputs}
    assert outputs.keys() == {"artefacts/model/weights", "report.json"}
    assert outputs["artefacts/model/weights"] == 6
    assert read_report(run.path) == {"loss": 0.25}
    assert verify_run(run.path) == []
    (run.path / "report.json").write_text("{}")
    assert verify_run(run.path) == ["output `report.json` is missing or changed"]


def test_verify_lists_everything_that_changed_since(tmp_path: Path) -> None:
    parent = Run.create(tmp_path, "parent", Settings())
    data = tmp_path / "data.jsonl"
    data.write_text("{}")
    with Run.create(tmp_path, "child", Settings(seed=1), parents=[parent, parent.path]) as run:
        run.add_input(data)
        (run.artefacts / "model").write_text("x")
        run.add_output(run.artefacts / "model")
    assert verify_run(run.path) == []
    data.write_text("{ }")
    (run.artefacts / "model").unlink()
    (run.path / "config.yaml").write_text("seed: 2\n")
    (parent.path / "manifest.json").unlink()
    found = verify_run(run.path)
    assert len(found) == 5
    assert found[0].startswith("`config.yaml` does not match the config hash")
    assert found[1:3] == [f"input `{data}` is missing or changed", "output `artefacts/model` is missing or changed"]
    assert all("no such file" in problem for problem in found[3:])
    (run.path / "config.yaml").unlink()
    assert any("`config.yaml`: there is no such file" in problem for problem in verify_run(run.path))


def test_an_unfinished_run_does_not_verify(run: Run) -> None:
    assert verify_run(run.path) == ["status is `interrupted`"]
    with pytest.raises(NotFoundError):
        verify_run(run.path / "artefacts")


def test_runs_are_listed_newest_first_and_a_damaged_one_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Run.create(tmp_path, "a/tiny", Settings())
    second = Run.create(tmp_path, "a/tiny", Settings())
    (first.artefacts / "manifest.json").write_text("{}")  # inside a run: not a run
    damaged = Run.create(tmp_path, "b", Settings())
    (damaged.path / "manifest.json").write_text('{"schema_version": 2}')
    assert first.path != second.path
    assert [run.path for run in list_runs(tmp_path)] == [second.path, first.path]
    assert "not a manifest that this version reads" in caplog.text
    assert list_runs(tmp_path / "absent") == []


def test_a_parent_has_to_be_a_run(tmp_path: Path) -> None:
    with pytest.raises(CorralError):
        Run.create(tmp_path, "child", Settings(), parents=[tmp_path])


def test_only_an_unfinished_run_of_the_same_settings_is_resumable(tmp_path: Path) -> None:
    digest = config_hash(Settings())
    with Run.create(tmp_path, "a/tiny", Settings()):
        pass
    assert resumable_run(tmp_path, "a/tiny", digest) is None
    unfinished = Run.create(tmp_path, "a/tiny", Settings())
    Run.create(tmp_path, "a/tiny", Settings(seed=9))
    found = resumable_run(tmp_path, "a/tiny", digest)
    assert found is not None
    assert found.path == unfinished.path
    with unfinished:
        assert resumable_run(tmp_path, "a/tiny", digest) is None


def test_a_failed_start_does_not_keep_the_lock(run: Run) -> None:
    manifest = (run.path / "manifest.json").read_bytes()
    (run.path / "manifest.json").write_text("{")
    with pytest.raises(CorralError), run:
        pass
    (run.path / "manifest.json").write_bytes(manifest)
    with run:
        assert run.status == "started"
