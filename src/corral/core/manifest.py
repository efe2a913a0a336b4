"""What ``manifest.json`` of a run directory holds, and how this machine and its packages are described in it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from corral.core.errors import RunError
from corral.core.files import atomic_write_json, read_json, sha256_file

MANIFEST: Final = "manifest.json"

Status = Literal["started", "finished", "failed", "interrupted"]

_PACKAGES: Final = (
    "corral",
    "accelerate",
    "datasets",
    "gguf",
    "numpy",
    "peft",
    "pyarrow",
    "safetensors",
    "scikit-learn",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Record):
    """A file that a run read or wrote: its path (relative when inside the run directory), SHA-256 and size."""

    path: str
    sha256: str
    bytes: int


class ParentRecord(_Record):
    """A run whose outputs this one builds on."""

    path: str
    config_hash: str


class Machine(_Record):
    """Where a run ran; no host name, so that manifests can be shared."""

    platform: str
    python: str
    processor: str
    cpus: int
    memory_gb: float | None
    accelerator: str | None


class Manifest(_Record):
    """One run: what was asked for, from what, where, and how it ended.

    Attributes:
        id: name of the run directory.
        recipe: ``system/profile``, or the name the run was given.
        status: as last written; a run whose process was killed still says ``started`` (see ``Run.status``).
        sessions: how many processes worked on it; more than one means that it was resumed.
        machine: of the last session, as are ``packages``.
        error: type and message of what ended a failed run.
    """

    schema_version: Literal[1] = 1
    id: str
    recipe: str
    status: Status
    config_hash: str
    seed: int | None
    parents: tuple[ParentRecord, ...] = ()
    inputs: tuple[FileRecord, ...] = ()
    outputs: tuple[FileRecord, ...] = ()
    packages: dict[str, str]
    machine: Machine
    started_at: datetime
    ended_at: datetime | None = None
    sessions: int = 0
    error: str | None = None


def read_manifest(run: Path) -> Manifest:
    """The manifest in a run directory.

    Raises:
        NotFoundError: there is none.
        RunError: it is not one that this version reads.
    """
    where = run / MANIFEST
    value = read_json(where)
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError(f"not a manifest that this version reads: `{field}` {first['msg']}", where=str(where)) from error


def write_manifest(run: Path, manifest: Manifest) -> None:
    """Write the manifest of a run directory."""
    atomic_write_json(run / MANIFEST, manifest.model_dump(mode="json"))


def file_records(path: Path, run: Path) -> list[FileRecord]:
    """Records of a file, or of every file in a folder.

    Raises:
        RunError: there is nothing at ``path``.
    """
    files = sorted(entry for entry in path.rglob("*") if entry.is_file()) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise RunError("there is no such file to record", where=str(path))
    return [
        FileRecord(path=_recorded(file, run), sha256=sha256_file(file), bytes=file.stat().st_size) for file in files
    ]


def changed_files(records: Iterable[FileRecord], run: Path) -> list[str]:
    """Paths of recorded files that are gone or have other content."""
    return [
        record.path
        for record in records
        if not (run / record.path).is_file() or sha256_file(run / record.path) != record.sha256
    ]


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that results depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_machine() -> Machine:
    """This machine; an accelerator is named only when torch is loaded already."""
    return Machine(
        platform=platform.platform(),
        python=platform.python_version(),
        processor=platform.processor() or platform.machine(),
        cpus=os.cpu_count() or 1,
        memory_gb=_memory_gb(),
        accelerator=_accelerator(),
    )


def _recorded(file: Path, run: Path) -> str:
    resolved, root = file.resolve(), run.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else str(resolved)


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (OSError, ValueError):
        return None


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
