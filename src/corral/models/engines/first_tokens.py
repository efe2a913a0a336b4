"""Engines whose answers are begun by one model and finished by another: MoGU's switch, and SafeDecoding.

The first few tokens decide whether an aligned model refuses. Another model writes them (``NextTokens``); then the
plain base model reads prompt and beginning anew. The cache of the beginning is never reused: it holds keys and values
of another model, and mixing the two gives text that looks right and is not.

Deviation: the released code of MoGU reads the whole prefix again for each of its tokens; here a cache of its own serves
those tokens, which gives the same logits.

Legend: B sequences, T tokens, V vocabulary.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from corral.core.errors import ConfigError, EngineError
from corral.models.batching import pad
from corral.models.engines.base import CompletionLogprobs, GenerationSettings
from corral.models.engines.decoding import CachedModel, NextTokens, Row, decode
from corral.models.engines.sampling import require_finite
from corral.models.engines.torch import TorchEngine

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from corral.models.chat import ChatTokenizer
    from corral.models.packed.scorer import LabelScorer
    from corral.models.routing.gated import GateControl, GateMode


class _Scored(NamedTuple):
    """Tokens of one completion: their log-probabilities, and whether each is the most likely one."""

    logprobs: tuple[float, ...]
    greedy: bool


class FirstTokensEngine(TorchEngine):
    """Another model writes the first tokens of every answer, the base model all the rest.

    Scores are those of text written so: the first tokens of a completion under the model that begins answers, the
    others under the base.

    Args:
        model: the base model.
        chat: its tokenizer.
        first_tokens: how many are written by the other.
        options: as for ``TorchEngine``.

    Raises:
        ConfigError: ``first_tokens`` below 1.
    """

    def __init__(self, model: PreTrainedModel, chat: ChatTokenizer, *, first_tokens: int, **options: Any) -> None:
        if first_tokens < 1:
            raise ConfigError(f"`{first_tokens}` is below 1", where="first_tokens")
        super().__init__(model, chat, **options)
        self.first_tokens = first_tokens

    @abstractmethod
    def _beginning(self) -> NextTokens:
        """What writes the first tokens, with an empty cache."""

    def _measured(self, beginning: NextTokens) -> Sequence[Mapping[str, float]]:
        """What was measured of each row by what began it; nothing, unless a subclass measures."""
        del beginning
        return ()

    def _rest(self) -> NextTokens:
        """The base model with an empty cache."""
        return CachedModel(self.model)

    def _as_base(self) -> AbstractContextManager[None]:
        """In the block, ``model`` computes what the base does."""
        return nullcontext()

    def _decode(self, rows: Sequence[Row], settings: GenerationSettings) -> Iterator[str]:
        beginning = self._beginning()
        yield from decode(beginning, rows, settings, self._end_ids, steps=self.first_tokens)
        for row, measures in zip(rows, self._measured(beginning), strict=False):
            row.measures = measures
        unfinished = [row for row in rows if row.finish_reason is None]
        if unfinished:
            yield from decode(self._rest(), unfinished, settings, self._end_ids)

    def _scorer(self) -> LabelScorer | None:
        """None: labels begin an answer, and packed scoring knows nothing of what begins one."""
        return None

    def _score(self, pairs: list[tuple[Sequence[int], Sequence[int]]]) -> list[CompletionLogprobs]:
        n = self.first_tokens
        beginnings = self._score_beginnings(pairs)
        longer = [i for i, (_, targets) in enumerate(pairs) if len(targets) > n]
        with self._as_base():
            later = (
                super()._score([([*pairs[i][0], *pairs[i][1][:n]], pairs[i][1][n:]) for i in longer]) if longer else []
            )
        rests = dict(zip(longer, later, strict=True))
        out = []
        for i, (context, targets) in enumerate(pairs):
            logprobs, greedy = beginnings[i]
            if i in rests:
                logprobs, greedy = (*logprobs, *rests[i].logprobs), greedy and rests[i].greedy
            out.append(CompletionLogprobs(tuple(targets), logprobs, greedy, len(context)))
        return out

    def _score_beginnings(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[_Scored]:
        """The first targets of each pair, one step at a time, each given rather than sampled."""
        import torch

        source = self._beginning()
        batch = pad([context for context, _ in pairs], side="left")
        input_ids_BT, mask_BT, positions_BT = (tensor.to(source.device) for tensor in batch)
        logprobs: list[list[float]] = [[] for _ in pairs]
        greedy = [True] * len(pairs)
        for step in range(min(self.first_tokens, max(len(targets) for _, targets in pairs))):
            # A completion that is over goes on with its last token, which nothing is read from.
            given = [targets[min(step, len(targets) - 1)] for _, targets in pairs]
            with torch.inference_mode():
                logits_BV = source.logits(input_ids_BT, mask_BT, positions_BT).float()
                require_finite(logits_BV)
                likely = logits_BV.argmax(dim=-1).tolist()
                input_ids_BT = torch.tensor(given, device=source.device)[:, None]
                scores = logits_BV.log_softmax(dim=-1).gather(1, input_ids_BT).squeeze(1).tolist()
            for i, (_, targets) in enumerate(pairs):
                if step < len(targets):
                    logprobs[i].append(scores[i])
                    greedy[i] = greedy[i] and likely[i] == given[i]
            positions_BT = positions_BT[:, -1:] + 1
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(pairs), 1)], dim=1)
        return [_Scored(tuple(values), flag) for values, flag in zip(logprobs, greedy, strict=True)]


class FirstTokensSwitch(FirstTokensEngine):
    """MoGU's decoding (arXiv 2405.14488, section 3.4): the gated model begins an answer, the base goes on.

    Activations are those of the gated model. An answer's ``measures`` are the mean gates while it was begun.

    Args:
        model: with gates, as ``models/loading`` gives a directory of routing parts.
        chat: its tokenizer.
        first_tokens: written by the gated model.
        mode: of the gates while it writes: the routers', or one expert alone.
        options: as for ``TorchEngine``.

    Raises:
        ConfigError: the model has no gates, or ``first_tokens`` is below 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: ChatTokenizer,
        *,
        first_tokens: int,
        mode: GateMode = "routed",
        **options: Any,
    ) -> None:
        from corral.models.routing.installing import routing_of

        super().__init__(model, chat, first_tokens=first_tokens, **options)
        routing = routing_of(model)
        if routing is None:
            raise ConfigError("the model has no gates", where=self.name)
        self._control = routing.control
        self._mode: GateMode = mode

    def _beginning(self) -> NextTokens:
        return _InMode(CachedModel(self.model), self._control, self._mode)

    def _measured(self, beginning: NextTokens) -> Sequence[Mapping[str, float]]:
        return beginning.means.measures() if isinstance(beginning, _InMode) else ()

    def _rest(self) -> NextTokens:
        return _InMode(CachedModel(self.model), self._control, "base")

    def _as_base(self) -> AbstractContextManager[None]:
        return self._control.using("base")


class SafeDecodingEngine(FirstTokensEngine):
    """SafeDecoding (arXiv 2402.08983): the first tokens from where base and a refusing expert agree, pushed to refuse.

    Args:
        model: the base model.
        expert: the same model fine-tuned on its refusals; the same tokenizer.
        chat: the tokenizer.
        first_tokens: drawn from the contrast (m).
        alpha: how far it is pushed.
        shared: size of the set of candidates (c).
        options: as for ``TorchEngine``.

    Raises:
        ConfigError: vocabularies of other sizes, or a setting out of range.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        expert: PreTrainedModel,
        chat: ChatTokenizer,
        *,
        first_tokens: int = 2,
        alpha: float = 3.0,
        shared: int = 5,
        **options: Any,
    ) -> None:
        super().__init__(model, chat, first_tokens=first_tokens, **options)
        if expert.config.vocab_size != model.config.vocab_size:
            raise ConfigError("base and expert have other vocabularies", where=self.name)
        if not 1 <= shared <= model.config.vocab_size or alpha < 0:
            raise ConfigError(f"shared is `{shared}`, alpha `{alpha}`", where=self.name)
        self._expert = expert
        self._alpha = alpha
        self._shared = shared

    def _beginning(self) -> NextTokens:
        return _Contrast(CachedModel(self.model), CachedModel(self._expert), self._alpha, self._shared)


def contrast_logits(base_BV: Tensor, expert_BV: Tensor, *, alpha: float, shared: int, floor: float = 1e-8) -> Tensor:
    """SafeDecoding's distribution of the next token, as log-probabilities.

    k grows until the k most likely tokens of base and expert have ``shared`` in common; on those
    P' = P_base + alpha (P_expert - P_base), at least ``floor``, renormalised; nothing else can be drawn.

    Args:
        base_BV: logits of the base.
        expert_BV: logits of the expert.
        alpha: how far to go.
        shared: candidates.
        floor: least value before renormalising.

    Returns:
        (B, V), in double precision; -10,000 for what cannot be drawn.
    """
    import torch

    # A token is among the k likeliest of both exactly when the larger of its two ranks is below k.
    rank_BV = torch.maximum(_ranks(base_BV), _ranks(expert_BV))
    last_B1 = rank_BV.sort(dim=-1).values[:, shared - 1 : shared]
    chosen_BV = rank_BV <= last_B1
    base_BV, expert_BV = base_BV.double().softmax(dim=-1), expert_BV.double().softmax(dim=-1)
    pushed_BV = (base_BV + alpha * (expert_BV - base_BV)).clamp(min=floor) * chosen_BV
    # The logarithm of 0 would not be finite, which an engine takes for damage.
    return (pushed_BV / pushed_BV.sum(dim=-1, keepdim=True)).log().clamp(min=-1e4)


def _ranks(logits_BV: Tensor) -> Tensor:
    """Place of every token in the order of likelihood, the first 0; ties by id."""
    import torch

    order_BV = logits_BV.argsort(dim=-1, descending=True, stable=True)
    places_BV = torch.arange(logits_BV.shape[-1], device=logits_BV.device).expand_as(order_BV)
    return torch.empty_like(order_BV).scatter_(1, order_BV, places_BV)


class _InMode:
    """A gated model in one mode; routers that are asked are measured."""

    def __init__(self, source: NextTokens, control: GateControl, mode: GateMode) -> None:
        from corral.models.routing.means import GateMeans

        self._source = source
        self._control = control
        self._mode: GateMode = mode
        self.means = GateMeans()

    @property
    def device(self) -> torch.device:
        return self._source.device

    def logits(self, input_ids_BT: Tensor, mask_BT: Tensor, positions_BT: Tensor) -> Tensor:
        # Set for the forward pass alone: a stream pauses between its pieces, and others use the model meanwhile.
        with self._control.using(self._mode), self._control.recorded() as gates:
            logits_BV = self._source.logits(input_ids_BT, mask_BT, positions_BT)
        if gates:
            self.means.add(gates, mask_BT[:, -input_ids_BT.shape[1] :])
        return logits_BV

    def keep(self, rows: Tensor) -> None:
        self._source.keep(rows)
        self.means.keep(rows.tolist())


class _Contrast:
    """Base and expert side by side, each with its own cache."""

    def __init__(self, base: NextTokens, expert: NextTokens, alpha: float, shared: int) -> None:
        self._base = base
        self._expert = expert
        self._alpha = alpha
        self._shared = shared

    @property
    def device(self) -> torch.device:
        return self._base.device

    def logits(self, input_ids_BT: Tensor, mask_BT: Tensor, positions_BT: Tensor) -> Tensor:
        both = [each.logits(input_ids_BT, mask_BT, positions_BT) for each in (self._base, self._expert)]
        if not all(bool(each.isfinite().all()) for each in both):
            raise EngineError("the model's logits are not finite")
        return contrast_logits(*both, alpha=self._alpha, shared=self._shared)

    def keep(self, rows: Tensor) -> None:
        self._base.keep(rows)
        self._expert.keep(rows)
