"""Which prefixes are worth computing once, and those that were.

Attention is causal, so the keys and values of a prefix serve every sequence that begins with it or with a part of it.
What a sequence shares changes what is computed for it, not what comes out, up to rounding.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from corral.models.packed.attention import KeysValues

TokenArray = NDArray[np.int64]
LayerStates = tuple[KeysValues, ...]

# What a pass of its own costs beyond its tokens, in tokens, and the fewest tokens that are worth keeping: both small
# next to a policy, and of no effect on scores.
_PASS_COST: Final = 32
_WORTH_KEEPING: Final = 16
_LARGEST_GROUP: Final = 256


class SharedPrefix(NamedTuple):
    """Sequences, by index, that begin with the same ``tokens`` tokens, 0 for sequences that share nothing."""

    tokens: int
    members: tuple[int, ...]


class PrefixCache:
    """Keys and values of the prefixes that were used last.

    Args:
        max_bytes: the oldest ones are dropped beyond this.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[int, ...], LayerStates] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, ids: TokenArray) -> LayerStates:
        """The states of the longest known beginning of ``ids``, empty for none; it counts as used."""
        best, key = 0, None
        for known in self._entries:
            shared = shared_length(ids, np.asarray(known))
            if shared > best:
                best, key = shared, known
        if key is None:
            return ()
        self._entries.move_to_end(key)
        return tuple(states.first(best) for states in self._entries[key])

    def covered(self, ids: TokenArray) -> int:
        """How many tokens ``find`` would give."""
        return max((shared_length(ids, np.asarray(known)) for known in self._entries), default=0)

    def keep(self, ids: TokenArray, states: LayerStates) -> None:
        """Remember a prefix, in the place of those that it begins with."""
        size = _bytes(states)
        key = tuple(ids.tolist())
        for known in [known for known in self._entries if key[: len(known)] == known]:
            self._bytes -= _bytes(self._entries.pop(known))
        if size > self._max_bytes:
            return
        self._entries[key] = states
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= _bytes(self._entries.popitem(last=False)[1])


def shared_length(first: TokenArray, second: TokenArray) -> int:
    """How many tokens two sequences have in common from the beginning."""
    length = min(len(first), len(second))
    different = first[:length] != second[:length]
    return int(different.argmax()) if different.any() else length


def best_prefixes(sequences: Sequence[TokenArray], known: Sequence[int]) -> list[SharedPrefix]:
    """Group sequences by prefix so that little is left to compute.

    Sequences that share a prefix are neighbours in lexicographic order, so a grouping is a set of cuts in that order;
    dynamic programming finds the one with the fewest tokens, those of new prefixes included.

    Args:
        sequences: token ids, none empty.
        known: of each, how many tokens from the beginning are known already.

    Returns:
        Groups that partition the sequences; of at most 256 with a prefix, and one for all without. A prefix never takes
        a sequence's last token.
    """
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].tolist())
    shared = [0, *(shared_length(sequences[i], sequences[j]) for i, j in pairwise(order))]
    best = [_Cut(0, 0, 0)]
    for stop in range(1, len(order) + 1):
        cuts = _last_groups(order, stop, shared, [len(ids) for ids in sequences], known)
        best.append(min(_Cut(best[cut.start].cost + cut.cost, cut.start, cut.prefix) for cut in cuts))
    groups = []
    alone: list[int] = []
    stop = len(order)
    while stop:
        _, start, prefix = best[stop]
        if prefix:
            groups.append(SharedPrefix(prefix, tuple(sorted(order[start:stop]))))
        else:
            alone += order[start:stop]
        stop = start
    return groups + ([SharedPrefix(0, tuple(sorted(alone)))] if alone else [])


class _Cut(NamedTuple):
    """A group that begins at ``start``: tokens to compute, up to its end, and its prefix."""

    cost: int
    start: int
    prefix: int


def _last_groups(
    order: Sequence[int], stop: int, shared: Sequence[int], lengths: Sequence[int], known: Sequence[int]
) -> Iterator[_Cut]:
    """The groups that end before ``stop``, each with its best prefix and its own cost."""
    common = lengths[order[stop - 1]] - 1
    tokens = most_known = 0
    for start in range(stop - 1, max(-1, stop - 1 - _LARGEST_GROUP), -1):
        size = stop - start
        common = min(common, lengths[order[start]] - 1, common if size == 1 else shared[start + 1])
        tokens += lengths[order[start]]
        most_known = max(most_known, known[order[start]])
        is_new = size > 1 and common - most_known >= _WORTH_KEEPING
        prefix = common if is_new else min(common, most_known)
        yield _Cut(_PASS_COST + max(0, prefix - most_known) + tokens - size * prefix, start, prefix)


def _bytes(states: LayerStates) -> int:
    return sum(tensor.nbytes for layer in states for tensor in (layer.keys, layer.values))
