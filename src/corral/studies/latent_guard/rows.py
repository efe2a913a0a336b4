"""The prompts of the study: rows that centres are fitted on, rows as in the paper, and matched sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from corral.core.errors import DataError
from corral.core.files import sha256_json
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.data.mixture import MixtureEntry, sample_groups
from corral.data.sources import load_source
from corral.data.splits import draw_groups, group_fraction
from corral.studies.drawing import draw_mixture
from corral.studies.latent_guard.settings import LatentGuardConfig
from corral.studies.latent_guard.templated import templated_prompts

FIT: Final = "fit"
PUBLISHED: Final = "published"
_TEMPLATED_PAIRS: Final = "templated_pairs"
_TEST_SEED: Final = 10_000  # of the split that is the same for every seed of the study


@dataclass(frozen=True, slots=True)
class Pool:
    """Prompts with labels."""

    name: str
    rows: tuple[ModerationExample, ...]

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        """The prompts."""
        return tuple(row.conversation for row in self.rows)

    @property
    def harmful_N(self) -> NDArray[np.bool_]:  # noqa: N802 - a shape suffix
        """Their labels."""
        return np.array([bool(row.harmful) for row in self.rows])

    @property
    def groups(self) -> tuple[str, ...]:
        """Rows of one group stand or fall together."""
        return tuple(row.group for row in self.rows)

    def held_out(self, share: float, *, seed: int) -> NDArray[np.bool_]:
        """Which rows are on the held-out side of a split that keeps groups whole."""
        return np.array([group_fraction(group, seed=seed) < share for group in self.groups])

    @property
    def account(self) -> dict[str, Any]:
        """Counts, and a hash of which rows and labels."""
        harmful = int(self.harmful_N.sum())
        sources: dict[str, int] = {}
        for row in self.rows:
            sources[row.source] = sources.get(row.source, 0) + 1
        named = [[row.source, row.id, row.text, row.harmful] for row in self.rows]
        return {
            "rows": len(self.rows),
            "harmful": harmful,
            "sources": sources,
            "licences": {row.source: row.licence for row in self.rows},
            "sha256": sha256_json(named),
        }


def draw_pools(config: LatentGuardConfig) -> dict[str, Pool]:
    """All prompts of the study by name: ``fit``, ``published`` and the matched sets.

    Raises:
        NotFoundError: a source is not in the data folder.
        ConfigError: a fit source whose licence does not let weights ship, or an entry without rows.
        DataError: a pool without rows of both classes.
    """
    pools = _templated_pools() if config.toy else _public_pools(config)
    for pool in pools:
        if pool.rows and len(set(pool.harmful_N.tolist())) < 2:
            raise DataError(f"all rows of `{pool.name}` have one label", where=pool.name)
    return {pool.name: pool for pool in pools}


def pair_names(config: LatentGuardConfig) -> tuple[str, ...]:
    """Names of the matched sets."""
    return (_TEMPLATED_PAIRS,) if config.toy else config.pairs


def published_test(pool: Pool) -> NDArray[np.bool_]:
    """The half of the published rows that is held out of every seed."""
    return pool.held_out(0.5, seed=_TEST_SEED)


def published_fit(pool: Pool, *, seed: int) -> NDArray[np.bool_]:
    """Three quarters of the other half, another draw for every seed."""
    return ~published_test(pool) & ~pool.held_out(0.25, seed=seed)


def balanced_rows(pool: Pool, eligible_N: NDArray[np.bool_], each: int, *, seed: int) -> list[int]:
    """Indices of at most ``each`` harmful and as many harmless rows of a pool, drawn at random."""
    rng = np.random.default_rng(seed)
    chosen: list[int] = []
    for label in (True, False):
        rows = np.flatnonzero(eligible_N & (pool.harmful_N == label))
        chosen += sorted(int(row) for row in rng.permutation(rows)[:each])
    return chosen


def _public_pools(config: LatentGuardConfig) -> list[Pool]:
    drawn = draw_mixture(config.fit, keep_clean_of=config.keep_clean_of, seed=config.seed).rows
    pools = [Pool(FIT, tuple(_single_prompts(drawn)))]
    if config.published:
        rows = [row for n, entry in enumerate(config.published) for row in _drawn(entry, seed=(config.seed, n))]
        pools.append(Pool(PUBLISHED, tuple(rows)))
    for name in config.pairs:
        labelled = [row for row in load_source(name) if row.target == "prompt" and row.harmful is not None]
        pools.append(Pool(name, tuple(draw_groups(labelled, config.pair_rows, seed=config.seed))))
    return pools


def _drawn(entry: MixtureEntry, *, seed: tuple[int, int]) -> Sequence[ModerationExample]:
    """Rows of an evaluation source, which what is fitted on them never leaves the run for."""
    rows = [row for row in load_source(entry.source) if entry.admits(row)]
    return sample_groups(rows, entry.cap, rng=np.random.default_rng(seed))


def _single_prompts(rows: Iterable[ModerationExample]) -> Iterable[ModerationExample]:
    """Labelled prompts without turns before them: what a chat has been about would be in the states as well."""
    return (
        row
        for row in rows
        if row.target == "prompt" and row.harmful is not None and len(row.conversation.messages) == 1
    )


def _templated_pools() -> list[Pool]:
    rows = templated_prompts()
    bounds = {FIT: (0, 96), PUBLISHED: (96, 224), _TEMPLATED_PAIRS: (224, 288)}
    return [Pool(name, tuple(rows[start:stop])) for name, (start, stop) in bounds.items()]
