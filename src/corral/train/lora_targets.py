"""The Linears of a Llama layer that LoRA can be put on."""

from __future__ import annotations

from typing import Final, Literal, get_args

LinearName = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEARS: Final[tuple[LinearName, ...]] = get_args(LinearName)
ENCODER_LINEARS: Final = ("query", "key", "value", "dense")
"""Those of a layer of BERT; its three ``dense`` are attention's output, and both of the feed-forward part."""
