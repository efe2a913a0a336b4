"""The default guard's network: the lower layers of a Llama-family decoder (or an encoder), attention pooling, heads.

The decoder is causal, so one forward pass over a conversation judges every message in it: each head pools the tokens
of the message that it judges (its *span*) and sees nothing after them. A head has a learned query that weighs the
tokens of the span; the pooled vector and the span's last token go through one linear layer.

Own design; the multi-label head and its decision rule follow DuoGuard (arXiv 2502.05163).

Legend: B batch, T tokens, D hidden size, H heads.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from corral.data.taxonomy import load_taxonomy

BINARY_HEADS: Final = ("prompt_harm", "prompt_attack", "response_harm", "response_refusal")
CATEGORY_HEAD: Final = "categories"
"""Name of the head of all categories, beside ``BINARY_HEADS``."""
HEADS: Final = (*BINARY_HEADS, CATEGORY_HEAD)
CATEGORY_TAXONOMY: Final = "llama_guard_3"


def category_codes() -> tuple[str, ...]:
    """Qualified codes of the category head, in the order of its outputs."""
    taxonomy = load_taxonomy(CATEGORY_TAXONOMY)
    return tuple(f"{taxonomy.id}/{category.code}" for category in taxonomy.categories)


class HeadLogits(NamedTuple):
    """Raw scores: ``binary`` (B, 4) in the order of ``BINARY_HEADS``, ``categories`` (B, number of categories)."""

    binary: Tensor
    categories: Tensor


class GuardHeads(nn.Module):
    """Pooling and heads over the hidden states of a decoder.

    Args:
        hidden_size: D.
        categories: outputs of the category head.
    """

    def __init__(self, hidden_size: int, categories: int) -> None:
        super().__init__()
        heads = len(BINARY_HEADS) + 1
        self.norm = nn.RMSNorm(hidden_size, eps=1e-5)
        self.query = nn.Parameter(torch.zeros(heads, hidden_size))
        self.binary = nn.Parameter(torch.zeros(len(BINARY_HEADS), 2 * hidden_size))
        self.binary_bias = nn.Parameter(torch.zeros(len(BINARY_HEADS)))
        self.categories = nn.Linear(2 * hidden_size, categories)
        nn.init.normal_(self.query, std=hidden_size**-0.5)
        nn.init.normal_(self.binary, std=0.02)
        nn.init.normal_(self.categories.weight, std=0.02)
        nn.init.zeros_(self.categories.bias)

    def forward(self, hidden_BTD: Tensor, span_BT: Tensor) -> HeadLogits:
        """Scores of the message that ``span_BT`` marks.

        Args:
            hidden_BTD: hidden states, any floating dtype; pooled in float32.
            span_BT: true on the tokens of the judged message; every row has at least one.
        """
        with torch.autocast(device_type=hidden_BTD.device.type, enabled=False):
            return self._scores(hidden_BTD.float(), span_BT)

    def _scores(self, hidden_BTD: Tensor, span_BT: Tensor) -> HeadLogits:
        states_BTD = self.norm(hidden_BTD)
        weights_BTH = (states_BTD @ self.query.T).masked_fill(~span_BT[..., None], -torch.inf).softmax(dim=1)
        pooled_BHD = weights_BTH.transpose(1, 2) @ states_BTD
        last_B = span_BT.long().cumsum(dim=1).argmax(dim=1)
        last_BHD = states_BTD[torch.arange(len(last_B)), last_B][:, None].expand_as(pooled_BHD)
        features_BHF = torch.cat([pooled_BHD, last_BHD], dim=-1)
        binary_BH = torch.einsum("bhf,hf->bh", features_BHF[:, :-1], self.binary) + self.binary_bias
        return HeadLogits(binary_BH, self.categories(features_BHF[:, -1]))


class GuardNetwork(nn.Module):
    """A decoder without its language-model head, and ``GuardHeads`` on top.

    Args:
        backbone: a Llama-family decoder (lower layers, no final norm), or a BERT encoder.
        heads: pooling and heads.
    """

    def __init__(self, backbone: nn.Module, heads: GuardHeads) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = heads

    def forward(self, input_ids: Tensor, attention_mask: Tensor, span: Tensor) -> HeadLogits:
        """Scores of one message a row; see ``GuardHeads.forward`` for ``span`` (B, T)."""
        logits: HeadLogits = self.heads(self.hidden(input_ids, attention_mask), span)
        return logits

    def hidden(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (B, T, D) after the last kept layer."""
        out = self.backbone(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
        states: Tensor = out.last_hidden_state
        return states
