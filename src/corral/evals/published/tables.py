"""Published moderation figures, one entry a cell, each with its mark and caveat.

The YAML files beside this module hold the tables T1 to T11. A table states its unit; a cell keeps the figure as it was
printed. Loading checks what can be checked without the papers: that every cell names a declared column, that no cell
occurs twice, that figures lie in range, and that printed means follow from their cells within rounding. A mean that
does not is either listed under ``known_mismatches`` or an error; so is a listed mismatch that no longer is one.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from corral.core.errors import DataError, NotFoundError
from corral.core.yaml import parse_yaml

Mark = Literal["paper", "model_card", "code", "secondary", "unverified", "measured"]
Unit = Literal["percent", "fraction"]
Metric = Literal[
    "f1", "precision", "recall", "ap", "auroc", "fpr", "accuracy", "recall_at_fpr_1", "asr", "rta", "latency_ms"
]
_SCALE = {"percent": 100.0, "fraction": 1.0}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedCell(_Model):
    """One printed figure.

    Attributes:
        table: ``T1`` to ``T11``.
        system: as the source names it.
        column: key of the table's ``columns``.
        metric: what the figure is.
        value: as printed, in ``unit`` (milliseconds where the metric is ``latency_ms``).
        unit: percent or fraction.
        mark: where the figure comes from.
        note: caveat of this cell, "" when there is none.
    """

    table: str
    system: str
    column: str
    metric: Metric
    value: float = Field(ge=0.0)
    unit: Unit
    mark: Mark
    note: str = ""

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.metric != "latency_ms" and self.value > _SCALE[self.unit]:
            raise ValueError(f"{self.system}, {self.column}, {self.metric}: {self.value} is not a {self.unit}")
        return self

    @property
    def fraction(self) -> float:
        """The figure on the scale of 0 to 1 (milliseconds unchanged)."""
        return self.value if self.metric == "latency_ms" else self.value / _SCALE[self.unit]


class PrintedMean(_Model):
    """A column that a table prints as the mean of others, rounded to ``decimals``."""

    column: str
    metric: Metric
    of: tuple[str, ...] = Field(min_length=2)
    decimals: int = Field(ge=0)


class KnownMismatch(_Model):
    """A printed mean that is known not to follow from its cells."""

    system: str
    column: str
    metric: Metric
    note: str


class MeanMismatch(_Model):
    """A printed mean beside the mean of the cells it claims to average."""

    system: str
    column: str
    metric: Metric
    printed: float
    computed: float


class PublishedTable(_Model):
    """One published table."""

    schema_version: Literal[1]
    table: str
    title: str
    unit: Unit
    note: str = ""
    columns: dict[str, str]
    means: tuple[PrintedMean, ...] = ()
    known_mismatches: tuple[KnownMismatch, ...] = ()
    cells: tuple[PublishedCell, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _cells_inherit(cls, value: object) -> object:
        """Cells take the table's id and unit."""
        if not isinstance(value, dict) or not isinstance(value.get("cells"), list):
            return value
        inherited = {"table": value.get("table"), "unit": value.get("unit")}
        return {**value, "cells": [{**inherited, **cell} for cell in value["cells"]]}

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        keys = [(cell.system, cell.column, cell.metric) for cell in self.cells]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{self.table}: cells printed twice: {repeated}")
        used = {cell.column for cell in self.cells} | {mean.column for mean in self.means}
        if unknown := sorted(used - set(self.columns)):
            raise ValueError(f"{self.table}: columns not declared: {unknown}")
        found = {(m.system, m.column, m.metric) for m in self.mean_mismatches()}
        known = {(m.system, m.column, m.metric) for m in self.known_mismatches}
        if found != known:
            raise ValueError(
                f"{self.table}: printed means that differ from their cells {sorted(found)}, listed {sorted(known)}"
            )
        return self

    def value(self, system: str, column: str, metric: str) -> float | None:
        """The printed figure of one cell, ``None`` when the table has no such cell."""
        for cell in self.cells:
            if (cell.system, cell.column, cell.metric) == (system, column, metric):
                return cell.value
        return None

    def mean_mismatches(self) -> list[MeanMismatch]:
        """Printed means further from the mean of their cells than rounding allows.

        Each cell and the mean are rounded to the same decimals, so the two may differ by one unit of the last place.
        A mean with a missing cell is not checked.
        """
        out = []
        for mean in self.means:
            for cell in self.cells:
                if (cell.column, cell.metric) != (mean.column, mean.metric):
                    continue
                parts = [self.value(cell.system, column, mean.metric) for column in mean.of]
                known = [part for part in parts if part is not None]
                computed = sum(known) / len(mean.of)
                if len(known) == len(parts) and abs(computed - cell.value) > 10.0**-mean.decimals + 1e-9:
                    out.append(
                        MeanMismatch(
                            system=cell.system,
                            column=cell.column,
                            metric=cell.metric,
                            printed=cell.value,
                            computed=computed,
                        )
                    )
        return out


def parse_table(text: str, *, where: str) -> PublishedTable:
    """Read one table from YAML.

    Raises:
        ConfigError: not YAML; names the file and line.
        DataError: a table that breaks a rule of this module; names the file.
    """
    try:
        return PublishedTable.model_validate(parse_yaml(text, where=where))
    except ValidationError as error:
        raise DataError(f"not a published table: {error}", where=where) from error


@cache
def load_tables() -> dict[str, PublishedTable]:
    """All packaged tables by id, in the order T1 to T11.

    Raises:
        DataError: a packaged file is malformed.
    """
    files = [f for f in resources.files(__package__).iterdir() if f.name.endswith(".yaml")]
    tables = [parse_table(f.read_text(encoding="utf-8"), where=f.name) for f in files]
    return {table.table: table for table in sorted(tables, key=lambda t: int(t.table.removeprefix("T")))}


def published_cells(table: str, column: str, metric: str | None = None) -> list[PublishedCell]:
    """Cells of one column, optionally of one metric, in the order of the table.

    Raises:
        NotFoundError: no such table or column.
    """
    tables = load_tables()
    if table not in tables:
        raise NotFoundError(f"no published table `{table}`", hint=f"Known: {', '.join(tables)}.")
    if column not in tables[table].columns:
        raise NotFoundError(
            f"table `{table}` has no column `{column}`", hint=f"It has {', '.join(tables[table].columns)}."
        )
    return [c for c in tables[table].cells if c.column == column and metric in (None, c.metric)]
