"""One measurement in a fresh process: its memory is freed when it ends, and is nobody else's while it runs.

``python -m corral.bench.isolated NAME TASK.json RESULT.json`` is the child's side: it reads the settings, calls the
measurement of that name and writes what it returns, with the largest memory that the process ever held.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.bench.parent import exit_with_parent
from corral.core.errors import CorralError
from corral.core.files import atomic_write_json, read_json
from corral.core.memory import max_rss_mb
from corral.core.registry import Registry

_STANDARD_ERROR: Final = 2
Measurement = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Takes and returns JSON values."""

MEASUREMENTS: Final[Registry[Measurement]] = Registry("measurement")
for _name, _target in {
    "policy-guard": "policy_guard:measure_policy_guard",
    "policy-scores": "policy_guard:score_prompts",
    "generate": "reference:measure_generate",
    "served-model": "reference:served_model",
    "vllm-client": "vllm_client:measure_vllm",
    "default-guard": "default_guard:measure_default_guard",
    "default-guard-scores": "default_guard:score_by_default_guard",
    "int8-possible": "default_guard:int8_possible",
    "plain-transformers": "default_guard:measure_plain_transformers",
}.items():
    MEASUREMENTS.register(_name, f"corral.bench.guard_throughput.{_target}")


@dataclass(frozen=True, slots=True)
class Isolated:
    """What came of a measurement.

    Attributes:
        values: what it returned.
        max_rss_mb: largest resident memory of its process, in 10^6 bytes.
        seconds: wall time, start of the process included.
    """

    values: Mapping[str, Any]
    max_rss_mb: float
    seconds: float


def run_isolated(name: str, settings: Mapping[str, Any]) -> Isolated:
    """Run a measurement of ``MEASUREMENTS`` in a fresh process, which ends with this one at the latest.

    Args:
        name: of the measurement.
        settings: JSON values for it.

    Raises:
        CorralError: it failed, with its own message.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as folder:
        task, result = Path(folder, "task.json"), Path(folder, "result.json")
        atomic_write_json(task, dict(settings))
        command = [sys.executable, "-m", __name__, name, str(task), str(result)]
        # Standard output is for the report alone, whatever a library prints.
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=_STANDARD_ERROR) as child:  # noqa: S603 - ourselves
            try:
                child.wait()
            except BaseException:
                child.kill()
                raise
        answer = read_json(result) if result.exists() else {}
    if "error" in answer:
        raise CorralError(f"the measurement `{name}` failed: {answer['error']}", hint=answer["hint"])
    if child.returncode or "values" not in answer:
        raise CorralError(f"the measurement `{name}` ended with exit code {child.returncode}")
    return Isolated(answer["values"], answer["max_rss_mb"], time.perf_counter() - started)


def main(name: str, task: str, result: str) -> int:
    """The child's side; returns its exit code."""
    try:
        values = MEASUREMENTS.get(name)(read_json(task))
    except CorralError as error:
        located = f"{error.where}: {error.message}" if error.where else error.message
        atomic_write_json(result, {"error": located, "hint": error.hint})
        return 1
    atomic_write_json(result, {"values": dict(values), "max_rss_mb": round(max_rss_mb(), 1)})
    return 0


if __name__ == "__main__":
    exit_with_parent()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
