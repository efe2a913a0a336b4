"""Trained models of a study, opened the same way: an adapter of its base, a model directory, or routing parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.core.files import sha256_file, sha256_json
from corral.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_lora
from corral.models.routing.record import has_routing

if TYPE_CHECKING:
    from corral.models.engines.torch import TorchEngine

_REVISION_DIGITS: Final = 16


def keep_trained(tuned: Any, base: str, folder: Path) -> None:
    """Write what was trained into ``folder`` in one step: the adapter, or the model where its own weights were trained.

    Args:
        tuned: a ``FineTuned`` model.
        base: model reference.
        folder: that does not exist yet.
    """
    if tuned.adapted is not None:
        tuned.save_adapter(folder)
        return
    from corral.train.fine_tuning import load_chat, save_model

    save_model(tuned, load_chat(base), folder)


def open_trained(base: str, folder: Path | None, *, name: str, dtype: str = "float32") -> TorchEngine:
    """The base, or what was trained from it, as an engine.

    Args:
        base: model reference.
        folder: what ``keep_trained`` wrote, or routing parts; ``None`` for the base itself.
        name: as reports print it; routing parts are called by their folder.
        dtype: in which it computes; an adapter is added in float32 and the sum rounded once.
    """
    from corral.models.chat import ChatTokenizer
    from corral.models.engines.torch import TorchEngine
    from corral.models.loading import find_dtype, load_causal_lm, load_tokenizer

    if folder is not None and has_routing(folder):
        from corral.models.engines.loading import load_engine

        return load_engine(folder, dtype=find_dtype(dtype))
    adapted = folder is not None and (folder / ADAPTER_CONFIG).is_file()
    model: Any = load_causal_lm(base if adapted or folder is None else folder)
    if adapted and folder is not None:
        merge_lora(model, folder)
    wanted = find_dtype(dtype)
    if wanted is not None:
        model.to(wanted)
    return TorchEngine(model, ChatTokenizer(load_tokenizer(base)), name=name)


def revision_of(base: str, folder: Path | None, dtype: str) -> str:
    """Hash of weights and dtype: measurements of another revision are not reused."""
    from corral.models.loading import weights_revision

    if folder is None:
        return sha256_json([weights_revision(base), dtype])[:_REVISION_DIGITS]
    adapter = folder / ADAPTER_WEIGHTS
    own = sha256_file(adapter) if adapter.is_file() else weights_revision(folder)
    return sha256_json([weights_revision(base), own, dtype])[:_REVISION_DIGITS]
