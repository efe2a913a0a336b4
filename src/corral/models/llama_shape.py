"""The sizes of a plain Llama, read from its config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from corral.core.errors import DataError


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """The numbers of a ``LlamaConfig`` that the forward pass needs."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    norm_epsilon: float
    rope_theta: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str = "config.json") -> LlamaShape:
        """Read the fields of a transformers ``config.json``.

        Raises:
            DataError: not a plain Llama (another architecture, biases, another activation, scaled rotary frequencies).
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        plain = {
            "model_type": config.get("model_type") == "llama",
            "hidden_act": config.get("hidden_act", "silu") == "silu",
            "attention_bias": not config.get("attention_bias", False),
            "mlp_bias": not config.get("mlp_bias", False),
            "rope_parameters": rope.get("rope_type", "default") == "default",
        }
        for field, holds in plain.items():
            if not holds:
                raise DataError(f"`{field}` is not that of a plain Llama", where=where, hint="Use `load_backbone`.")
        heads = config["num_attention_heads"]
        return cls(
            vocab_size=config["vocab_size"],
            hidden_size=config["hidden_size"],
            intermediate_size=config["intermediate_size"],
            layers=config["num_hidden_layers"],
            heads=heads,
            key_heads=config.get("num_key_value_heads") or heads,
            head_size=config.get("head_dim") or config["hidden_size"] // heads,
            norm_epsilon=config.get("rms_norm_eps", 1e-6),
            rope_theta=rope.get("rope_theta") or config.get("rope_theta", 10000.0),
        )
