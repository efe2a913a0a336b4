"""Log-probabilities of labels after token sequences, what the sequences begin with computed once.

The vocabulary's logits are computed in float32 for the positions where a label's token is read, and for no other.

Legend: B sequences, R read positions, D hidden size, V vocabulary.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from corral.models.engines.sampling import require_finite
from corral.models.packed.decoder import prefix_states, read_states
from corral.models.packed.packing import LabelTree, Tokens, pack
from corral.models.packed.prefixes import LayerStates, PrefixCache, TokenArray, best_prefixes
from corral.models.packed.weights import ModelWeights

CACHE_BYTES: Final = 512 * 2**20
PACK_TOKENS: Final = 1024
"""Tokens of one pass: enough that reading the weights costs little, few enough that activations stay near."""

_HEAD_ROWS: Final = 512  # of the vocabulary at a time, so that their float32 copy stays in the cache


class LabelScorer:
    """Scores labels by one model; safe to use from several threads, which take turns.

    Args:
        weights: of the model.
        pack_tokens: tokens of one forward pass; a longer sequence goes alone.
        cache_bytes: for keys and values of prefixes.
    """

    def __init__(
        self, weights: ModelWeights, *, pack_tokens: int = PACK_TOKENS, cache_bytes: int = CACHE_BYTES
    ) -> None:
        self._weights = weights
        self._pack_tokens = pack_tokens
        self._prefixes = PrefixCache(cache_bytes)
        self._lock = threading.Lock()

    def label_logprobs(self, sequences: Sequence[Tokens], labels: Sequence[Tokens]) -> list[tuple[float, ...]]:
        """Natural-log probability of each label right after each sequence, summed over its tokens.

        Args:
            sequences: token ids, none empty.
            labels: token ids, none empty.

        Raises:
            EngineError: logits that are not finite.
        """
        if not sequences or not labels:
            return [() for _ in sequences]
        distinct = list(dict.fromkeys(map(tuple, sequences)))
        tree = LabelTree(labels)
        with self._lock, torch.inference_mode():
            read_BRD = self._read([np.asarray(ids) for ids in distinct], tree)
            scores = self._scores(read_BRD, labels, tree)
        by_sequence = dict(zip(distinct, scores, strict=True))
        return [by_sequence[tuple(ids)] for ids in sequences]

    def _read(self, sequences: list[TokenArray], tree: LabelTree) -> Tensor:
        """Hidden states (B, R, D) at the tree's positions after each sequence."""
        known = [self._prefixes.covered(ids[:-1]) for ids in sequences]
        read_BRD = torch.empty(len(sequences), 1 + len(tree.tokens), self._weights.shape.hidden_size)
        for prefix, members in best_prefixes(sequences, known):
            states = self._states(sequences[members[0]], prefix, alone=len(sequences) == 1)
            length = states[0].keys.shape[1] if states else 0
            for batch in self._packs([(i, len(sequences[i]) - length + len(tree.tokens)) for i in members]):
                packing = pack([sequences[i][length:].tolist() for i in batch], tree, prefix=length)
                read_BRD[batch] = read_states(self._weights, packing, states).view(len(batch), *read_BRD.shape[1:])
        return read_BRD

    def _states(self, ids: TokenArray, prefix: int, *, alone: bool) -> LayerStates:
        """Keys and values of a prefix, computed where they are not known.

        A sequence that is scored alone and shares little is kept whole, as the next may begin like it.
        """
        if alone and prefix < len(ids) // 2:
            prefix = len(ids) - 1
        states = self._prefixes.find(ids[:prefix])
        known = states[0].keys.shape[1] if states else 0
        if known < prefix:
            states = prefix_states(self._weights, ids[:prefix].tolist(), states)
            self._prefixes.keep(ids[:prefix], states)
        return states

    def _packs(self, lengths: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
        """Indices, in their order, in runs of at most ``pack_tokens`` tokens."""
        batch: list[int] = []
        tokens = 0
        for index, length in lengths:
            if batch and tokens + length > self._pack_tokens:
                yield batch
                batch, tokens = [], 0
            batch.append(index)
            tokens += length
        yield batch

    def _scores(self, read_BRD: Tensor, labels: Sequence[Tokens], tree: LabelTree) -> list[tuple[float, ...]]:
        total_BR = self._log_totals(read_BRD.flatten(0, 1)).view(read_BRD.shape[:2])
        by_label = []
        for label, places in zip(labels, tree.places, strict=True):
            rows = self._weights.head[torch.tensor(label)].float()
            logits = (read_BRD[:, places] * rows).sum(-1)
            by_label.append((logits - total_BR[:, places]).sum(-1).tolist())
        return list(zip(*by_label, strict=True))

    def _log_totals(self, read_ND: Tensor) -> Tensor:
        """Logarithm of the sum of exp(logit) over the vocabulary."""
        totals_N = torch.full((len(read_ND),), -torch.inf)
        for rows in torch.split(self._weights.head, _HEAD_ROWS):
            logits = read_ND @ rows.float().t()
            require_finite(logits)
            totals_N = torch.logaddexp(totals_N, logits.logsumexp(-1))
        return totals_N
