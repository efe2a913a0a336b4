"""The ten public columns that WildGuard's tables report, and WildGuardTest, read from files as published upstream.

Several of these sets are gated or non-commercial, so none is packaged and no checksum of ours stands for them: the user
names a file, and a full copy is told by the published counts of rows and positives. Formats and label rules are those
of the public evaluation code of the paper, as far as others report them (secondary: the Aegis majority and the SafeRLHF
draw could not be checked against a full copy here).
"""

from __future__ import annotations

import lzma
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

from corral.core.errors import DataError, NotFoundError
from corral.core.files import read_json
from corral.core.registry import Registry
from corral.core.yaml import parse_yaml
from corral.data.examples import ModerationExample
from corral.data.messages import Target
from corral.data.readers import Row, read_rows
from corral.data.sources.nemotron_safety_guard import REDACTED, nemotron_examples
from corral.data.sources.record import Source
from corral.data.sources.rows import Mapper, SourceRow, labelled_prompts, prompts

# Parquet and JSON give typed values, CSV gives text.
_YES_NO: Final[Mapping[object, bool]] = {1: True, 0: False, "1": True, "0": False, "True": True, "False": False}
_HARMFUL: Final[Mapping[object, bool | None]] = {"harmful": True, "unharmful": False, None: None, "": None}
_REFUSES: Final[Mapping[object, bool | None]] = {"refusal": True, "compliance": False, None: None, "": None}
_OPENAI_CATEGORIES: Final = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")
_AEGIS_ANNOTATORS: Final = ("labels_0", "labels_1", "labels_2")
_SAFERLHF_PAIRS: Final = 1000
_SAFERLHF_SEED: Final = 42


@dataclass(frozen=True, slots=True)
class PublicColumn:
    """One column of the published tables.

    Attributes:
        source: licence, upstream place and label rule.
        file: the upstream file to name.
        target: the message that is judged.
        label: which label of the rows is the truth.
        rows: published number of labelled rows; ``None`` where the publication contradicts itself.
        positives: published number of positives, likewise.
        mapper: from a row of the file to examples.
    """

    source: Source
    file: str
    target: Target
    label: Literal["harmful", "refusal"]
    rows: int | None
    positives: int | None
    mapper: Mapper

    @property
    def name(self) -> str:
        """The column's name in the published tables."""
        return self.source.name

    @property
    def all_positive(self) -> bool:
        """Whether every row is positive."""
        return self.rows is not None and self.rows == self.positives

    def require(self, path: Path) -> None:
        """See that there is a file.

        Raises:
            NotFoundError: there is none; the hint says where the set is published.
        """
        if not path.is_file():
            raise NotFoundError(
                f"there is no file of `{self.name}`",
                where=str(path),
                hint=f"Fetch `{self.file}` of {self.source.upstream} ({self.source.licence}) and name it here.",
            )


def read_public_column(name: str, path: Path | str, *, full: bool = True) -> list[ModerationExample]:
    """The labelled rows of a public column, from a file in the format of its upstream.

    Args:
        name: one of ``PUBLIC_COLUMNS``.
        path: JSON, JSON Lines, CSV or Parquet, gzipped or xz-compressed or neither.
        full: require the published counts; false for a part of the set.

    Raises:
        NotFoundError: no column of that name, or no such file; the hint says where the set is published.
        DataError: a malformed row, or with ``full`` other counts than the published ones.
    """
    column, path = PUBLIC_COLUMNS.get(name), Path(path)
    column.require(path)
    examples = [example for row in _rows(column, path) for example in column.mapper(row)]
    labelled = [example for example in examples if getattr(example, column.label) is not None]
    if name == "saferlhf":
        labelled = _saferlhf_draw(labelled)
    if full:
        _require_counts(column, labelled, path)
    return labelled


def _rows(column: PublicColumn, path: Path) -> Iterator[SourceRow]:
    for row in _harmbench_rows(path) if column.name == "harmbench_response" else _file_rows(path):
        yield SourceRow(column.source, column.name, row.line, f"{path}:{row.line}", row.value, _no_joins)


def _no_joins(file: str, column: str) -> Mapping[Any, SourceRow]:
    raise NotFoundError(f"a public column has one file, and no `{file}` to look `{column}` up in")


def _file_rows(path: Path) -> Iterator[Row]:
    if path.suffix != ".xz":
        yield from read_rows(path, strict=True)
        return
    with lzma.open(path, "rb") as stream:
        yield from read_rows(stream, format="jsonl", strict=True)


def _harmbench_rows(path: Path) -> Iterator[Row]:
    """Rows of an object that maps a behaviour to its list of judged generations; numbered from 1."""
    document = read_json(path)
    lists = document.values() if isinstance(document, dict) else ()
    if not lists or not all(isinstance(each, list) for each in lists):
        raise DataError("expected an object of lists", where=str(path))
    judged = [row for each in lists for row in each]
    for number, row in enumerate(judged, start=1):
        if not isinstance(row, dict):
            raise DataError("expected an object", where=f"{path}:{number}")
        yield Row(row, str(path), number)


def _toxicchat(row: SourceRow) -> Iterator[ModerationExample]:
    if row.label("human_annotation", _YES_NO):
        yield from row.prompt("user_input", harmful=row.label("toxicity", _YES_NO))


def _openai_moderation(row: SourceRow) -> Iterator[ModerationExample]:
    # Upstream leaves out the columns that nobody labelled; the binary target counts them as 0.
    present = [column for column in _OPENAI_CATEGORIES if row.value.get(column) is not None]
    return row.prompt("prompt", harmful=True in [row.label(column, _YES_NO) for column in present])


def _aegis(row: SourceRow) -> Iterator[ModerationExample]:
    if row.text("text_type") == "user_message":
        safe = sum(row.text(annotator) == "Safe" for annotator in _AEGIS_ANNOTATORS)
        yield from row.prompt("text", harmful=safe <= 1)


def _harmbench_prompt(row: SourceRow) -> Iterator[ModerationExample]:
    if row.text("FunctionalCategory") in ("standard", "copyright"):
        yield from row.prompt("Behavior", harmful=True)


def _harmbench_response(row: SourceRow) -> Iterator[ModerationExample]:
    votes = [row.label(f"human_{annotator}", _YES_NO) for annotator in range(3)]
    return row.response("test_case", "generation", harmful=sum(votes) > 1)


def _saferlhf(row: SourceRow) -> Iterator[ModerationExample]:
    """The two responses where one is safe and the other is not, the safe one first."""
    safe = [row.label(f"is_response_{i}_safe", _YES_NO) for i in (0, 1)]
    if safe[0] != safe[1]:
        for i, harmful in ((safe.index(True), False), (safe.index(False), True)):
            part = "harmful" if harmful else "safe"
            yield from row.response("prompt", f"response_{i}", harmful=harmful, part=part)


def _saferlhf_draw(pairs: list[ModerationExample]) -> list[ModerationExample]:
    """The 1,000 pairs that the paper's evaluation code draws; all where there are no more."""
    count = len(pairs) // 2
    if count <= _SAFERLHF_PAIRS:
        return pairs
    drawn = random.Random(_SAFERLHF_SEED).sample(range(count), _SAFERLHF_PAIRS)  # noqa: S311 - a draw, no secret
    return [pairs[2 * i + k] for i in drawn for k in (0, 1)]


def _beavertails(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response("prompt", harmful=not row.label("is_safe", _YES_NO))


def _xstest_response(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response("prompt", harmful=row.label("label", _HARMFUL))


def _xstest_refusal(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response("prompt", refusal=row.label("label", _REFUSES))


def _wildguard_response(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response("prompt", harmful=row.label("response_harm_label", _HARMFUL))


def _wildguard_refusal(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response("prompt", refusal=row.label("response_refusal_label", _REFUSES))


def _require_counts(column: PublicColumn, rows: list[ModerationExample], path: Path) -> None:
    positives = sum(getattr(row, column.label) is True for row in rows)
    found = f"{len(rows):,} rows, {positives:,} positive"
    if not rows:
        raise DataError(f"no row of `{column.name}`", where=str(path), hint=f"The upstream file is `{column.file}`.")
    if column.rows is not None and (len(rows), positives) != (column.rows, column.positives):
        raise DataError(
            f"{found}; `{column.name}` was published with {column.rows:,} and {column.positives:,}",
            where=str(path),
            hint=f"The upstream file is `{column.file}`. Read a part of the set on purpose with full=False.",
        )


_MULTIJAIL_LANGUAGES: Final = ("en", "zh", "it", "vi", "ar", "ko", "th", "bn", "sw", "jv")


def _multijail(row: SourceRow) -> Iterator[ModerationExample]:
    """A row of ten columns is one request in ten languages."""
    pair = str(row.value.get("id", row.line))
    for language in _MULTIJAIL_LANGUAGES:
        yield from row.prompt(
            language,
            harmful=True,
            group=f"multijail/{pair}",
            language=language,
            part=language,
            extra={"pair": pair},
        )


def _nemotron(target: Target) -> Mapper:
    def read(row: SourceRow) -> Iterator[ModerationExample]:
        if row.text("prompt") != REDACTED and row.text("prompt").strip():
            yield from (each for each in nemotron_examples(row.value, where=row.where) if each.target == target)

    return read


_MAPPERS: Final[Mapping[str, Mapper]] = {
    "toxicchat": _toxicchat,
    "openai_moderation": _openai_moderation,
    "aegis": _aegis,
    "simple_safety_tests": prompts(harmful=True),
    "harmbench_prompt": _harmbench_prompt,
    "harmbench_response": _harmbench_response,
    "saferlhf": _saferlhf,
    "beavertails": _beavertails,
    "xstest_response": _xstest_response,
    "xstest_refusal": _xstest_refusal,
    "wildguardtest_prompt": labelled_prompts("prompt_harm_label", _HARMFUL),
    "wildguardtest_response": _wildguard_response,
    "wildguardtest_refusal": _wildguard_refusal,
    "multijail": _multijail,
    "nemotron_safety_guard_prompt": _nemotron("prompt"),
    "nemotron_safety_guard_response": _nemotron("response"),
}


def _register_all() -> Registry[PublicColumn]:
    registry: Registry[PublicColumn] = Registry("public column")
    text = (resources.files("corral.data.sources") / "public_columns.yaml").read_text(encoding="utf-8")
    for entry in parse_yaml(text, where="public_columns.yaml"):
        source = Source(
            name=entry["name"],
            folder="",
            use="evaluate_only",
            languages=tuple(entry.get("languages", ("en",))),
            licence=entry["licence"],
            upstream=entry["upstream"],
            revision=None,
            files={},
            note=entry["rule"],
        )
        column = PublicColumn(
            source=source,
            file=entry["file"],
            target=entry["target"],
            label=entry["label"],
            rows=entry["rows"],
            positives=entry["positives"],
            mapper=_MAPPERS[source.name],
        )
        registry.register(column.name, column)
    return registry


PUBLIC_COLUMNS: Final = _register_all()
"""The ten public columns by their names in the published tables, the three of WildGuardTest, and two multilingual
sets of CultureGuard's table."""
