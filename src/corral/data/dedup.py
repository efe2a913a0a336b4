"""Near duplicates by MinHash: texts that say the same in all but a few words.

Texts are normalised (case, punctuation, white space), cut into runs of five characters, and signed with 128 minimum
hashes; signatures that agree in a band of four are candidates, and a candidate counts only if the exact Jaccard
similarity of the two sets of runs reaches the threshold. So nothing is merged by chance, and a pair at 0.8 is missed
about once in ten million.

Source: Broder, "On the resemblance and containment of documents" (1997); the settings are ours.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from corral.data.examples import normalise_prompt

PERMUTATIONS: Final = 128
RUN_CHARS: Final = 5
THRESHOLD: Final = 0.8
_BAND: Final = 4
_SHIFT: Final = np.uint64(32)


class NearDuplicate(NamedTuple):
    """Two texts by index, the earlier one first, and the Jaccard similarity of their runs."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class Deduplicated:
    """What is left of texts without near duplicates.

    Attributes:
        kept: indices, in order: the first of each group that say the same.
        removed: each of the others with the kept text that it repeats.
    """

    kept: tuple[int, ...]
    removed: tuple[NearDuplicate, ...]


def near_duplicates(texts: Sequence[str], *, threshold: float = THRESHOLD, seed: int = 0) -> list[NearDuplicate]:
    """All pairs at or above a similarity, in order of their indices.

    Args:
        texts: of any length; one without letters and digits repeats only itself.
        threshold: least Jaccard similarity of the sets of runs.
        seed: of the hashes, which decide only which pairs are looked at.
    """
    runs = [_runs(text) for text in texts]
    signatures = [_signature(each, *_hashes(seed)) for each in runs]
    found = []
    for first, second in sorted(_candidates(signatures)):
        similarity = len(runs[first] & runs[second]) / len(runs[first] | runs[second])
        if similarity >= threshold:
            found.append(NearDuplicate(first, second, similarity))
    return found


def cluster_texts(texts: Sequence[str], *, threshold: float = THRESHOLD, seed: int = 0) -> list[int]:
    """A cluster for each text: the index of the first text that it is joined to through near duplicates."""
    parent = list(range(len(texts)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    for first, second, _ in near_duplicates(texts, threshold=threshold, seed=seed):
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(index) for index in range(len(texts))]


def deduplicate(texts: Sequence[str], *, threshold: float = THRESHOLD, seed: int = 0) -> Deduplicated:
    """Keep each text that repeats no kept one; a text goes for its own likeness to a kept one, not for a chain's."""
    repeats: dict[int, list[NearDuplicate]] = defaultdict(list)
    for pair in near_duplicates(texts, threshold=threshold, seed=seed):
        repeats[pair.second].append(pair)
    kept: list[int] = []
    removed: list[NearDuplicate] = []
    gone: set[int] = set()
    for index in range(len(texts)):
        twin = next((pair for pair in repeats[index] if pair.first not in gone), None)
        if twin is None:
            kept.append(index)
        else:
            removed.append(twin)
            gone.add(index)
    return Deduplicated(tuple(kept), tuple(removed))


def _runs(text: str) -> frozenset[int]:
    """Hashes of the runs of characters of a text; of a shorter one the whole."""
    plain = normalise_prompt(text) or text.strip()
    count = max(1, len(plain) - RUN_CHARS + 1)
    cut = {plain[start : start + RUN_CHARS] for start in range(count)}
    return frozenset(int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "big") for run in cut)


def _hashes(seed: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Factors and addends of multiply-shift hashing, (128,) each; factors are odd."""
    rng = np.random.default_rng(seed)
    factors, addends = rng.integers(0, 2**64, size=(2, PERMUTATIONS), dtype=np.uint64)
    return factors | np.uint64(1), addends


def _signature(
    runs: frozenset[int], factors: npt.NDArray[np.uint64], addends: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    values = np.fromiter(runs, dtype=np.uint64, count=len(runs))
    hashed = (values[:, None] * factors[None, :] + addends[None, :]) >> _SHIFT  # wraps around, as it should
    return hashed.min(axis=0)  # type: ignore[no-any-return]


def _candidates(signatures: Sequence[npt.NDArray[np.uint64]]) -> set[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for start in range(0, PERMUTATIONS, _BAND):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, signature in enumerate(signatures):
            buckets[signature[start : start + _BAND].tobytes()].append(index)
        for members in buckets.values():
            found.update(combinations(members, 2))
    return found
