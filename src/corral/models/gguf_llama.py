"""Reading a Llama-architecture GGUF file: configuration, dequantised weights, tokenizer.

The ``gguf`` library parses the file and dequantises its blocks; this module maps names and undoes the rotary
permutation that llama.cpp's converter applies to query and key rows. transformers reads GGUF too, and
``models/loading`` leaves files of other architectures to it; for the packaged model this reader takes seconds instead
of half a minute, needs one layer in memory at a time, and keeps the splitting of digits that ``tokenizer.ggml.pre``
asks for and transformers drops.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.core.errors import DataError

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer, pre_tokenizers

_LAYER_NAMES: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER_NAMES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_CONTROL_TOKEN: Final = 3  # llama.cpp's LLAMA_TOKEN_TYPE_CONTROL


class LlamaGGUF:
    """One opened file; tensors are memory-mapped until they are asked for.

    Raises:
        DataError: not a GGUF file, not of the Llama architecture, or with scaled rotary frequencies.
    """

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:
            raise DataError(f"not a readable GGUF file: {error}", where=str(path)) from error
        architecture = self._field("general.architecture")
        if architecture != "llama":
            raise DataError(f"GGUF architecture `{architecture}` is not `llama`", where=str(path))
        if any(name.startswith("llama.rope.scaling") for name in self._reader.fields):
            raise DataError("GGUF files with scaled rotary frequencies are not read", where=str(path))

    def config(self, *, layers: int | None = None, dtype: str) -> dict[str, Any]:
        """The fields of a transformers ``LlamaConfig`` for the lowest ``layers`` (all when ``None``)."""
        total = int(self._field("llama.block_count"))
        if layers is not None and not 1 <= layers <= total:
            raise DataError(f"layers is `{layers}`, the model has {total}", where=str(self.path))
        heads = int(self._field("llama.attention.head_count"))
        hidden = int(self._field("llama.embedding_length"))
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "dtype": dtype,
            "attention_bias": False,
            "bos_token_id": self._optional("tokenizer.ggml.bos_token_id"),
            "eos_token_id": self._optional("tokenizer.ggml.eos_token_id"),
            "pad_token_id": self._optional("tokenizer.ggml.padding_token_id"),
            "head_dim": int(self._optional("llama.rope.dimension_count") or hidden // heads),
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": int(self._field("llama.feed_forward_length")),
            "max_position_embeddings": int(self._field("llama.context_length")),
            "mlp_bias": False,
            "num_attention_heads": heads,
            "num_hidden_layers": total if layers is None else layers,
            "num_key_value_heads": int(self._optional("llama.attention.head_count_kv") or heads),
            "rms_norm_eps": float(self._field("llama.attention.layer_norm_rms_epsilon")),
            "rope_parameters": {
                "rope_theta": float(self._optional("llama.rope.freq_base") or 10000.0),
                "rope_type": "default",
            },
            "tie_word_embeddings": not any(tensor.name == "output.weight" for tensor in self._reader.tensors),
            "vocab_size": self._vocab_size(),
        }

    def tensors(self, *, layers: int | None = None, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
        """Names as in ``LlamaForCausalLM`` with dequantised weights, the lowest ``layers`` only."""
        import numpy as np
        import torch
        from gguf.quants import dequantize

        config = self.config(layers=layers, dtype="float32")
        for tensor in self._reader.tensors:
            name = _transformers_name(tensor.name)
            if name is None:
                raise DataError(f"unknown tensor `{tensor.name}`", where=str(self.path))
            if name.startswith("model.layers.") and int(name.split(".")[2]) >= config["num_hidden_layers"]:
                continue
            # The copy makes float32 blocks, which come straight from the read-only memory map, safe to write to.
            weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32))
            if name.endswith("q_proj.weight"):
                weight = _undo_rotary_permutation(weight, config["num_attention_heads"])
            elif name.endswith("k_proj.weight"):
                weight = _undo_rotary_permutation(weight, config["num_key_value_heads"])
            yield name, weight.to(dtype)

    def tokenizer(self) -> Tokenizer:
        """The byte-level BPE tokenizer of the file.

        Raises:
            DataError: a tokenizer of another kind, or a pre-tokenizer that this reader does not know.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models

        if self._field("tokenizer.ggml.model") != "gpt2":
            raise DataError(
                f"tokenizer `{self._field('tokenizer.ggml.model')}` is not byte-level BPE", where=str(self.path)
            )
        tokens = self._field("tokenizer.ggml.tokens")
        merges = [tuple(merge.split(" ")) for merge in self._field("tokenizer.ggml.merges")]
        tokenizer = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
        tokenizer.pre_tokenizer = self._pre_tokenizer()
        tokenizer.decoder = decoders.ByteLevel()
        kinds = self._field("tokenizer.ggml.token_type")
        control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
        return tokenizer

    def sentence_pieces(self) -> None:
        """None: its vocabulary is read by ``tokenizers`` alone."""

    def tokenizer_config(self) -> dict[str, Any]:
        """Special tokens and chat template, as ``tokenizer_config.json`` holds them."""
        tokens = self._field("tokenizer.ggml.tokens")
        config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
        for key, name in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
            index = self._optional(f"tokenizer.ggml.{name}_token_id")
            if index is not None:
                config[f"{key}_token"] = tokens[index]
        template = self._optional("tokenizer.chat_template")
        if template is not None:
            config["chat_template"] = template
        config["model_max_length"] = int(self._field("llama.context_length"))
        config["clean_up_tokenization_spaces"] = False
        return config

    def _pre_tokenizer(self) -> pre_tokenizers.PreTokenizer:
        from tokenizers import pre_tokenizers

        kind = self._field("tokenizer.ggml.pre")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        if kind == "smollm":
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        if kind in ("gpt-2", "default"):
            return byte_level
        raise DataError(f"pre-tokenizer `{kind}` is not known", where=str(self.path))

    def _field(self, name: str) -> Any:
        value = self._optional(name)
        if value is None:
            raise DataError(f"`{name}` is missing", where=str(self.path))
        return value

    def _optional(self, name: str) -> Any:
        field = self._reader.get_field(name)
        return None if field is None else field.contents()

    def _vocab_size(self) -> int:
        return next(int(tensor.shape[1]) for tensor in self._reader.tensors if tensor.name == "token_embd.weight")


def _transformers_name(name: str) -> str | None:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    block, _, rest = name.partition(".")
    index, _, rest = rest.partition(".")
    kind, _, suffix = rest.partition(".")
    if block != "blk" or not index.isdigit() or kind not in _LAYER_NAMES or suffix != "weight":
        return None
    return f"model.layers.{index}.{_LAYER_NAMES[kind]}.weight"


def _undo_rotary_permutation(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows from llama.cpp's interleaved rotary order back to transformers' half-split order.

    The inverse of ``LlamaModel.permute`` in llama.cpp's ``convert_hf_to_gguf.py``.
    """
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)
