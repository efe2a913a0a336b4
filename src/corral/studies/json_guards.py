"""Guards that answer in JSON as studies train them: CultureGuard's own, and the one that DuoGuard is set beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from corral.core.files import sha256_json
from corral.core.runs import Run
from corral.data.examples import ModerationExample, rows_hash
from corral.guards.cultureguard.prompts import CategoryList
from corral.guards.prompted.exchanges import Exchange
from corral.models.loading import weights_revision
from corral.models.tiny import write_tiny_llama
from corral.studies.cultureguard.templated import corpus
from corral.studies.training import training_module
from corral.train.guard.prompted_settings import PromptedGuardConfig

_TINY_CONTEXT: Final = 1024


@dataclass(frozen=True)
class JsonTraining:
    """One training: rows and settings.

    Attributes:
        name: for logs and file names.
        rows: what is learned.
        settings: of the trainer.
    """

    name: str
    rows: Sequence[ModerationExample]
    settings: PromptedGuardConfig

    def key(self, categories: CategoryList) -> dict[str, Any]:
        """Everything that the trained weights depend on, and the prompt of the guard."""
        base = weights_revision(self.settings.base)
        return {
            "settings": self.settings.model_dump(mode="json") | {"base": base},
            "prompt": prompt_hash(categories),
            "rows": rows_hash(self.rows),
        }


def prompt_hash(categories: CategoryList) -> str:
    """Tells the prompts of two lists of categories apart."""
    return sha256_json(categories.render(Exchange("")))[:16]


def train_json_guard(
    training: JsonTraining, categories: CategoryList, *, dtype: str, checkpoints: Path, model: Path
) -> int:
    """Train, going on from the newest checkpoint, and write the model directory; the rows that were learned.

    Args:
        training: what to train.
        categories: in the prompt.
        dtype: of the weights that are written, as torch names it.
        checkpoints: folder of checkpoints.
        model: the directory to write.

    Raises:
        MissingDependencyError: the training libraries are not installed.
    """
    import torch

    formats, prompted = training_module("guard.cultureguard"), training_module("guard.prompted")
    shortening, settings = training_module("guard.shortening"), training.settings
    chat = prompted.load_chat(settings)
    shortened = shortening.shorten_messages(training.rows, chat.backend, max_tokens=settings.max_message_tokens)
    formatted = formats.cultureguard_rows(shortened, categories, frame=settings.frame)
    trained = prompted.train_prompted_guard(formatted.rows, settings, checkpoints)
    prompted.save_prompted_guard(trained.to(getattr(torch, dtype)), chat, model)
    return len(formatted.rows)


def write_tiny_base(run: Run, categories: CategoryList, *, seed: int) -> Path:
    """A tiny random model that knows the words of the templated text, of the prompt and of the answers."""
    words = [*corpus(), *[categories.render(Exchange("", ""))] * 2, '{"User Safety": "safe", "unsafe"}']
    return write_tiny_llama(
        run.path / "base", seed=seed, layers=2, hidden_size=64, context=_TINY_CONTEXT, words_of=words
    )
