"""Engines for guards that are asked in words: a checkpoint in this process, or a server that hosts it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.guards.prompted.framing import FrameName, check_frame, template_for

if TYPE_CHECKING:
    from corral.models.chat import ChatTokenizer
    from corral.models.engines.base import Engine
    from corral.models.engines.openai import OpenAIEngine
    from corral.models.engines.torch import TorchEngine


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
    from corral.models.engines.torch import TorchEngine
    from corral.models.loading import find_dtype, load_causal_lm, weights_revision

    chosen = find_dtype(dtype)
    chat = _framed_tokenizer(model, frame)
    language_model = load_causal_lm(model, dtype=chosen, device=device)
    engine = TorchEngine(language_model, chat, name=str(model), threads=threads)
    return engine, sha256_json([weights_revision(model), str(language_model.dtype), chat.tokenizer.chat_template])


def connect_engine(
    server: str, model: str, *, tokenizer: str | Path | None, frame: FrameName
) -> tuple[OpenAIEngine, str]:
    """An engine over an OpenAI-compatible server, and what is known of its revision: URL, name and template.

    Args:
        server: base URL.
        model: as the server names it.
        tokenizer: reference of the model's tokenizer, which makes scores possible; ``None`` for none.
        frame: as ``load_engine``; without the tokenizer it is not checked against a vocabulary.

    Raises:
        NotFoundError: nothing at ``tokenizer``.
        ConfigError: an unknown frame, a URL that cannot be used, or no template that leaves the policy to the prompt.
    """
    from corral.models.engines.openai import OpenAIEngine

    check_frame(frame)
    chat = None if tokenizer is None else _framed_tokenizer(tokenizer, frame)
    engine = OpenAIEngine(server, model, chat=chat)
    return engine, sha256_json([server, model, chat.tokenizer.chat_template if chat else frame])


def load_or_connect(
    model: str | Path,
    server: str | None,
    tokenizer: str | Path | None,
    *,
    frame: FrameName,
    unchecked: FrameName,
    dtype: str,
    device: str,
    threads: int | None,
) -> tuple[Engine, str, FrameName]:
    """The engine, its revision, and the frame that is left for the guard to write.

    Args:
        model: reference of a checkpoint; with ``server``, its name there.
        server: base URL of an OpenAI-compatible server; ``None`` loads the checkpoint.
        tokenizer: with ``server``, reference of the model's tokenizer.
        frame: as ``load_engine``.
        unchecked: the frame for a server whose model's tokenizer is not at hand.
        dtype, device, threads: as ``load_engine``.

    Raises:
        NotFoundError, ConfigError: as ``load_engine`` and ``connect_engine``; a tokenizer without a server.
    """
    if server is None:
        if tokenizer is not None:
            raise ConfigError("a checkpoint brings its own tokenizer", where="tokenizer", hint="Leave it out.")
        return *load_engine(model, frame=frame, dtype=dtype, device=device, threads=threads), "chat"
    if tokenizer is not None:
        return *connect_engine(server, str(model), tokenizer=tokenizer, frame=frame), "chat"
    return *connect_engine(server, str(model), tokenizer=None, frame=unchecked), unchecked


def require_tokenizer(server: str | None, tokenizer: str | Path | None) -> None:
    """Refuse to score over a server without the model's tokenizer.

    Raises:
        ConfigError: a server and no tokenizer.
    """
    if server is not None and tokenizer is None:
        raise ConfigError(
            "scores from a server need the model's tokenizer",
            where="tokenizer",
            hint='Give `tokenizer`, a folder or hub id, or use `decode="generate"`, which gives no scores.',
        )


def _framed_tokenizer(ref: str | Path, frame: FrameName) -> ChatTokenizer:
    from corral.models.chat import ChatTokenizer
    from corral.models.loading import load_tokenizer

    check_frame(frame)
    tokenizer = load_tokenizer(ref)
    tokenizer.chat_template = template_for(frame, tokenizer.get_vocab(), tokenizer.chat_template)
    return ChatTokenizer(tokenizer)
