"""Drawing training rows: mixtures of sources whose licence lets weights ship, clean of the sets that measure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from corral.core.config import Config
from corral.core.errors import ConfigError, NotFoundError, RunError
from corral.core.files import atomic_write_json, canonical_json, read_json
from corral.core.progress import progress
from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample
from corral.data.mixture import Mixture, MixtureEntry, build_mixture, relabel, sample_groups
from corral.data.relabelling import with_labels_of
from corral.data.self_written import PREFIX, may_train, self_written_rows
from corral.data.sources import SOURCES, data_root, load_source
from corral.data.splits import draw_groups, group_fraction, split_by_group


def draw_mixture(
    entries: Sequence[MixtureEntry], *, keep_clean_of: Iterable[str], seed: int, share: float = 1.0
) -> Mixture:
    """The rows of a mixture, whose conditions may name what ``described`` adds beside upstream columns.

    Args:
        entries: the mixture.
        keep_clean_of: evaluation sources, self-written ones among them, whose texts are left out.
        seed: of the draw.
        share: of the rows that each entry would take.

    Raises:
        ConfigError: an entry names a source whose licence does not let weights ship, or takes no row.
        NotFoundError: a source is not in the data folder.
    """
    _require_trainable(entries)
    index = evaluation_index(keep_clean_of)
    cache: dict[str, list[ModerationExample]] = {}

    def load(name: str) -> Iterable[ModerationExample]:
        if name not in cache:
            cache[name] = described(_rows_of(name))
        return cache[name]

    return build_mixture(
        progress(entries, "Drawing the mixture"), load, contaminated=index.contaminated, seed=seed, share=share
    )


def draw_held_out(
    entries: Sequence[MixtureEntry], *, keep_clean_of: Iterable[str], held_out: float, seed: int, at_most: int
) -> list[ModerationExample]:
    """Rows of a mixture's sources in the groups that training holds out, whatever share of the mixture it drew.

    Whether a group is held out depends on its name and the seed alone (``split_by_group``), so rows that the caps kept
    out of training serve here too: a development split larger than a drawn mixture's own.

    Args:
        entries: the mixture.
        keep_clean_of: evaluation sources whose texts are left out.
        held_out: share of groups that training holds out.
        seed: of that split.
        at_most: rows an entry, one of each group first.

    Raises:
        ConfigError: an entry names a source whose licence does not let weights ship.
    """
    _require_trainable(entries)
    index = evaluation_index(keep_clean_of)
    taken: dict[tuple[str, str, str], ModerationExample] = {}
    for number, entry in enumerate(progress(entries, "Drawing held-out rows")):
        rows = [
            row
            for row in described(_rows_of(entry.source))
            if group_fraction(row.group, seed=seed) < held_out
            and entry.admits(row)
            and not row.eval_overlap
            and not any(index.contaminated(text) for text in asked_texts([row]))
        ]
        for row in sample_groups(rows, at_most, rng=np.random.default_rng([seed, number])):
            taken.setdefault((row.source, row.id, row.target), relabel(row, entry))
    return list(taken.values())


def _require_trainable(entries: Sequence[MixtureEntry]) -> None:
    for entry in entries:
        if not may_train(entry.source):
            raise ConfigError(f"`{entry.source}` is for evaluation only", where="mixture")


def _rows_of(name: str) -> Iterable[ModerationExample]:
    return self_written_rows(name) if name.startswith(PREFIX) else load_source(name)


def described(rows: Iterable[ModerationExample]) -> list[ModerationExample]:
    """The rows with what a mixture may ask for beside upstream columns in ``raw``.

    ``messages``, how many there are, and for a reply ``prompt_harmful``, the label of the prompt that it answers where
    the source has one.
    """
    rows = list(rows)
    prompts = {row.conversation.messages: row.harmful for row in rows if row.target == "prompt"}
    return [
        replace(
            row,
            raw={
                **row.raw,
                "messages": len(row.conversation.messages),
                "prompt_harmful": None if row.target == "prompt" else prompts.get(row.conversation.messages[:-1]),
            },
        )
        for row in rows
    ]


class SplitRowsConfig(Config):
    """Training rows and the rows held out from them; a group of rows is on one side."""

    mixture: tuple[MixtureEntry, ...] = Field((), description="sources of `train_and_ship` rows")
    keep_clean_of: tuple[str, ...] = Field((), description="evaluation sources whose texts are left out")
    share: float = Field(1.0, gt=0, le=1, description="of the rows that would be drawn: a smaller study of one make")
    held_out: float = Field(0.3, gt=0, lt=1, description="share of groups held out")
    test: int = Field(200, ge=1, description="held-out rows that are measured, at the most")


@dataclass(frozen=True)
class SplitRows:
    """Drawn rows on two sides.

    Attributes:
        train: training rows.
        held_out: rows of other groups with a harm label, as many as are measured.
        drawn: by entry, how many rows there were and what became of them.
    """

    train: tuple[ModerationExample, ...]
    held_out: tuple[ModerationExample, ...]
    drawn: tuple[Mapping[str, Any], ...] = ()


def draw_split(
    config: SplitRowsConfig, *, taxonomy: str, seed: int, rows: Sequence[ModerationExample] | None = None
) -> SplitRows:
    """Draw the rows of a mixture, with labels of a taxonomy too, and hold groups out.

    Args:
        config: the mixture and the split.
        taxonomy: a packaged one, to which category labels are mapped.
        seed: of draw and split.
        rows: to be split in place of the mixture's, as they are.

    Raises:
        ConfigError: as ``draw_mixture``, or one side is empty.
        NotFoundError: a source is not in the data folder.
    """
    drawn: tuple[Mapping[str, Any], ...] = ()
    if rows is None:
        mixture = draw_mixture(config.mixture, keep_clean_of=config.keep_clean_of, seed=seed, share=config.share)
        rows = [with_labels_of(row, taxonomy) for row in mixture.rows]
        drawn = tuple({"source": source, **asdict(counts)} for source, counts in mixture.counts)
    else:
        # Not the seed of the split, by which the groups drawn first would all be on one side.
        rows = draw_groups(rows, math.ceil(config.share * len(rows)), seed=seed + 1)
    kept, held = split_by_group(rows, held_out=config.held_out, seed=seed)
    test = draw_groups([row for row in held if row.harmful is not None], config.test, seed=seed)
    if not kept or not test:
        raise ConfigError("no rows to train on, or none held out", where="rows")
    return SplitRows(tuple(kept), tuple(test), drawn)


def evaluation_index(sources: Iterable[str]) -> EvaluationIndex:
    """Knows the texts of evaluation sources, self-written ones among them.

    Raises:
        NotFoundError: a source is not in the data folder.
    """
    return EvaluationIndex(_evaluation_texts(sources))


def keep_account(path: Path, account: Mapping[str, Any]) -> None:
    """Write which rows a run uses; a run that goes on must have those that it began with.

    Args:
        path: where the run keeps it.
        account: JSON values that depend on the rows and on nothing else.

    Raises:
        RunError: the account that is there is of other rows.
    """
    if path.exists() and canonical_json(read_json(path)) != canonical_json(account):
        raise RunError(
            "the sources give other rows than when this run began",
            where=str(path),
            hint="The data or the code that reads it has changed. Start a new run with --new.",
        )
    atomic_write_json(path, account)


def source_files(names: Iterable[str]) -> Iterator[Path]:
    """Files of sources in the data folder, each source once; self-written rows have none."""
    for name in dict.fromkeys(name for name in names if not name.startswith(PREFIX)):
        yield from (data_root() / relative for relative in SOURCES.get(name).files)


def asked_texts(rows: Iterable[ModerationExample]) -> Iterator[str]:
    """Texts of all turns but the assistant's."""
    for row in rows:
        yield from (m.text for m in row.conversation.messages if m.role != "assistant")


def _evaluation_texts(sources: Iterable[str]) -> Iterator[str]:
    for name in sources:
        try:
            rows = self_written_rows(name) if name.startswith(PREFIX) else load_source(name)
        except NotFoundError as error:
            raise NotFoundError(
                f"`{name}` is needed to keep training clean of it", where="keep_clean_of", hint=error.hint
            ) from error
        yield from asked_texts(rows)
