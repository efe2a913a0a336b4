"""LoRA on chosen Linears: how many weights that is, and which."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from corral.train.lora import with_lora
from corral.train.lora_targets import LINEARS


def smollm2(layers: int) -> LlamaForCausalLM:
    """SmolLM2-135M's layers without their weights; its vocabulary does not matter here."""
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


def trainable(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def test_the_papers_lora_on_smollm2_has_460800_weights() -> None:
    # a layer: q 8 x (576 + 576), v 8 x (576 + 192); closed form
    adapted = with_lora(smollm2(30), first_layer=0, rank=8, alpha=32, targets=("q_proj", "v_proj"))
    assert trainable(adapted) == 30 * (8 * (576 + 576) + 8 * (576 + 192)) == 460_800


def test_only_the_targets_of_the_upper_layers_are_trained() -> None:
    adapted = with_lora(smollm2(3), first_layer=2, rank=4, alpha=8, targets=("v_proj",))
    names = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(names) == 2
    assert all("layers.2.self_attn.v_proj" in name for name in names)


def test_all_linears_by_default() -> None:
    adapted = with_lora(smollm2(1), first_layer=0, rank=1, alpha=1)
    names = {name.split(".")[-4] for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert names == set(LINEARS)
