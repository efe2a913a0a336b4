"""Directions of harm by category, and the choice of one refusal direction (arXiv 2406.11717, sections 2.3 and 3.1).

Legend: N prompts, C categories, P positions after the instruction, S sites, L layers, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from corral.core.errors import ConfigError, DataError
from corral.data.messages import Conversation
from corral.guards.latent_guard.next_token import next_token_logits, refusal_scores
from corral.guards.latent_guard.reading import LatentReader
from corral.guards.latent_guard.scores import MIN_ROWS, AnyFloats, Doubles, RunningMoments, cosines
from corral.models.batching import token_budget_batches
from corral.models.steering import ablated, steered

if TYPE_CHECKING:
    from torch import Tensor

MAX_KL: Final = 0.1
TOP_LAYERS_LEFT_OUT: Final = 0.2
_NO_DIRECTION: Final = 1e-9


def category_directions(
    harmful_NSD: AnyFloats, categories: Sequence[str], harmless_NSD: AnyFloats, *, min_rows: int = MIN_ROWS
) -> dict[str, Doubles]:
    """Direction of harm of every category with enough rows: its mean minus that of all harmless prompts, (S, D).

    Raises:
        DataError: fewer than ``min_rows`` harmless prompts.
    """
    if len(harmless_NSD) < min_rows:
        raise DataError(f"{len(harmless_NSD)} prompts are harmless, a direction needs {min_rows}")
    harmless_SD = np.asarray(harmless_NSD, dtype=np.float64).mean(axis=0)
    names = np.array(categories)
    return {
        str(name): np.asarray(harmful_NSD[names == name], dtype=np.float64).mean(axis=0) - harmless_SD
        for name in dict.fromkeys(categories)
        if (names == name).sum() >= min_rows
    }


def cosine_matrix(directions: Iterable[AnyFloats]) -> Doubles:
    """Cosines of all pairs of directions (S, D), mean over sites, (C, C)."""
    listed = list(directions)
    return np.array([[cosines(a, b).mean() for b in listed] for a in listed])


@dataclass(frozen=True, slots=True)
class Candidate:
    """A direction and what it does to a validation set.

    Attributes:
        position: token it is read at, counted from the end of the prompt (-1 for the last).
        layer: whose input it is read at and added to.
        direction_D: difference of the means, float64.
        ablated: mean refusal score of harmful prompts with the direction ablated; the lower the better.
        added: mean refusal score of harmless prompts with it added at its layer.
        kl: mean KL(base || ablated) of the next token of harmless prompts, in nats.
    """

    position: int
    layer: int
    direction_D: Doubles
    ablated: float
    added: float
    kl: float


@dataclass(frozen=True, slots=True)
class RefusalData:
    """Prompts that candidates are read of and tried on; harmful ones that the model refuses, harmless that it does not.

    Attributes:
        harmful: for the means.
        harmless: for the means.
        harmful_validation: ablation is tried on them.
        harmless_validation: addition is tried on them.
    """

    harmful: tuple[Conversation, ...]
    harmless: tuple[Conversation, ...]
    harmful_validation: tuple[Conversation, ...]
    harmless_validation: tuple[Conversation, ...]


def select_refusal_direction(
    reader: LatentReader,
    data: RefusalData,
    *,
    layers: Sequence[int] | None = None,
    max_kl: float = MAX_KL,
    min_added: float = 0.0,
    coefficient: float = 1.0,
) -> tuple[Candidate, list[Candidate]]:
    """The direction whose ablation lowers refusal most, and all candidates.

    Candidates are differences of means at every token after the instruction and every layer. One is eligible when
    adding it makes harmless prompts refused, ablating it leaves harmless prompts as they are, and it is not in the top
    20 % of layers.

    Args:
        reader: of the model.
        data: prompts.
        layers: to look at; all but the top fifth when ``None``.
        max_kl: largest change of harmless prompts.
        min_added: least refusal score after addition.
        coefficient: of the direction when it is added.

    Raises:
        DataError: fewer than 8 prompts of a kind, or no candidate that is eligible.
        ConfigError: a layer among the top fifth.
    """
    count = len(reader.sites) - 1
    allowed = range(int(count * (1 - TOP_LAYERS_LEFT_OUT)))
    chosen = list(allowed) if layers is None else list(layers)
    if beyond := [layer for layer in chosen if layer not in allowed]:
        raise ConfigError(f"`{beyond[0]}` is not below the top fifth of {count} layers", where="layers")
    means = _mean_differences(reader, data.harmful, data.harmless)
    trial = _Trial(reader, data, coefficient)
    found = [
        trial.candidate(position - len(means), layer, means[position, layer])
        for position in range(len(means))
        for layer in chosen
        if np.linalg.norm(means[position, layer]) > _NO_DIRECTION  # embeddings of the template are the same for all
    ]
    eligible = [each for each in found if each.added >= min_added and each.kl <= max_kl]
    if not eligible:
        raise DataError(
            f"none of {len(found)} directions induces refusal of harmless prompts and leaves them unchanged if ablated",
            hint="The model may not refuse along one direction, or hardly refuse at all.",
        )
    return min(eligible, key=lambda each: each.ablated), found


class _Trial:
    """What candidates do to the validation prompts."""

    def __init__(self, reader: LatentReader, data: RefusalData, coefficient: float) -> None:
        self._reader = reader
        self._coefficient = coefficient
        self._harmful = [reader.locate(c).ids for c in data.harmful_validation]
        self._harmless = [reader.locate(c).ids for c in data.harmless_validation]
        self._base_NV = next_token_logits(reader.engine, self._harmless)

    def candidate(self, position: int, layer: int, direction_D: Doubles) -> Candidate:
        import torch

        engine, ids = self._reader.engine, self._reader.refusal_ids
        vector = torch.tensor(direction_D)
        decoder: Any = engine.model.base_model

        def ablate(_batch: Sequence[int], _tokens: int) -> AbstractContextManager[None]:
            return ablated(decoder, vector)

        def add(_batch: Sequence[int], _tokens: int) -> AbstractContextManager[None]:
            return steered(decoder, vector, layer=layer, coefficient=self._coefficient)

        without_NV = next_token_logits(engine, self._harmless, intervention=ablate)
        return Candidate(
            position,
            layer,
            direction_D,
            ablated=float(refusal_scores(engine, self._harmful, ids, intervention=ablate).mean()),
            added=float(refusal_scores(engine, self._harmless, ids, intervention=add).mean()),
            kl=mean_kl(self._base_NV, without_NV),
        )


def mean_kl(base_NV: Tensor, changed_NV: Tensor) -> float:
    """Mean KL(base || changed) of next-token distributions given by logits, in nats."""
    base, changed = base_NV.double().log_softmax(dim=-1), changed_NV.double().log_softmax(dim=-1)
    return float((base.exp() * (base - changed)).sum(dim=-1).mean())


def _mean_differences(
    reader: LatentReader, harmful: Sequence[Conversation], harmless: Sequence[Conversation]
) -> Doubles:
    """Mean of harmful minus mean of harmless at the tokens after the instruction, (P, S, D)."""
    for name, prompts in (("harmful", harmful), ("harmless", harmless)):
        if len(prompts) < MIN_ROWS:
            raise DataError(f"{len(prompts)} prompts are {name}, a direction needs {MIN_ROWS}")
    difference: Doubles = _suffix_means(reader, harmful) - _suffix_means(reader, harmless)
    return difference


def _suffix_means(reader: LatentReader, conversations: Sequence[Conversation]) -> Doubles:
    prompts = [reader.locate(conversation) for conversation in conversations]
    suffix = min(prompt.t_post - prompt.t_inst for prompt in prompts)
    moments = RunningMoments()
    for batch in token_budget_batches([len(prompt.ids) for prompt in prompts], reader.batch_tokens):
        some = [prompts[i] for i in batch]
        ends = [list(range(len(p.ids) - suffix, len(p.ids))) for p in some]
        states, _ = reader.states([p.ids for p in some], ends)
        moments.add(np.stack(states))
    return moments.mean
