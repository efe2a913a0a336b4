"""From what a user names to a subject: the engine, and a revision that its answers depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from corral.core.errors import UserError
from corral.core.files import sha256_json
from corral.evals.tasks.task import Subject
from corral.guards.base import Guard
from corral.models.engines.base import Engine

if TYPE_CHECKING:
    import torch

_REVISION_DIGITS: Final = 16


def load_subject(
    model: str | Path | Engine,
    guards: Sequence[Guard] = (),
    *,
    revision: str = "",
    dtype: torch.dtype | None = None,
) -> Subject:
    """The model, loaded, with its guards.

    Args:
        model: hub id, folder, GGUF file or ``embedded:NAME``; or an engine.
        guards: measured by themselves and in front of the model.
        revision: of an engine: what its answers depend on. Without one they are not kept.
        dtype: of the weights; ``None`` keeps the stored dtype.

    Raises:
        NotFoundError: nothing at ``model``, or nothing that can be read.
        MissingDependencyError: an embedded model's package is not installed.
        UserError: two guards have the same name.
    """
    names = [guard.name for guard in guards]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two guards are named `{name}`", hint="Measure them on scorecards of their own.")
    if not isinstance(model, str | Path):
        return Subject(model, model.name, revision, tuple(guards))
    from corral.models.engines.loading import load_engine
    from corral.models.loading import weights_revision

    engine = load_engine(model, dtype=dtype)
    depends_on = {
        "weights": weights_revision(model),
        "dtype": str(engine.model.dtype),
        "chat_template": engine.chat.tokenizer.chat_template,
    }
    return Subject(engine, str(model), sha256_json(depends_on)[:_REVISION_DIGITS], tuple(guards))


@contextmanager
def open_subject(model: str, guards: Sequence[Guard] = (), *, server: str | None = None) -> Iterator[Subject]:
    """The model with its guards, loaded here or, with ``server``, behind an OpenAI-compatible server.

    Raises:
        As ``load_subject``.
    """
    if server is None:
        yield load_subject(model, guards)
        return
    from corral.models.engines.openai import OpenAIEngine

    with OpenAIEngine(server, model) as engine:
        # of a model behind a server only the address is known
        yield load_subject(engine, guards, revision=f"{server} {model}")


def server_of(model: str, revision: str) -> str | None:
    """The server of a subject that ``open_subject`` opened; ``None`` for one that was loaded here."""
    server = revision.removesuffix(f" {model}")
    return server if server != revision and server.startswith(("http://", "https://")) else None
