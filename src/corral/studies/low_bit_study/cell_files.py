"""A cell as a file: measured once, found again by a hash of what it depends on.

A change of that makes a new one. A cell that failed keeps its error, and the study goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict

from corral.core.errors import CorralError
from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.core.memory import max_rss_mb
from corral.core.progress import milestone
from corral.core.runs import Run
from corral.studies.verdict_store import file_name

REFERENCE: Final = "reference"
"""Name of the cell of a model as it is."""


class KeptCell(BaseModel):
    """What every cell says.

    Attributes:
        name: of the quantizer, or ``reference``.
        seed: of its calibration.
        error: why nothing was measured; ``None`` where something was.
        seconds: that quantizing and measuring took.
        max_rss_mb: largest resident memory of the process by then.
        quantization: the quantizer's report, without its layers; ``None`` for a model as it is.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    seed: int = 0
    error: str | None = None
    seconds: float = 0.0
    max_rss_mb: float = 0.0
    quantization: dict[str, Any] | None = None

    @property
    def nominal_bits(self) -> float | None:
        """Bits a weight as papers count them."""
        return self._bits("nominal")

    @property
    def stored_bits(self) -> float | None:
        """Bits a weight of all that is stored."""
        return self._bits("stored")

    def _bits(self, count: str) -> float | None:
        found = (self.quantization or {}).get("bits", {}).get(count)
        return None if found is None else float(found)


def reference_failed(reference: KeptCell) -> str:
    """Why nothing can be said of drift from the model as it was; empty where it was measured."""
    return f"the model as it was could not be measured: {reference.error}" if reference.error else ""


_C = TypeVar("_C", bound=KeptCell)


def kept_cell(
    run: Run,
    kind: type[_C],
    name: str,
    depends_on: Mapping[str, Any],
    measure: Callable[[], Mapping[str, Any]],
    *,
    folder: Path,
    **known: Any,
) -> _C:
    """The cell of a name and of all that it depends on, from its file or measured now.

    Args:
        run: takes a line about it.
        kind: the cell's class.
        name: see ``KeptCell``.
        depends_on: everything else that the outcome depends on; JSON.
        measure: the fields that are found out.
        folder: of the files.
        known: fields that are known before.
    """
    path = folder / f"{file_name(name)}-{sha256_json({**depends_on, 'name': name})[:12]}.json"
    if path.is_file():
        return kind.model_validate(read_json(path))
    started = time.perf_counter()
    found: Mapping[str, Any] = {}
    error: str | None = None
    try:
        found = measure()
    except (CorralError, MemoryError, RuntimeError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    seconds = round(time.perf_counter() - started, 1)
    cell = kind(name=name, error=error, seconds=seconds, max_rss_mb=round(max_rss_mb()), **known, **found)
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write_json(path, cell.model_dump(mode="json"))
    outcome = f"failed ({error}); remove `{path}` to measure it again" if error else "measured"
    milestone(f"{name} seed {cell.seed}: {outcome} in {seconds:.0f} s")
    run.log(cell=folder.name, name=name, seed=cell.seed, failed=error is not None, seconds=seconds)
    return cell
