"""The torch engine: a transformers model in this process, on CPU or GPU.

Batches hold sequences of similar length under a budget of padded tokens. Position ids are given for every token, so
padding on either side gives the same numbers; only the logits that are needed are computed (the last position while
generating, the completion's positions while scoring), and only the layers that are needed for activations.

Legend: B sequences, T tokens, N scored tokens of a batch, V vocabulary, D hidden size, L layers, P positions.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from corral.core.errors import ConfigError, CorralError, DataError, EngineError
from corral.models.activations import Positions, hidden_states, select_positions
from corral.models.batching import (
    PaddedBatch,
    PaddingSide,
    pad,
    restore_order,
    sequence_span,
    token_budget_batches,
    unpad,
)
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import CompletionLogprobs, Generation, GenerationSettings, Prompt
from corral.models.engines.decoding import CachedModel, Row, decode
from corral.models.engines.sampling import require_finite, row_random
from corral.models.engines.text_stream import TextStream

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from corral.models.loading import ModelRef
    from corral.models.packed.scorer import LabelScorer

MAX_BATCH_TOKENS: Final = 8192
_LOGIT_ROWS: Final = 256  # 50 MB of float32 logits at a vocabulary of 49152
# Heads that do more than one matrix product would be computed wrongly from hidden states.
_UNKNOWN_HEADS: Final = ("final_logit_softcapping", "logit_scale", "logits_scaling")

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class TorchEngine:
    """Generates, scores and looks inside one causal language model.

    Args:
        model: in evaluation mode.
        chat: its tokenizer.
        name: the model, as a user would name it.
        max_batch_tokens: padded tokens of one forward pass, to be generated ones included.
        padding_side: of batches that are scored or looked into; generation pads on the left.
        threads: torch threads of this process; ``None`` leaves them alone.

    Raises:
        ConfigError: ``max_batch_tokens`` or ``threads`` below 1, or a model whose head is not one matrix product.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        chat: ChatTokenizer,
        *,
        name: str = "",
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        padding_side: PaddingSide = "right",
        threads: int | None = None,
    ) -> None:
        for setting, value in (("max_batch_tokens", max_batch_tokens), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"`{value}` is below 1", where=setting)
        for field in _UNKNOWN_HEADS:
            if getattr(model.config, field, None) not in (None, 1.0):
                raise ConfigError(f"models with `{field}` are not supported", where=name or type(model).__name__)
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        self.model = model
        self.chat = chat
        self.max_batch_tokens = max_batch_tokens
        self.padding_side: PaddingSide = padding_side
        self.context_length = int(model.config.max_position_embeddings)
        self._name = name or type(model).__name__
        self._end_ids = _end_ids(model, chat)
        self._scorer_lock = threading.Lock()
        self._label_scorer: LabelScorer | None = None
        self._scored_state: Hashable = None

    @classmethod
    def load(
        cls,
        ref: str | Path | ModelRef,
        *,
        dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> TorchEngine:
        """Load model and tokenizer; ``options`` are those of the class.

        Raises:
            NotFoundError: nothing at ``ref``, or nothing that can be read.
            MissingDependencyError: an embedded model's package is not installed.
        """
        from corral.models.loading import load_causal_lm, load_tokenizer

        chat = ChatTokenizer(load_tokenizer(ref))
        return cls(load_causal_lm(ref, dtype=dtype, device=device), chat, name=str(ref), **options)

    @property
    def name(self) -> str:
        """The model, as a user would name it."""
        return self._name

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        """Complete each prompt; same length and order as given.

        Raises:
            DataError: a prompt that cannot be rendered or leaves no room in the context; names its index.
            EngineError: out of memory, or logits that are not finite.
        """
        sequences = [self._encode_prompt(prompt, f"prompts[{i}]") for i, prompt in enumerate(prompts)]

        def run(batch: list[tuple[int, list[int]]]) -> list[Generation]:
            rows = [self._row(ids, settings, index) for index, ids in batch]
            for _ in self._decode(rows, settings):
                pass
            return [row.generation() for row in rows]

        room = min(settings.max_new_tokens, self.context_length)
        return self._batched(list(enumerate(sequences)), lambda item: len(item[1]) + room, run)

    def stream(self, prompt: Prompt, settings: GenerationSettings) -> Generator[str, None, Generation]:
        """The text of ``generate`` for one prompt, in pieces of whole characters as they are sampled.

        Returns:
            When all pieces were taken, what ``generate`` gives.

        Raises:
            DataError: a prompt that cannot be rendered or leaves no room in the context.
            EngineError: out of memory, or logits that are not finite.
        """
        row = self._row(self._encode_prompt(prompt, "prompt"), settings, 0)
        with _engine_errors():
            yield from filter(None, self._decode([row], settings))
        return row.generation()

    def logprobs(self, pairs: Sequence[tuple[Prompt, str]]) -> list[CompletionLogprobs]:
        """Score each completion after its prompt; same length and order as given.

        Raises:
            DataError: a pair that cannot be rendered or does not fit the context; names its index.
            EngineError: out of memory, or logits that are not finite.
        """
        encoded = []
        for i, (prompt, completion) in enumerate(pairs):
            with _located(f"pairs[{i}]"):
                encoded.append(self.chat.encode_completion(prompt, completion))
        return self.token_logprobs(encoded)

    def label_logprobs(
        self, prompts: Sequence[Prompt], labels: Sequence[str], *, answer_prefixes: Sequence[str] | None = None
    ) -> list[tuple[float, ...]]:
        """Log-probability of each label, in nats, at one place of the answer to each prompt (see ``engines/labels``).

        On CPU, what the prompts of a plain Llama begin with is computed once and kept (``models/packed``). Labels and
        answer prefixes are tokenised apart from each other, as text that follows a prompt.

        Raises:
            DataError: a prompt that cannot be rendered or does not fit the context, or a label without tokens.
            EngineError: out of memory, or logits that are not finite.
        """
        label_ids = [self.chat.encode_text(label) for label in labels]
        if not all(label_ids):
            raise DataError("a label has no tokens", where=f"labels[{[bool(ids) for ids in label_ids].index(False)}]")
        room = max((len(ids) for ids in label_ids), default=1) - 1
        prefixes = [""] * len(prompts) if answer_prefixes is None else answer_prefixes
        sequences = []
        for i, (prompt, prefix) in enumerate(zip(prompts, prefixes, strict=True)):
            ids = self._encode_prompt(prompt, f"prompts[{i}]", room=0) + self.chat.encode_text(prefix)
            self._require_room(len(ids) + room, f"prompts[{i}]")
            sequences.append(ids)
        if (scorer := self._scorer()) is not None:
            with _engine_errors():
                return scorer.label_logprobs(sequences, label_ids)
        totals = iter(self.token_logprobs([(ids, label) for ids in sequences for label in label_ids]))
        return [tuple(next(totals).total for _ in label_ids) for _ in sequences]

    def label_tokens(self, label: str) -> tuple[int, ...]:
        """Token ids of a label as ``label_logprobs`` reads it."""
        return tuple(self.chat.encode_text(label))

    def token_logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[CompletionLogprobs]:
        """Score token ids after the ids that precede them; neither side may be empty.

        Raises:
            DataError: a pair with an empty side or beyond the context; names its index.
            EngineError: out of memory, or logits that are not finite.
        """
        for i, (context, targets) in enumerate(pairs):
            if not context or not targets:
                raise DataError("a score needs at least one token before and one to score", where=f"pairs[{i}]")
            # The last target is predicted, never read.
            self._require_room(len(context) + len(targets) - 1, f"pairs[{i}]")
        return self._batched(list(pairs), lambda pair: len(pair[0]) + len(pair[1]) - 1, self._score)

    def activations(
        self, prompts: Sequence[Prompt], layers: Sequence[int], *, positions: Positions = "last"
    ) -> list[Tensor]:
        """The residual stream at chosen layers and tokens; nothing above the highest layer is computed.

        Args:
            prompts: conversations (with the assistant's turn opened) or raw text.
            layers: 0 for the embeddings, ``i`` for the output of the ``i``-th layer, before any final norm.
            positions: ``last``, ``all``, or token indices, negative ones counted from the end of each prompt.

        Returns:
            One float32 CPU tensor (L, P, D) a prompt, layers in the order asked for.

        Raises:
            DataError: a prompt that cannot be rendered or does not fit the context; names its index.
            ConfigError: a layer or position that does not exist.
            EngineError: out of memory.
        """
        import torch

        sequences = [self._encode_prompt(prompt, f"prompts[{i}]", room=0) for i, prompt in enumerate(prompts)]

        def run(batch: list[list[int]]) -> list[Tensor]:
            lengths = [len(ids) for ids in batch]
            with torch.inference_mode():
                states = hidden_states(self.model.base_model, self._pad(batch), layers)
                by_layer = [unpad(states[layer].float().cpu(), lengths, self.padding_side) for layer in layers]
            return [
                torch.stack([select_positions(rows_TD, positions) for rows_TD in of_prompt])
                for of_prompt in zip(*by_layer, strict=True)
            ]

        return self._batched(sequences, len, run)

    def _decode(self, rows: Sequence[Row], settings: GenerationSettings) -> Iterator[str]:
        """Complete a batch; yields the new text of its first row."""
        return decode(CachedModel(self.model), rows, settings, self._end_ids)

    def _scorer(self) -> LabelScorer | None:
        """The packed scorer where it computes what the model does; a new one after weights have changed."""
        from corral.models.packed.scorer import PACK_TOKENS, LabelScorer
        from corral.models.packed.weights import is_plain_llama, model_weights, weights_state

        with self._scorer_lock:
            if not is_plain_llama(self.model):
                return None
            if self._label_scorer is None or self._scored_state != weights_state(self.model):
                self._label_scorer = LabelScorer(
                    model_weights(self.model), pack_tokens=min(PACK_TOKENS, self.max_batch_tokens)
                )
                self._scored_state = weights_state(self.model)
            return self._label_scorer

    def _score(self, pairs: list[tuple[Sequence[int], Sequence[int]]]) -> list[CompletionLogprobs]:
        import torch

        inputs = [[*context, *targets[:-1]] for context, targets in pairs]
        batch = self._pad(inputs)
        wanted_BT = torch.zeros(batch.input_ids_BT.shape, dtype=torch.bool)
        for row, (ids, (_, targets)) in enumerate(zip(inputs, pairs, strict=True)):
            span = sequence_span(len(ids), wanted_BT.shape[1], self.padding_side)
            wanted_BT[row, span.stop - len(targets) : span.stop] = True
        targets_N = torch.tensor([token for _, targets in pairs for token in targets])
        with torch.inference_mode():
            hidden_BTD = self.model.base_model(
                input_ids=batch.input_ids_BT,
                attention_mask=batch.attention_mask_BT,
                position_ids=batch.position_ids_BT,
                use_cache=False,
            ).last_hidden_state
            scores_N, greedy_N = self._score_hidden(hidden_BTD[wanted_BT.to(hidden_BTD.device)], targets_N)
        out = []
        start = 0
        for context, targets in pairs:
            stop = start + len(targets)
            greedy = all(greedy_N[start:stop])
            out.append(CompletionLogprobs(tuple(targets), tuple(scores_N[start:stop]), greedy, len(context)))
            start = stop
        return out

    def _score_hidden(self, hidden_ND: Tensor, targets_N: Tensor) -> tuple[list[float], list[bool]]:
        """Log-probability of each target, and whether it is the most likely token; few rows of logits at a time."""
        head = self.model.get_output_embeddings()
        scores: list[float] = []
        greedy: list[bool] = []
        targets_N = targets_N.to(hidden_ND.device)
        for start in range(0, len(targets_N), _LOGIT_ROWS):
            right_N = targets_N[start : start + _LOGIT_ROWS]
            logits_NV = head(hidden_ND[start : start + _LOGIT_ROWS]).float()
            require_finite(logits_NV)
            chosen_N = logits_NV.gather(1, right_N[:, None]).squeeze(1)
            scores += (chosen_N - logits_NV.logsumexp(dim=-1)).tolist()
            greedy += (logits_NV.argmax(dim=-1) == right_N).tolist()
        return scores, greedy

    def _row(self, prompt_ids: list[int], settings: GenerationSettings, index: int) -> Row:
        limit = min(settings.max_new_tokens, self.context_length - len(prompt_ids))
        text = TextStream(self.chat.backend, settings.stop)
        return Row(prompt_ids, limit, text, row_random(settings.seed, index))

    def _encode_prompt(self, prompt: Prompt, where: str, *, room: int = 1) -> list[int]:
        with _located(where):
            ids = self.chat.encode_prompt(prompt)
        self._require_room(len(ids) + room, where)
        return ids

    def _require_room(self, tokens: int, where: str) -> None:
        if tokens > self.context_length:
            raise DataError(
                f"{tokens} tokens do not fit the model's context of {self.context_length}",
                where=where,
                hint="Shorten it or read it in windows; nothing is cut silently.",
            )

    def _pad(self, sequences: Sequence[Sequence[int]]) -> PaddedBatch:
        batch = pad(sequences, side=self.padding_side)
        return PaddedBatch(*(tensor.to(self.model.device) for tensor in batch))

    def _batched(
        self, items: list[_In], length: Callable[[_In], int], run: Callable[[list[_In]], list[_Out]]
    ) -> list[_Out]:
        batches = token_budget_batches([length(item) for item in items], self.max_batch_tokens)
        with _engine_errors():
            results = [run([items[i] for i in batch]) for batch in batches]
        return restore_order(batches, results)


def _end_ids(model: PreTrainedModel, chat: ChatTokenizer) -> frozenset[int]:
    """Tokens that end a turn: some models list more of them than their tokenizer knows."""
    configured = getattr(model.generation_config, "eos_token_id", None)
    ids = [*(configured if isinstance(configured, list) else [configured]), chat.tokenizer.eos_token_id]
    return frozenset(int(index) for index in ids if index is not None)


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Say which item an error is about."""
    try:
        yield
    except CorralError as error:
        error.where = f"{where}.{error.where}" if error.where else where
        raise


@contextmanager
def _engine_errors() -> Iterator[None]:
    """Out of memory, on any device, as an EngineError."""
    import torch

    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        # The CPU allocator raises a bare RuntimeError.
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "not enough memory" in str(error):
            raise EngineError("out of memory", hint="Lower max_batch_tokens or shorten the input.") from error
        raise
