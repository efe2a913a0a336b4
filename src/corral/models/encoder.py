"""A BERT encoder for inference, in plain torch.

transformers' ``BertModel`` costs seconds to import; this one imports torch alone. It has no pooler and no training
features; parameter names are those of ``BertModel``, so a state dict or a merged LoRA adapter of one fits the other,
and a test holds their outputs equal.

Source: BERT (arXiv 1810.04805): learned positions, normalization after each addition, exact GELU.

Legend: B sequences, T tokens, D hidden size, H heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from corral.core.errors import DataError
from corral.core.files import read_json
from corral.models.llama import DecoderOutput


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """What of ``config.json`` an encoder is made of; names as there."""

    hidden_size: int
    intermediate_size: int
    layer_norm_eps: float
    max_position_embeddings: int
    num_attention_heads: int
    num_hidden_layers: int
    type_vocab_size: int
    vocab_size: int

    @classmethod
    def of(cls, config: dict[str, Any], *, where: str) -> Self:
        """From the fields of a ``BertConfig``.

        Raises:
            DataError: not a plain BERT.
        """
        if config.get("model_type") != "bert" or config.get("hidden_act", "gelu") != "gelu":
            raise DataError("not a BERT encoder with exact GELU", where=where)
        return cls(**{name: config[name] for name in cls.__slots__})


class BertEncoder(nn.Module):
    """Embeddings and layers.

    Args:
        shape: sizes.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = _Embeddings(shape)
        self.encoder = _Layers(shape)

    @classmethod
    def from_directory(cls, folder: Path) -> Self:
        """The encoder of a folder with ``config.json`` and one safetensors file; its vocabulary stays memory-mapped.

        Raises:
            DataError: not a plain BERT, or weights are missing.
        """
        from safetensors.torch import load_file

        weights = load_file(folder / "model.safetensors")
        with torch.device("meta"):
            made = cls(EncoderShape.of(read_json(folder / "config.json"), where=str(folder)))
        try:
            made.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise DataError("the weights are not those that config.json says", where=str(folder)) from error
        return made.eval().requires_grad_(False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *, use_cache: bool = False) -> DecoderOutput:
        """Hidden states (B, T, D) after the last layer.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T), 1 on tokens; padding is on the right.
            use_cache: there is none; taken so that a decoder's caller can call it.
        """
        seen_B1TT = attention_mask.bool()[:, None, None, :]
        states_BTD = self.embeddings(input_ids)
        for layer in self.encoder.layer:
            states_BTD = layer(states_BTD, seen_B1TT)
        return DecoderOutput(states_BTD)


class _Embeddings(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, input_ids_BT: Tensor) -> Tensor:
        length = input_ids_BT.shape[1]
        of_position_TD = self.position_embeddings.weight[:length] + self.token_type_embeddings.weight[0]
        states: Tensor = self.LayerNorm(self.word_embeddings(input_ids_BT) + of_position_TD)
        return states


class _Output(nn.Module):
    """What a sublayer ends with: a projection, what went in added, a norm."""

    def __init__(self, inputs: int, shape: EncoderShape) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, inner: Tensor, before: Tensor) -> Tensor:
        states: Tensor = self.LayerNorm(self.dense(inner) + before)
        return states


class _Projections(nn.Module):
    """Attention itself."""

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self._heads = shape.num_attention_heads
        self.query = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.key = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.value = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, states_BTD: Tensor, seen_B1TT: Tensor) -> Tensor:
        parts = (self.query, self.key, self.value)
        query, key, value = (part(states_BTD).unflatten(-1, (self._heads, -1)).transpose(1, 2) for part in parts)
        mixed_BHTE = F.scaled_dot_product_attention(query, key, value, attn_mask=seen_B1TT)
        return mixed_BHTE.transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.self = _Projections(shape)
        self.output = _Output(shape.hidden_size, shape)

    def forward(self, states_BTD: Tensor, seen_B1TT: Tensor) -> Tensor:
        states: Tensor = self.output(self.self(states_BTD, seen_B1TT), states_BTD)
        return states


class _Intermediate(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden_size, shape.intermediate_size)

    def forward(self, states: Tensor) -> Tensor:
        return F.gelu(self.dense(states))


class _Layer(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.attention = _Attention(shape)
        self.intermediate = _Intermediate(shape)
        self.output = _Output(shape.intermediate_size, shape)

    def forward(self, states_BTD: Tensor, seen_B1TT: Tensor) -> Tensor:
        attended_BTD = self.attention(states_BTD, seen_B1TT)
        states: Tensor = self.output(self.intermediate(attended_BTD), attended_BTD)
        return states


class _Layers(nn.Module):
    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))
