"""A GGUF file of the Llama architecture is read as transformers reads it, tokenizer included."""

from __future__ import annotations

import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, LlamaConfig

from corral.core.errors import DataError
from corral.models.gguf_llama import LlamaGGUF


@pytest.fixture(scope="module")
def opened(gguf_file):
    return LlamaGGUF(gguf_file[0])


def test_the_weights_are_those_that_were_written(opened, gguf_file):
    read = dict(opened.tensors(dtype=torch.float32))
    written = gguf_file[1].state_dict()
    assert read.keys() == written.keys()
    assert all(torch.equal(read[name], written[name]) for name in written)


def test_transformers_reads_the_same_weights_and_shape(opened, gguf_file):
    path, _ = gguf_file
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    read = dict(opened.tensors(dtype=torch.float32))
    assert all(torch.equal(read[name], tensor) for name, tensor in theirs.state_dict().items())
    ours = LlamaConfig(**{k: v for k, v in opened.config(dtype="float32").items() if k != "architectures"})
    for field in (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "rms_norm_eps",
        "rope_parameters",
        "max_position_embeddings",
        "vocab_size",
        "tie_word_embeddings",
        "eos_token_id",
    ):
        assert getattr(ours, field) == getattr(theirs.config, field), field


def test_only_the_lower_layers_are_read_in_the_dtype_asked_for(opened):
    read = dict(opened.tensors(layers=1, dtype=torch.bfloat16))
    assert {name.split(".")[2] for name in read if name.startswith("model.layers.")} == {"0"}
    assert {tensor.dtype for tensor in read.values()} == {torch.bfloat16}
    assert opened.config(layers=1, dtype="bfloat16")["num_hidden_layers"] == 1


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_the_model_does_not_have_are_refused(opened, layers):
    with pytest.raises(DataError, match="the model has 2"):
        opened.config(layers=layers, dtype="float32")


def test_the_tokenizer_is_the_one_that_was_written_and_splits_digits(opened, tokenizer):
    backend = tokenizer.backend_tokenizer
    read = opened.tokenizer()
    for text in ("hello the", "<|im_start|>user\nhi<|im_end|>", "né\n\nwith\ttabs"):
        assert read.encode(text, add_special_tokens=False).ids == backend.encode(text, add_special_tokens=False).ids
    # The pre-tokenizer `smollm` takes a space before a digit for a piece of its own.
    assert read.pre_tokenizer.pre_tokenize_str(" 12") == [("Ġ", (0, 1)), ("1", (1, 2)), ("2", (2, 3))]
    assert read.decode(read.encode("a 12 é").ids) == "a 12 é"


def test_the_tokenizer_configuration_names_special_tokens_and_template(opened):
    config = opened.tokenizer_config()
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == ("<s>", "<|im_end|>", "<|im_end|>")
    assert "im_start" in config["chat_template"]


def test_other_files_and_architectures_are_refused(tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but no more")
    with pytest.raises(DataError, match="not a readable GGUF"):
        LlamaGGUF(broken)
    other = tmp_path / "other.gguf"
    writer = GGUFWriter(other, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DataError, match="`mamba` is not `llama`"):
        LlamaGGUF(other)
