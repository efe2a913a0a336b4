"""How well a model predicts running text: perplexity and bits per byte.

Every token is scored exactly once. The first follows the beginning-of-sequence token (or end-of-sequence, for models
without one); each later window reads at least the token before its own, and ``overlap`` more. Without overlap these are
the windows of EleutherAI's lm-evaluation-harness. Bits per byte compare models with different vocabularies; perplexity
does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from corral.core.errors import ConfigError, DataError
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import CompletionLogprobs


@runtime_checkable
class TokenEngine(Protocol):
    """An engine that scores token ids and says how many it reads at once, as ``TorchEngine`` does."""

    chat: ChatTokenizer
    context_length: int

    @property
    def name(self) -> str:
        """The model, as a user would name it."""

    def token_logprobs(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[CompletionLogprobs]:
        """Score token ids after the ids that precede them; neither side may be empty."""


@dataclass(frozen=True, slots=True)
class TextLikelihood:
    """Log-likelihood of one text.

    Attributes:
        nats: natural logarithm of its probability.
        tokens: how many were scored.
        bytes: of its UTF-8.
    """

    nats: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-likelihood of a token."""
        return math.exp(-self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """Negative log-likelihood in bits over bytes of text."""
        return -self.nats / math.log(2) / self.bytes

    def __add__(self, other: TextLikelihood) -> TextLikelihood:
        return TextLikelihood(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)


def text_likelihoods(
    engine: TokenEngine, texts: Sequence[str], *, window: int | None = None, overlap: int = 0
) -> list[TextLikelihood]:
    """Score whole texts; their sum (``+``) is the corpus.

    Args:
        engine: the model.
        texts: none empty.
        window: tokens read at once; ``None`` for the model's whole context.
        overlap: tokens of context that a window after the first reads again.

    Raises:
        DataError: an empty text; names its index.
        ConfigError: the window does not fit the context or the overlap does not fit the window, or the tokenizer has
            neither a beginning- nor an end-of-sequence token.
        EngineError: the model could not answer.
    """
    prefix = start_token(engine)
    window = engine.context_length if window is None else window
    if not 0 <= overlap < window <= engine.context_length:
        raise ConfigError(
            f"window `{window}` and overlap `{overlap}` need 0 <= overlap < window <= {engine.context_length}"
        )
    pairs, owners = [], []
    for index, text in enumerate(texts):
        ids = engine.chat.encode_text(text)
        if not ids:
            raise DataError("the text is empty", where=f"texts[{index}]")
        for pair in rolling_windows(ids, prefix, window=window, overlap=overlap):
            pairs.append(pair)
            owners.append(index)
    nats = [0.0] * len(texts)
    tokens = [0] * len(texts)
    for index, scored in zip(owners, engine.token_logprobs(pairs), strict=True):
        nats[index] += scored.total
        tokens[index] += len(scored.logprobs)
    return [TextLikelihood(nats[i], tokens[i], len(text.encode())) for i, text in enumerate(texts)]


def start_token(engine: TokenEngine) -> int:
    """What a text follows: the beginning-of-sequence token, or end-of-sequence for models without one.

    Raises:
        ConfigError: the tokenizer has neither.
    """
    tokenizer = engine.chat.tokenizer
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise ConfigError("the tokenizer has no token to start a text with", where=engine.name)
    return int(token)


def rolling_windows(
    ids: Sequence[int], prefix: int, *, window: int, overlap: int = 0
) -> Iterator[tuple[list[int], list[int]]]:
    """Cut token ids into (context, targets) so that each id is a target once and a window reads ``window`` tokens.

    Args:
        ids: the text.
        prefix: token before the first.
        window: tokens that a forward pass reads: context and all targets but the last.
        overlap: tokens of context beyond the one that the first target needs.
    """
    sequence = [prefix, *ids]
    position = 1
    while position < len(sequence):
        stop = min(len(sequence), position + (window if position == 1 else window - overlap))
        yield sequence[max(0, position - 1 - overlap) : position], sequence[position:stop]
        position = stop
