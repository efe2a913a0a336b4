"""One file a method; found by name in ``METHODS``."""

from __future__ import annotations

from typing import Final

from corral.core.registry import Registry
from corral.quant.methods.base import Method

__all__ = ["METHODS", "Method"]

METHODS: Final[Registry[type[Method]]] = Registry("quantization method")
for _name, _target in {
    "rtn": "rtn:Rtn",
    "gptq": "gptq:Gptq",
    "awq": "awq:Awq",
    "smoothquant": "smoothquant:SmoothQuant",
    "quip": "quip:Quip",
    "pb_llm": "pb_llm:PbLlm",
    "billm": "billm:BiLlm",
    "db_llm": "db_llm:DbLlm",
    "nf4": "nf4:Nf4",
    "icq": "icq:Icq",
}.items():
    METHODS.register(_name, f"corral.quant.methods.{_target}")
