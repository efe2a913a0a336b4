"""A filter of prompts that read like noise: their perplexity under a language model, above a threshold.

Source: Alon and Kamfonas, arXiv 2308.14132; Jain et al., arXiv 2309.00614, section 4.1. Suffixes that an optimiser
found are improbable text; requests in plain words are not, so this filter says nothing of what they ask for. A
published threshold (175.57, for one model of 7B) means nothing to another model: calibrate it on ordinary prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import numpy as np
from pydantic import Field

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target
from corral.guards.classifier import TOKENS_PER_BATCH, ClassifierGuard, FloatArray, Scores, Span
from corral.guards.limits import MAX_CHARS
from corral.guards.windows import JudgedWindows, check_windows, judged_windows
from corral.models.engines.torch import TorchEngine

WINDOW: Final = 512
OVERLAP: Final = 64
FALSE_ALARMS: Final = 0.01


class PerplexityFilter(ClassifierGuard):
    """Flags a prompt whose most surprising window has a perplexity above the threshold.

    It judges the last message by itself, without template and turns before it. A prompt of one token, where the
    vocabulary has no token to begin with, has no perplexity and passes.

    Args:
        engine: the language model.
        revision: of its weights.
        threshold: perplexity, above 1.
        window: tokens read at once.
        overlap: tokens that windows share.
        max_chars: a prompt of more characters is refused, never cut.
        tokens_per_batch: padded tokens in one forward pass.

    Raises:
        ConfigError: a threshold or a window that makes no sense.
    """

    def __init__(
        self,
        engine: TorchEngine,
        *,
        revision: str,
        threshold: float,
        window: int = WINDOW,
        overlap: int = OVERLAP,
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        super().__init__(max_chars=max_chars, tokens_per_batch=tokens_per_batch)
        if not 1 < threshold < math.inf:
            raise ConfigError(f"`{threshold}` is no perplexity above 1", where="threshold")
        check_windows(window, overlap)
        if window > engine.context_length:
            raise ConfigError(f"the model reads {engine.context_length} tokens", where="window")
        self.threshold = threshold
        self._engine = engine
        self._window = window
        self._overlap = overlap
        self._revision = sha256_json([engine.name, revision, threshold, window, overlap, max_chars])[:16]

    @classmethod
    def load(
        cls,
        *,
        model: str,
        threshold: float,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        window: Annotated[int, Field(ge=1)] = WINDOW,
        overlap: Annotated[int, Field(ge=0)] = OVERLAP,
    ) -> PerplexityFilter:
        """Load the language model.

        Args:
            model: its reference.
            threshold: perplexity above which a prompt is flagged; see ``calibrated_threshold``.
            dtype: of its weights.
            window: tokens read at once.
            overlap: tokens that windows share.

        Raises:
            NotFoundError: nothing at ``model``.
            ConfigError: as the class.
        """
        from corral.models.engines.loading import load_engine
        from corral.models.loading import find_dtype, weights_revision

        engine = load_engine(model, dtype=find_dtype(dtype))
        return cls(engine, revision=weights_revision(model), threshold=threshold, window=window, overlap=overlap)

    @property
    def name(self) -> str:
        """``perplexity-filter``."""
        return "perplexity-filter"

    @property
    def revision(self) -> str:
        """Hash of model, threshold and settings."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """The empty name: it scores no categories."""
        return ""

    def why_unreadable(self, conversation: Conversation, target: Target) -> str | None:
        """As every guard of text, and replies: improbable replies are no attack."""
        return super().why_unreadable(conversation, target) or (
            "this guard judges prompts, not responses" if target == "response" else None
        )

    def encode(self, conversation: Conversation, target: Target) -> JudgedWindows:
        """Windows over the prompt's text, each after the beginning-of-sequence token where there is one."""
        index = conversation.judged_index(target)
        text = "" if index is None else conversation.messages[index].text
        beginning = self._engine.chat.encode_raw("")
        return judged_windows(
            beginning,
            self._engine.chat.encode_text(text),
            size=self._window,
            overlap=self._overlap,
            min_context=len(beginning),
        )

    def forward(self, sequences: Sequence[tuple[int, ...]], spans: Sequence[Span]) -> FloatArray:
        """Mean negative log-likelihood of the judged tokens, in nats, (S, 1); the first of a sequence has none."""
        scored = [ids for ids in sequences if len(ids) > 1]
        found = iter(self._engine.token_logprobs([(ids[:1], ids[1:]) for ids in scored]))
        logprobs = [next(found).logprobs if len(ids) > 1 else () for ids in sequences]
        out = np.zeros((len(spans), 1))
        for number, span in enumerate(spans):
            judged = logprobs[span.row][max(span.start - 1, 0) : span.stop - 1]
            out[number, 0] = -sum(judged) / len(judged) if judged else 0.0
        return out

    def conclude(self, scores_K: FloatArray, target: Target) -> Scores:
        """Flagged above the threshold; the probability is a logistic of the log-perplexity's distance from it."""
        del target
        distance = float(scores_K[0]) - math.log(self.threshold)
        p_harm = 1 / (1 + math.exp(-max(min(distance, 700.0), -700.0)))
        return Scores(flagged=p_harm >= 0.5, p_harm=p_harm)


def calibrated_threshold(
    engine: TorchEngine, texts: Iterable[str], *, false_alarms: float = FALSE_ALARMS, window: int = WINDOW
) -> float:
    """The perplexity that this share of ordinary prompts lies above.

    Args:
        engine: the language model.
        texts: ordinary prompts, not those that the filter is measured on.
        false_alarms: share of them that may be flagged.
        window: as the filter's.

    Raises:
        ConfigError: no text, or a share outside [0, 1].
    """
    conversations = [Conversation.user(text) for text in texts]
    if not conversations or not 0 <= false_alarms <= 1:
        raise ConfigError(f"{len(conversations)} texts and a share of `{false_alarms}`", where="threshold")
    measuring = PerplexityFilter(engine, revision="", threshold=2.0, window=window, overlap=min(OVERLAP, window // 8))
    found = [scores[0] for scores in measuring.raw_scores(conversations, target="prompt") if scores is not None]
    if not found:
        raise ConfigError("none of the texts has a perplexity", where="threshold")
    return float(np.exp(np.quantile(found, 1 - false_alarms, method="higher"))) * (1 + 1e-9)
