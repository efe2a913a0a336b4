"""The encoder computes what transformers' BERT does, and padding changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from corral.core.errors import DataError
from corral.core.files import atomic_write_json, read_json
from corral.models.encoder import BertEncoder


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    ids = torch.randint(3, 40, (4, 17))
    seen = torch.ones_like(ids)
    seen[1, 9:] = 0
    seen[2, 1:] = 0
    return ids, seen


def test_it_equals_transformers(tiny_encoder: Path) -> None:
    from transformers import BertModel

    ids, seen = batch()
    theirs = BertModel.from_pretrained(tiny_encoder, add_pooling_layer=False).eval()
    ours = BertEncoder.from_directory(tiny_encoder)(ids, seen).last_hidden_state
    expected = theirs(input_ids=ids, attention_mask=seen).last_hidden_state
    torch.testing.assert_close(ours[seen.bool()], expected[seen.bool()], atol=1e-5, rtol=1e-5)


def test_padding_changes_nothing(tiny_encoder: Path) -> None:
    ids, seen = batch()
    encoder = BertEncoder.from_directory(tiny_encoder)
    padded = encoder(ids, seen).last_hidden_state[1, :9]
    alone = encoder(ids[1:2, :9], seen[1:2, :9]).last_hidden_state[0]
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=1e-5)


def test_missing_weights_and_another_architecture_are_refused(tiny_encoder: Path) -> None:
    weights = load_file(tiny_encoder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "layer.1.output" not in k}, tiny_encoder / "model.safetensors")
    with pytest.raises(DataError, match=r"config\.json"):
        BertEncoder.from_directory(tiny_encoder)
    atomic_write_json(tiny_encoder / "config.json", read_json(tiny_encoder / "config.json") | {"model_type": "llama"})
    with pytest.raises(DataError, match="not a BERT"):
        BertEncoder.from_directory(tiny_encoder)
