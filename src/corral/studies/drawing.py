"""Drawing training rows: mixtures of sources whose licence lets weights ship, clean of the sets that measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from corral.core.errors import ConfigError, NotFoundError
from corral.core.progress import progress
from corral.data.decontamination import EvaluationIndex
from corral.data.examples import ModerationExample
from corral.data.mixture import Mixture, MixtureEntry, build_mixture
from corral.data.self_written import PREFIX, self_written_rows
from corral.data.sources import SOURCES, data_root, load_source


def draw_mixture(
    entries: Sequence[MixtureEntry], *, keep_clean_of: Iterable[str], seed: int, share: float = 1.0
) -> Mixture:
    """The rows of a mixture.

    Args:
        entries: the mixture.
        keep_clean_of: evaluation sources, self-written ones among them, whose texts are left out.
        seed: of the draw.
        share: of the rows that each entry would take.

    Raises:
        ConfigError: an entry names a source whose licence does not let weights ship, or takes no row.
        NotFoundError: a source is not in the data folder.
    """
    for entry in entries:
        if not entry.source.startswith(PREFIX) and not SOURCES.get(entry.source).trainable:
            raise ConfigError(f"`{entry.source}` is for evaluation only", where="mixture")
    index = evaluation_index(keep_clean_of)
    cache: dict[str, list[ModerationExample]] = {}

    def load(name: str) -> Iterable[ModerationExample]:
        if name not in cache:
            cache[name] = list(self_written_rows(name) if name.startswith(PREFIX) else load_source(name))
        return cache[name]

    return build_mixture(
        progress(entries, "Drawing the mixture"), load, contaminated=index.contaminated, seed=seed, share=share
    )


def evaluation_index(sources: Iterable[str]) -> EvaluationIndex:
    """Knows the texts of evaluation sources, self-written ones among them.

    Raises:
        NotFoundError: a source is not in the data folder.
    """
    return EvaluationIndex(_evaluation_texts(sources))


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
