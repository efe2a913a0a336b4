"""The refusal token, and the loss that asks for it at every place of a harmful answer.

Source: DeRTa (arXiv 2407.09121), reinforced transition optimisation: with q the request, h the harmful answer and R one
fixed refusal token ("Sorry"), the loss is ``- sum_{t=1..|h|} log P(R | q, h_<t)``. R is never fed back: the model reads
the true answer. Training reaches the same sum through label arrays (``train/derta/rows``) and TRL's cross-entropy.
``refusal_log_probs`` and ``transition_loss`` are the definition, which tests hold that path to; only they call them.

Legend: B batch, T tokens, V vocabulary, W refusal tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from corral.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from corral.models.chat import ChatTokenizer

Variant = Literal["bare", "spaced"]
"""How the word stands: as an answer's first word, or after a space, as most words in an answer do."""


@dataclass(frozen=True, slots=True)
class RefusalToken:
    """The token that a model is to turn to.

    Attributes:
        id: in the vocabulary.
        text: what it is decoded to.
        word: the word that it is from, or begins.
        whole: the word is this one token; otherwise the token is its first piece, which other words may share.
    """

    id: int
    text: str
    word: str
    whole: bool

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, for a run's record."""
        return asdict(self)


def resolve_refusal_token(chat: ChatTokenizer, word: str = "Sorry", variant: Variant = "bare") -> RefusalToken:
    """The token that stands for a refusal in a model's own vocabulary.

    Args:
        chat: tokenises answers as training and serving do.
        word: the refusal word.
        variant: ``bare`` as the first piece of an answer, ``spaced`` as a word inside one.

    Raises:
        ConfigError: the word has no tokens.
    """
    ids = chat.encode_text(f" {word}" if variant == "spaced" else word) if word.strip() else []
    if not ids:
        raise ConfigError(f"the refusal word `{word}` has no tokens", where="refusal.word")
    return RefusalToken(ids[0], chat.backend.decode(ids[:1], skip_special_tokens=False), word, whole=len(ids) == 1)


def refusal_log_probs(logits_BTV: Tensor, refusal_ids: Sequence[int]) -> Tensor:
    """Log-probability of refusal as the next token at every place; the mean over several refusal tokens.

    The definition, for tests.

    Args:
        logits_BTV: at position t, of the token at t + 1.
        refusal_ids: W token ids, at least one.

    Returns:
        Tensor (B, T), natural logarithms, in float32 at least.
    """
    logits = logits_BTV if logits_BTV.dtype.itemsize >= 4 else logits_BTV.float()
    return logits.log_softmax(dim=-1)[..., list(refusal_ids)].mean(dim=-1)


def transition_loss(logits_BTV: Tensor, answer_BT: Tensor, refusal_id: int) -> Tensor:
    """Sum of ``-log P(R | everything before)`` over the places of harmful answers; divide by their global count.

    The definition, for tests.

    Args:
        logits_BTV: of the whole rows, prompt included.
        answer_BT: true at the places of the harmful answer that are targets; never at the first token of a row.
        refusal_id: R.

    Returns:
        A scalar.
    """
    log_probs_BT = refusal_log_probs(logits_BTV[:, :-1], [refusal_id])
    return -log_probs_BT.masked_fill(~answer_BT[:, 1:], 0.0).sum()
