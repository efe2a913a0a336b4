"""Keeping only those rows of a language-model head that an application reads.

A guard writes a handful of tokens, yet its head scores a whole vocabulary: Llama Guard 3-1B's model card reports a head
cut from 128,256 rows to 20, which is 262.6 M weights to 40.96 k. What is kept is exact: the logits of kept tokens are
those of the full head. What is lost: every other token has the lowest number as its logit, so probabilities are shares
among kept tokens. The odds of two tokens at one place stay; those of strings of several tokens do not, and the mass of
the labels no longer shows that a model would rather have written something else. So ``LlamaGuard``, whose
``save_trimmed`` writes such models, loads one only with ``min_mass=0``, and gives no mass then.

Where the head is tied to the input embeddings (SmolLM2), those stay whole and only the multiplication is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.core.errors import DataError, EngineError
from corral.core.files import atomic_directory, atomic_write_json, read_json
from corral.models.quantized.linear import refuse_quantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from corral.models.chat import ChatTokenizer

HEAD_TOKENS: Final = "head_tokens.json"
_HEAD: Final = "lm_head.weight"
_PROBES: Final = 8
# Two matrix products of the same rows may round differently.
_TOLERANCE: Final = 1e-2


class TrimmedHead(nn.Module):
    """Some rows of a head, in the place of the whole.

    Legend: K kept tokens, V vocabulary, D hidden size.

    Args:
        weight_KD: the rows of the kept tokens.
        token_ids: of the kept tokens, in the order of the rows.
        vocab_size: V.
    """

    token_ids: Tensor

    def __init__(self, weight_KD: Tensor, token_ids: Sequence[int], vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_KD, requires_grad=False)
        self.vocab_size = vocab_size
        self.register_buffer("token_ids", torch.tensor(token_ids, device=weight_KD.device), persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., D); the lowest finite number for tokens that were not kept."""
        kept = F.linear(hidden, self.weight)
        logits = kept.new_full((*kept.shape[:-1], self.vocab_size), torch.finfo(kept.dtype).min)
        return logits.index_copy_(-1, self.token_ids, kept)


def trim_head(model: PreTrainedModel, token_ids: Sequence[int]) -> PreTrainedModel:
    """Replace the head of a causal language model, in place; returns the model.

    Args:
        model: a causal language model whose head has no bias.
        token_ids: tokens to keep; duplicates count once.

    Raises:
        DataError: no tokens, one outside the vocabulary, or a head that cannot be cut.
        ConfigError: the model is quantized.
        EngineError: the kept logits are not those of the full head.
    """
    refuse_quantized(model, "trimmed")
    head: Any = model.get_output_embeddings()
    kept = sorted(set(token_ids))
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise DataError(f"the head of `{type(model).__name__}` is not a plain matrix")
    vocab_size = head.weight.shape[0]
    if not kept or kept[0] < 0 or kept[-1] >= vocab_size:
        raise DataError(f"expected tokens between 0 and {vocab_size - 1}, got {len(kept)} of {kept[:1]} to {kept[-1:]}")
    trimmed = TrimmedHead(head.weight.detach()[kept].clone(), kept, vocab_size)
    probe_ND = torch.randn(
        _PROBES, head.weight.shape[1], dtype=head.weight.dtype, generator=torch.Generator().manual_seed(0)
    ).to(head.weight.device)
    with torch.inference_mode():
        if not torch.allclose(trimmed(probe_ND)[:, kept], head(probe_ND)[:, kept], rtol=_TOLERANCE, atol=_TOLERANCE):
            raise EngineError("the trimmed head gives other logits than the full one")
    model.config.tie_word_embeddings = False
    model.set_output_embeddings(trimmed)
    return model


def save_trimmed(model: PreTrainedModel, chat: ChatTokenizer, folder: Path) -> Path:
    """Write a model with a trimmed head as a model directory that ``load_causal_lm`` reads.

    Raises:
        DataError: the head of the model is whole.
        ConfigError: the model is quantized.
        RunError: the folder exists.
    """
    from safetensors.torch import save_file

    refuse_quantized(model, "written with a trimmed head")
    head: Any = model.get_output_embeddings()
    if not isinstance(head, TrimmedHead):
        raise DataError("the head of the model is whole", hint="Call `trim_head` first.")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with atomic_directory(folder) as staged:
        model.config.save_pretrained(staged)
        save_file(state, staged / "model.safetensors", metadata={"format": "pt"})
        atomic_write_json(staged / HEAD_TOKENS, {"vocab_size": head.vocab_size, "token_ids": head.token_ids.tolist()})
        chat.tokenizer.save_pretrained(staged)
    return folder


def read_trimmed_head(folder: Path, state: dict[str, Tensor]) -> TrimmedHead:
    """The head of a model directory that ``save_trimmed`` wrote.

    Args:
        folder: holds ``head_tokens.json``.
        state: the weights of the directory.

    Raises:
        DataError: the list of tokens does not fit the weights.
    """
    listed = read_json(folder / HEAD_TOKENS)
    ids, vocab_size = listed.get("token_ids"), listed.get("vocab_size")
    weight_KD = state.get(_HEAD)
    if (
        weight_KD is None
        or not isinstance(ids, list)
        or not isinstance(vocab_size, int)
        or len(ids) != weight_KD.shape[0]
        or not all(isinstance(i, int) and 0 <= i < vocab_size for i in ids)
    ):
        raise DataError("the kept tokens do not fit the weights of the head", where=str(folder / HEAD_TOKENS))
    return TrimmedHead(weight_KD, ids, vocab_size)
