"""Measurements in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from corral.bench import isolated
from corral.bench.isolated import MEASUREMENTS, run_isolated
from corral.core.errors import CorralError


def test_every_measurement_can_be_imported() -> None:
    for name in MEASUREMENTS.names():
        assert callable(MEASUREMENTS.get(name))


def test_values_and_memory_of_the_process_come_back(tiny_model: str) -> None:
    settings = {"model": tiny_model, "dtype": "float32", "threads": 1, "prompts": ["How do I bake bread?"]}
    answer = run_isolated("policy-scores", settings)
    assert 0 <= answer.values["p_unsafe"][0] <= 1
    assert 20 < answer.max_rss_mb < 4000
    assert answer.seconds > 0


def test_a_failure_keeps_its_message_and_hint() -> None:
    with pytest.raises(CorralError, match="`no-such-measurement` failed: no measurement is named") as caught:
        run_isolated("no-such-measurement", {})
    assert caught.value.hint


def test_a_failure_that_is_no_error_of_ours_names_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated.sys, "executable", "/bin/false")
    with pytest.raises(CorralError, match="exit code 1"):
        run_isolated("policy-scores", {})


def test_an_interrupt_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Interrupted(subprocess.Popen):  # type: ignore[type-arg]
        def wait(self, timeout: float | None = None) -> int:
            if not started:
                started.append(self)
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr(isolated.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_isolated("policy-scores", {})
    assert started[0].returncode is not None


def test_the_childs_side_writes_an_error_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_settings: object) -> dict[str, object]:
        raise CorralError("out of luck", where="row 7", hint="Try again.")

    monkeypatch.setattr(isolated.MEASUREMENTS, "get", lambda _name: fails)
    task, result = tmp_path / "task.json", tmp_path / "result.json"
    task.write_text("{}")
    assert isolated.main("fails", str(task), str(result)) == 1
    assert json.loads(result.read_text()) == {"error": "row 7: out of luck", "hint": "Try again."}


def test_a_child_leaves_when_its_parent_does() -> None:
    program = "from corral.bench.parent import exit_with_parent; exit_with_parent(); import time; time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(30) == 1
