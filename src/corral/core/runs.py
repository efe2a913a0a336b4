"""Run directories: everything that a run was asked for, read, measured and made, and how it ended.

::

    runs/derta/small/20260131-120000-1a2b3c4d/
      manifest.json   written first with status `started`, last with how it ended
      config.yaml     the resolved settings
      metrics.jsonl   one line a `log`
      checkpoints/    see core/checkpoints
      artefacts/      what the run made
      report.json     what it found

``with run:`` holds a lock on the directory, so two processes never work on one run; a process that was killed leaves
``started`` in the manifest and no lock, which reads as ``interrupted``.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pydantic import BaseModel

from corral.core.config import config_hash
from corral.core.errors import CorralError, RunError
from corral.core.files import atomic_write_bytes, atomic_write_json, atomic_write_text, read_json, sha256_json
from corral.core.line_file import LineFile
from corral.core.locks import is_locked, lock_descriptor
from corral.core.manifest import (
    MANIFEST,
    Manifest,
    ParentRecord,
    Status,
    changed_files,
    describe_machine,
    file_records,
    now,
    package_versions,
    read_manifest,
    write_manifest,
)
from corral.core.yaml import dump_yaml, read_yaml

CONFIG: Final = "config.yaml"
METRICS: Final = "metrics.jsonl"
REPORT: Final = "report.json"

_log = logging.getLogger(__name__)


class Run:
    """A run directory; made by ``create`` or ``open`` and worked on inside ``with``.

    Attributes:
        path: the directory.
        manifest: as last read or written.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock: int | None = None
        self._metrics: LineFile | None = None

    @classmethod
    def create(
        cls,
        root: Path | str,
        name: str,
        config: BaseModel,
        *,
        seed: int | None = None,
        parents: Sequence[Run | Path | str] = (),
    ) -> Self:
        """Make a new run directory ``root/name/<time>-<config hash>``.

        Args:
            root: folder of all runs.
            name: ``system/profile``, or any relative path.
            config: the resolved settings, written to ``config.yaml``.
            seed: of the run.
            parents: runs whose outputs this one builds on.
        """
        started, digest = now(), config_hash(config)
        path = _new_directory(Path(root) / name, f"{started:%Y%m%d-%H%M%S}-{digest[:8]}")
        manifest = Manifest(
            id=path.name,
            recipe=name,
            status="started",
            config_hash=digest,
            seed=seed,
            parents=tuple(_parent_record(parent) for parent in parents),
            packages=package_versions(),
            machine=describe_machine(),
            started_at=started,
        )
        write_manifest(path, manifest)
        atomic_write_text(path / CONFIG, dump_yaml(config.model_dump(mode="json")))
        return cls(path, manifest)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """A run that exists.

        Raises:
            NotFoundError: the directory has no manifest.
            RunError: its manifest is damaged.
        """
        return cls(Path(path), read_manifest(Path(path)))

    @property
    def status(self) -> Status:
        """How the run stands; ``interrupted`` also when the process that started it is gone."""
        if self.manifest.status == "started" and self._lock is None and not is_locked(self.path):
            return "interrupted"
        return self.manifest.status

    @property
    def config(self) -> dict[str, Any]:
        """The resolved settings, as written to ``config.yaml``."""
        return dict(read_yaml(self.path / CONFIG))

    @property
    def root(self) -> Path:
        """Folder of all runs."""
        return self.path.parents[len(Path(self.manifest.recipe).parts)]

    @property
    def artefacts(self) -> Path:
        """The folder for what the run makes."""
        folder = self.path / "artefacts"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        return folder

    def log(self, *, step: int | None = None, **values: Any) -> None:
        """Add a line to ``metrics.jsonl``; a value that is not finite is written as its name (``"nan"``).

        Raises:
            RunError: a value is not JSON, or the line cannot be written.
        """
        line = {"step": step, **{name: _finite(value) for name, value in values.items()}}
        try:
            encoded = json.dumps(line, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise RunError(f"cannot be logged: {error}", where=str(self.path / METRICS)) from error
        metrics = self._open_metrics()
        metrics.append(encoded)
        metrics.flush()

    def rewind_log(self, step: int, **of: Any) -> None:
        """Drop logged lines whose step is beyond ``step``, when a resume repeats those steps.

        Args:
            step: the last one that is not repeated.
            of: values that a line must have to be dropped, where a run logs the steps of several trainings.
        """
        metrics = self._open_metrics()
        lines = list(metrics.lines())
        kept = [line for line in lines if not _is_beyond(json.loads(line), step, of)]
        if len(kept) < len(lines):
            metrics.close()
            self._metrics = None
            atomic_write_bytes(self.path / METRICS, b"".join(line + b"\n" for line in kept))

    def logged(self) -> Iterator[dict[str, Any]]:
        """The lines of ``metrics.jsonl``."""
        if (self.path / METRICS).exists():
            for line in (self.path / METRICS).read_bytes().split(b"\n")[:-1]:
                yield json.loads(line)

    def report(self, values: Mapping[str, Any]) -> None:
        """Write ``report.json``."""
        atomic_write_json(self.path / REPORT, dict(values))

    def add_input(self, path: Path | str) -> None:
        """Record a file, or every file of a folder, that the run reads."""
        self._update(inputs=self._with_records(self.manifest.inputs, Path(path)))

    def add_output(self, path: Path | str) -> None:
        """Record a file, or every file of a folder, that the run made."""
        self._update(outputs=self._with_records(self.manifest.outputs, Path(path)))

    def __enter__(self) -> Self:
        lock = os.open(self.path, os.O_RDONLY)
        try:
            lock_descriptor(lock, self.path)
            self.manifest = read_manifest(self.path)  # another process may have worked on it since
            self._lock = lock
            self._update(
                status="started",
                ended_at=None,
                error=None,
                sessions=self.manifest.sessions + 1,
                packages=package_versions(),
                machine=describe_machine(),
            )
        except BaseException:
            self._lock = None
            os.close(lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            status: Status = "finished"
        else:
            status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        message = None if status != "failed" else f"{type(error).__name__}: {error}"
        try:
            if self._metrics is not None:
                self._metrics.close()
                self._metrics = None
            if status == "finished":
                for name in (METRICS, REPORT):
                    if (self.path / name).exists():
                        self.add_output(self.path / name)
            self._update(status=status, ended_at=now(), error=message)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _update(self, **changes: Any) -> None:
        self.manifest = self.manifest.model_copy(update=changes)
        write_manifest(self.path, self.manifest)

    def _with_records(self, known: Sequence[Any], path: Path) -> tuple[Any, ...]:
        added = file_records(path, self.path)
        replaced = {record.path for record in added}
        return (*(record for record in known if record.path not in replaced), *added)

    def _open_metrics(self) -> LineFile:
        if self._metrics is None:
            self._metrics = LineFile(self.path / METRICS)
            self._metrics.recover()
        return self._metrics


def _is_beyond(line: Mapping[str, Any], step: int, of: Mapping[str, Any]) -> bool:
    return (line["step"] or 0) > step and all(line.get(name) == value for name, value in of.items())


def list_runs(root: Path | str) -> list[Run]:
    """Every run below ``root``, newest first; a damaged manifest is logged as a warning and left out."""
    runs = []
    for path in _run_directories(Path(root)):
        try:
            runs.append(Run.open(path))
        except CorralError as error:
            _log.warning("%s", error)
    return sorted(runs, key=lambda run: (run.manifest.started_at, run.manifest.id), reverse=True)


def resumable_run(root: Path | str, name: str, digest: str) -> Run | None:
    """The newest run of that name and config hash that did not finish and that no process works on, or ``None``."""
    for run in list_runs(Path(root) / name):
        same = run.manifest.recipe == name and run.manifest.config_hash == digest
        if same and run.status in ("failed", "interrupted"):
            return run
    return None


def verify_run(path: Path | str) -> list[str]:
    """What is wrong with a run directory, a line each; empty when it finished and nothing changed since.

    Raises:
        NotFoundError: the directory has no manifest.
    """
    run = Run.open(path)
    problems = [] if run.status == "finished" else [f"status is `{run.status}`"]
    try:
        if sha256_json(run.config)[:16] != run.manifest.config_hash:
            problems.append(f"`{CONFIG}` does not match the config hash `{run.manifest.config_hash}`")
    except CorralError as error:
        problems.append(f"`{CONFIG}`: {error.message}")
    problems += [f"input `{name}` is missing or changed" for name in changed_files(run.manifest.inputs, run.path)]
    problems += [f"output `{name}` is missing or changed" for name in changed_files(run.manifest.outputs, run.path)]
    return problems + _parent_problems(run)


def read_report(path: Path | str) -> dict[str, Any]:
    """``report.json`` of a run directory.

    Raises:
        NotFoundError: the run wrote none.
    """
    return dict(read_json(Path(path) / REPORT))


def _new_directory(parent: Path, name: str) -> Path:
    for number in range(1, 1000):
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise RunError("a thousand runs were started in one second", where=str(parent))


def _parent_record(parent: Run | Path | str) -> ParentRecord:
    run = parent if isinstance(parent, Run) else Run.open(parent)
    return ParentRecord(path=str(run.path.resolve()), config_hash=run.manifest.config_hash)


def _parent_problems(run: Run) -> list[str]:
    problems = []
    for parent in run.manifest.parents:
        try:
            if read_manifest(Path(parent.path)).config_hash != parent.config_hash:
                problems.append(f"parent `{parent.path}` has other settings now")
        except CorralError as error:
            problems.append(f"parent `{parent.path}`: {error.message}")
    return problems


def _run_directories(root: Path) -> Iterator[Path]:
    """Directories with a manifest; what lies inside a run is not searched."""
    for folder, names, files in os.walk(root):
        if MANIFEST in files:
            names.clear()
            yield Path(folder)


def _finite(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
