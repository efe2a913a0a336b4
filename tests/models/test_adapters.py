"""A LoRA adapter merged by us equals the same adapter merged by peft."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaModel

from corral.core.errors import DataError, NotFoundError
from corral.core.files import atomic_write_json, read_json
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_lora, merged_tensors


def base() -> LlamaModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaModel(config)


@pytest.fixture
def adapter(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    adapted = get_peft_model(base(), LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path)
    return tmp_path, dict(adapted.merge_and_unload().state_dict())


def test_merging_equals_peft(adapter: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, expected = adapter
    model = base()
    merge_lora(model, folder)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, expected[name])


def test_scaling_variants_are_refused_rather_than_ignored(adapter: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = adapter
    atomic_write_json(folder / ADAPTER_CONFIG, {**read_json(folder / ADAPTER_CONFIG), "use_rslora": True})
    with pytest.raises(DataError, match="use_rslora"):
        merge_lora(base(), folder)


def test_an_adapter_of_another_model_is_refused(adapter: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, _ = adapter
    other = LlamaModel(
        LlamaConfig(
            vocab_size=11,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    with pytest.raises(DataError, match="no weight"):
        merge_lora(other, folder)


def test_named_weights_are_merged_as_a_model_is(adapter: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, expected = adapter
    merged = dict(merged_tensors(base().state_dict().items(), folder))
    assert merged.keys() == expected.keys()
    for name, weight in merged.items():
        torch.testing.assert_close(weight, expected[name])


def test_the_lower_layers_alone_take_their_part_of_the_adapter(adapter: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, expected = adapter
    lower = {name: weight for name, weight in base().state_dict().items() if "layers.1." not in name}
    for name, weight in merged_tensors(lower.items(), folder, layers=1):
        torch.testing.assert_close(weight, expected[name])
    with pytest.raises(DataError, match="no weight"):
        list(merged_tensors(lower.items(), folder))


def test_a_folder_without_weights_is_an_error_that_names_the_file(
    adapter: tuple[Path, dict[str, torch.Tensor]],
) -> None:
    folder, _ = adapter
    (folder / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(NotFoundError, match="no adapter") as caught:
        merge_lora(base(), folder)
    assert caught.value.where == str(folder / ADAPTER_WEIGHTS)
