"""A byte-level tokenizer with ChatML and a tiny random Llama, both made in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from corral.models.chat import ChatTokenizer

CHATML = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BOS, START, END, CALL = "<s>", "<|im_start|>", "<|im_end|>", "<tool_call>"


def byte_level_tokenizer() -> Tokenizer:
    """One token a byte, a few merges, a beginning-of-sequence token, and an unmarked control token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("Ġ", "t"), ("he", "ll"), ("Ċ", "Ċ")]
    words = [*alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (BOS, START, END)])
    tokenizer.add_tokens([AddedToken(CALL, special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def wrap(tokenizer: Tokenizer, template: str | None = CHATML) -> PreTrainedTokenizerFast:
    """With special tokens (padding is end-of-sequence, as in SmolLM2) and a chat template."""
    # A copy through JSON: the wrapper changes the tokenizer it is given.
    copy = Tokenizer.from_str(json.dumps(json.loads(tokenizer.to_str())))
    return PreTrainedTokenizerFast(
        tokenizer_object=copy, bos_token=BOS, eos_token=END, pad_token=END, chat_template=template
    )


def random_llama(*, layers: int = 3, vocab_size: int, context: int = 160, end: int | None = None) -> LlamaForCausalLM:
    """Seeded; weights wide enough that logits differ and attention matters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return wrap(byte_level_tokenizer())


@pytest.fixture(scope="session")
def chat(tokenizer: PreTrainedTokenizerFast) -> ChatTokenizer:
    return ChatTokenizer(tokenizer)


@pytest.fixture(scope="session")
def llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return random_llama(vocab_size=len(tokenizer), end=tokenizer.eos_token_id)


@pytest.fixture(scope="session")
def make_llama():
    return random_llama


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory, tokenizer: PreTrainedTokenizerFast):
    """A tiny GGUF file, its weights as a ``LlamaForCausalLM`` holds them, and its tokenizer's ``Tokenizer``."""
    model = random_llama(layers=2, vocab_size=len(tokenizer), end=tokenizer.eos_token_id)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, model, tokenizer.backend_tokenizer)
    return path, model


def write_gguf(path: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, *, pre: str = "smollm") -> None:
    """What llama.cpp's converter writes: its names, and query and key rows in its rotary order."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    definition = json.loads(tokenizer.to_str())
    vocabulary = sorted(tokenizer.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    special = {token["id"] for token in definition["added_tokens"] if token["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types([3 if index in special else 1 for _, index in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in definition["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.token_to_id(BOS))
    writer.add_eos_token_id(tokenizer.token_to_id(END))
    writer.add_pad_token_id(tokenizer.token_to_id(END))
    writer.add_chat_template(CHATML)
    for name, tensor in model.state_dict().items():
        writer.add_tensor(_gguf_name(name), _gguf_order(name, tensor.numpy(), config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _gguf_name(name: str) -> str:
    found = get_tensor_name_map(MODEL_ARCH.LLAMA, 8).get_name(name, try_suffixes=(".weight",))
    assert found is not None
    return found


def _gguf_order(name: str, weight: np.ndarray, config: LlamaConfig) -> np.ndarray:
    # LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns).copy()
