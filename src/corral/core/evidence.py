"""Evidence: what the run of a recipe shows, as claims with intervals, in ``evidence/<system>.json``.

A claim that does not hold is listed like any other, with what was tried.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError, model_validator

from corral.core.errors import DataError
from corral.core.files import atomic_write_json, read_json
from corral.core.manifest import Machine

EVIDENCE: Final = "evidence.json"
"""Where a run keeps its evidence, among its artefacts."""


class _Record(BaseModel):
    # every key is present in the file, so none has a default
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Claim(_Record):
    """One statement that a run tested.

    Attributes:
        claim: id of the claim, as the issue or spec names it.
        metric: what was measured, with its unit.
        baseline: the measure without the method (``None`` when there is nothing to compare with).
        ours: the measure with it.
        n: how many items stand behind ``ours``.
        ci95: 95 % interval of what ``expected`` speaks of; ``None`` only for exact checks and tables.
        seeds: of the runs behind the figure.
        expected: what the paper, or exactness, leads one to expect.
        holds: whether it was seen.
        toy: shown on a tiny random model or templated text only.
        tried: what was done about a claim that does not hold; empty when it holds at once.
    """

    claim: str
    metric: str
    baseline: JsonValue
    ours: JsonValue
    n: int
    ci95: tuple[float, float] | None
    seeds: tuple[int, ...]
    expected: str
    holds: bool
    toy: bool
    tried: tuple[str, ...]

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise ValueError("the interval's lower end is above its upper end")
        if not self.holds and not self.tried:
            raise ValueError("a claim that does not hold says what was tried")
        return self


class Evidence(_Record):
    """The claims of one system, and how, when and where they were tested."""

    schema_version: Literal[1] = 1
    system: str
    command: str
    versions: dict[str, str]
    date: date
    machine: Machine
    claims: tuple[Claim, ...]

    @model_validator(mode="after")
    def _names_each_claim_once(self) -> Self:
        names = [claim.claim for claim in self.claims]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"claim `{repeated[0]}` is listed twice")
        return self

    @classmethod
    def read(cls, path: Path | str) -> Self:
        """The evidence in a file.

        Raises:
            NotFoundError: there is no such file.
            DataError: it is not evidence; names the field.
        """
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise DataError(f"not evidence: {first['msg']}", where=f"{path}: {field}") from error

    def write(self, folder: Path | str) -> Path:
        """Write ``<folder>/<system>.json``; returns its path."""
        path = Path(folder) / f"{self.system}.json"
        atomic_write_json(path, self.model_dump(mode="json"))
        return path
