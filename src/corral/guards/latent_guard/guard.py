"""Latent Guard (arXiv 2507.11878): a chat model's own belief that a prompt is harmful, read from its hidden states.

The score is read at the last token of every user turn, and beside it, at the last token of the prompt, whether the
model is about to refuse: what a model that answers computes anyway. The guard makes a pass of its own all the same,
through an engine of its own. The two make four named states
(``LatentState``); "believed harmful, about to comply" is the alarm of a jailbreak that works.

Not to be confused with the text-to-image "Latent Guard" (ECCV 2024). Where we deviate from the paper: alpha is
calibrated on a development split; the real chat template is used with its system text, not a simplified one; every
user turn is scored and the largest counts; a message beyond the window is read in overlapping windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.base import Verdict
from corral.guards.calibration import CalibrationRow
from corral.guards.classifier import ClassifierGuard, FloatArray, Scores, Span
from corral.guards.latent_guard.centres import Centres, packaged_centres
from corral.guards.latent_guard.drift import MAX_DRIFT, require_steady
from corral.guards.latent_guard.reading import BATCH_TOKENS, LatentReader
from corral.guards.latent_guard.turn_windows import check_window, fitted_windows
from corral.guards.latent_guard.verdict import LatentScores, LatentState, LatentVerdict
from corral.guards.limits import MAX_CHARS
from corral.guards.windows import JudgedWindows
from corral.models.engines.torch import TorchEngine
from corral.models.loading import find_dtype, weights_revision

WINDOW: Final = 1024
OVERLAP: Final = 128


class LatentHarmGuard(ClassifierGuard):
    """Judges prompts by what a chat model itself takes them for.

    Args:
        reader: of the model.
        centres: fitted on this model and template.
        window: tokens read at once; older turns beyond it are left out and counted, a longer message is read in pieces.
        overlap: tokens that consecutive pieces of a long message share.
        max_chars: a judged message of more characters is refused, never cut.
        tokens_per_batch: padded tokens in one forward pass.

    Raises:
        ConfigError: centres of other sites, or window sizes that do not fit each other or the model.
    """

    def __init__(
        self,
        reader: LatentReader,
        centres: Centres,
        *,
        window: int = WINDOW,
        overlap: int = OVERLAP,
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = BATCH_TOKENS,
    ) -> None:
        super().__init__(max_chars=max_chars, tokens_per_batch=tokens_per_batch)
        if len(centres.record.sites) != len(reader.sites):
            raise ConfigError(f"centres of {len(centres.record.sites)} sites, the model has {len(reader.sites)}")
        check_window(reader, window=window, overlap=overlap)
        self.centres = centres
        self._reader = reader
        self._window = window
        self._overlap = overlap

    @classmethod
    def load(
        cls,
        *,
        model: str = "embedded:smollm2-135m-instruct",
        centres: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        device: str = "cpu",
        threads: int | None = None,
        allow_changed_weights: bool = False,
        max_drift: float = MAX_DRIFT,
        window: int = WINDOW,
        overlap: int = OVERLAP,
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = BATCH_TOKENS,
    ) -> LatentHarmGuard:
        """Load a model and the centres that were fitted on it.

        Args:
            model: reference of the chat model.
            centres: folder of centres; ``None`` for the packaged ones of this model.
            dtype: of the weights; ``auto`` is the one that the centres were fitted in.
            device: torch device.
            threads: torch threads; ``None`` leaves torch's choice.
            allow_changed_weights: take centres of other weights under the same template (the model before it was
                quantised or fine-tuned), as long as the canary stays within ``max_drift``.
            max_drift: largest change of a canary prompt's probability since the centres were fitted.
            window: tokens read at once.
            overlap: tokens that consecutive pieces of a long message share.
            max_chars: a judged message of more characters is refused, never cut.
            tokens_per_batch: padded tokens in one forward pass.

        Raises:
            NotFoundError: nothing at ``model`` or ``centres``, or no packaged centres of this model.
            ConfigError: centres of another model or template, or a canary that moved.
            MissingDependencyError: an embedded model is not installed.
        """
        from corral.models.chat import ChatTokenizer
        from corral.models.loading import load_causal_lm, load_tokenizer
        from corral.models.positions import template_hash

        revision, chat = weights_revision(model), ChatTokenizer(load_tokenizer(model))
        wanted = None if allow_changed_weights else revision
        folder = Path(centres) if centres is not None else packaged_centres(wanted, template_hash(chat))
        fitted = Centres.load(folder)
        chosen = find_dtype(fitted.record.dtype if dtype == "auto" else dtype)
        engine = TorchEngine(load_causal_lm(model, dtype=chosen, device=device), chat, name=model, threads=threads)
        reader = LatentReader(engine, revision=revision, step_back=fitted.record.step_back)
        fitted.require(
            model_revision=fitted.record.model_revision if allow_changed_weights else revision,
            template=reader.template,
            sites=tuple(site.name for site in reader.sites),
            where=str(folder),
        )
        require_steady(fitted, reader, max_drift=max_drift, where=str(folder))
        return cls(
            reader, fitted, window=window, overlap=overlap, max_chars=max_chars, tokens_per_batch=tokens_per_batch
        )

    @property
    def name(self) -> str:
        """``latent-guard``."""
        return "latent-guard"

    @property
    def revision(self) -> str:
        """Hash of model, template, centres and settings."""
        settings = [self._window, self._overlap, self.max_chars]
        return sha256_json([self._reader.revision, self.centres.revision, settings])[:16]

    @property
    def taxonomy(self) -> str:
        """The empty name: it scores no categories."""
        return ""

    def score(
        self, conversations: Sequence[Conversation], *, target: TargetChoice = "prompt"
    ) -> list[tuple[float, float] | None]:
        """Delta_harm and Delta_refuse of each conversation; ``None`` where it could not be scored."""
        found = self.raw_scores(conversations, target=target)
        return [None if scores is None else (float(scores[0]), float(scores[1])) for scores in found]

    def why_unreadable(self, conversation: Conversation, target: Target) -> str | None:
        """As every guard of text, and replies: what a model believes of its own reply is another question."""
        return super().why_unreadable(conversation, target) or (
            "this guard judges prompts, not responses" if target == "response" else None
        )

    def encode(self, conversation: Conversation, target: Target) -> JudgedWindows:
        """Windows that end with the prompt, each with one user turn as its span.

        All turns of a conversation that fits are read in one pass: the same ids with a span a turn. Oldest turns are
        left out until the rest fits; a last message that does not fit alone is cut into overlapping pieces, each
        read as a prompt of its own.

        Raises:
            DataError: a prompt whose positions cannot be found.
        """
        index = conversation.judged_index("prompt")
        messages = conversation.messages[: 0 if index is None else index + 1]
        return fitted_windows(
            self._reader,
            messages,
            position=self.centres.record.harm.position,
            window=self._window,
            overlap=self._overlap,
        )

    def forward(self, sequences: Sequence[tuple[int, ...]], spans: Sequence[Span]) -> FloatArray:
        """Delta_harm at the end of each span and Delta_refuse at the end of its sequence, (S, 2)."""
        positions: list[list[int]] = [[] for _ in sequences]
        for span in spans:
            positions[span.row].append(span.stop - 1)
        ends = [len(ids) - 1 for ids in sequences]
        states, _ = self._reader.states(sequences, [[*row, end] for row, end in zip(positions, ends, strict=True)])
        taken = [0] * len(sequences)
        scores = np.empty((len(spans), 2))
        for number, span in enumerate(spans):
            rows_PSD = states[span.row]
            scores[number, 0] = self.centres.delta_harm(rows_PSD[taken[span.row]][None])[0]
            scores[number, 1] = self.centres.delta_refuse(rows_PSD[-1][None])[0]
            taken[span.row] += 1
        return scores

    def conclude(self, scores_K: FloatArray, target: Target) -> LatentScores:
        """Both beliefs as calibrated probabilities; flagged when the model believes the prompt harmful."""
        record = self.centres.record
        calibrations = CalibrationRow([record.harm_calibration, record.refusal_calibration])
        p_harm, p_refuses = calibrations.apply(scores_K).tolist()
        return LatentScores(
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            p_refuses=p_refuses,
            delta_harm=float(scores_K[0]),
            delta_refuse=float(scores_K[1]),
        )

    def make_verdict(self, scores: Scores, **about: Any) -> Verdict:
        """A verdict with both beliefs and their state."""
        latent = cast("LatentScores", scores)
        return LatentVerdict(
            flagged=latent.flagged,
            p_harm=latent.p_harm,
            p_refuses=latent.p_refuses,
            delta_harm=latent.delta_harm,
            delta_refuse=latent.delta_refuse,
            state=LatentState.of(harmful=latent.flagged, refuses=latent.p_refuses >= 0.5),
            **about,
        )
