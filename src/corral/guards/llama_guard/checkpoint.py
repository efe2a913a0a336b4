"""Loading a checkpoint into this process, with the chat format that its generation reads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.guards.llama_guard.framing import FrameName, check_frame, template_for

if TYPE_CHECKING:
    import torch

    from corral.models.engines.torch import TorchEngine

_RELEASED: Final = re.compile(r"llama-?guard(?:-(?P<number>[234]))?(?P<small>-1b)?", re.IGNORECASE)


def generation_of(model: str) -> str:
    """The generation of prompts that the name of a released checkpoint tells, for example ``3-1b``.

    Raises:
        ConfigError: the name tells none.
    """
    match = _RELEASED.search(Path(model).name)
    if match is None:
        raise ConfigError(
            f"the name `{model}` does not tell which generation of prompts the model was trained on",
            where="generation",
            hint="Give `generation`: 1, 2, 3, 3-1b or 4.",
        )
    number = match["number"] or "1"
    return "3-1b" if number == "3" and match["small"] else number


def load_engine(
    model: str | Path, *, frame: FrameName, dtype: str, device: str, threads: int | None
) -> tuple[TorchEngine, str]:
    """The engine, whose chat template is the frame, and a hash of its weights and template.

    Args:
        model: reference of a causal language model.
        frame: used where the vocabulary has its control tokens, else the tokenizer's own template is.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: torch device.
        threads: torch threads; ``None`` leaves torch's choice.

    Raises:
        NotFoundError: nothing at ``model``.
        ConfigError: an unknown frame or dtype, or no template that leaves the policy to the prompt.
    """
    from corral.models.chat import ChatTokenizer
    from corral.models.engines.torch import TorchEngine
    from corral.models.loading import load_causal_lm, load_tokenizer, weights_revision

    check_frame(frame)
    chosen = _dtype(dtype)
    tokenizer = load_tokenizer(model)
    tokenizer.chat_template = template_for(frame, tokenizer.get_vocab(), tokenizer.chat_template)
    language_model = load_causal_lm(model, dtype=chosen, device=device)
    engine = TorchEngine(language_model, ChatTokenizer(tokenizer), name=str(model), threads=threads)
    return engine, sha256_json([weights_revision(model), str(language_model.dtype), tokenizer.chat_template])


def _dtype(name: str) -> torch.dtype | None:
    """The dtype of a setting; ``None`` for the stored one."""
    import torch

    dtypes = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}
    if name not in dtypes:
        raise ConfigError(f"no dtype `{name}`", where="dtype", hint="Use auto, float32 or bfloat16.")
    return dtypes[name]
