"""DuoGuard: a multi-label classifier on a small decoder (arXiv 2502.05163).

Twelve scores s_k at the last token; p_k = sigmoid(s_k); unsafe iff the largest p_k is above 0.5. Any Llama-family
sequence classifier with twelve outputs in this order loads, the published checkpoints of the family included.

Where we deviate from the released example: a long text is read in overlapping windows (theirs stops at 512 tokens);
the last token is found by the attention mask, not by comparing with the pad id, which many tokenizers share with
end-of-sequence; text that looks like a special token is read as text; and a category's p_k may be calibrated
(``guards/calibration``), which moves its threshold to 0.5.

Like the original it judges one text on its own: the last user message as prompt, the last reply as response.

Legend: B sequences, T tokens, D hidden size, S spans, N texts, K = 12 categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.core.files import atomic_write_json, read_json, sha256_json
from corral.data.messages import Conversation, Target
from corral.data.taxonomy import load_taxonomy, qualified
from corral.guards.calibration import Calibration, CalibrationRow, fit_calibration
from corral.guards.classifier import TOKENS_PER_BATCH, ClassifierGuard, FloatArray, Scores, Span
from corral.guards.limits import MAX_CHARS
from corral.guards.windows import JudgedWindows, Window, check_windows, window_spans
from corral.models.batching import PaddingSide, pad
from corral.models.loading import ModelRef, find_dtype, load_fast_tokenizer, load_sequence_classifier, weights_revision
from corral.models.plain_text import PlainTextEncoder

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

TAXONOMY: Final = "duoguard"
_UNFITTED: Final = Calibration()
_CALIBRATIONS: Final = TypeAdapter(dict[str, Calibration])


def duoguard_codes() -> tuple[str, ...]:
    """Qualified category codes in the order of the head's outputs; the last one is jailbreak prompts."""
    taxonomy = load_taxonomy(TAXONOMY)
    return tuple(qualified(taxonomy, category.code) for category in taxonomy.categories)


class DuoGuard(ClassifierGuard):
    """A twelve-category classifier with the max-sigmoid rule.

    Args:
        model: a decoder with a sequence-classification head (``model.score``), in evaluation mode.
        tokenizer: the tokenizer of its base model, without truncation or padding.
        revision: content hash of the weights.
        calibrations: category code to its calibration; a category without one keeps p = sigmoid(s).
        window: tokens in a window; the published models were trained on 512.
        overlap: tokens that consecutive windows share.
        padding_side: where batches are padded; the scores do not depend on it.
        max_chars: longest judged message.
        tokens_per_batch: padded tokens in one forward pass.

    Raises:
        ConfigError: the head's size is not the taxonomy's, a calibration of an unknown category, or window sizes
            that do not fit each other or the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Tokenizer,
        *,
        revision: str,
        calibrations: Mapping[str, Calibration] = MappingProxyType({}),
        window: int = 512,
        overlap: int = 64,
        padding_side: PaddingSide = "right",
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> None:
        super().__init__(max_chars=max_chars, tokens_per_batch=tokens_per_batch)
        self.codes = duoguard_codes()
        _check_head(model, len(self.codes))
        self._model = model
        self._text = PlainTextEncoder(tokenizer)
        self._prefix = sequence_prefix(tokenizer)
        self._window = window - len(self._prefix)
        self._overlap = overlap
        self._padding_side: PaddingSide = padding_side
        ordered = _in_order(calibrations, self.codes)
        self._calibrations = CalibrationRow(ordered)
        check_windows(self._window, overlap)
        _check_length(model, window)
        settings = [calibration.model_dump() for calibration in ordered]
        self._revision = sha256_json([revision, str(model.dtype), window, overlap, max_chars, settings])[:16]

    @classmethod
    def load(
        cls,
        *,
        model: str | Path,
        tokenizer: str | Path | None = None,
        calibration: str | Path | None = None,
        dtype: str = "auto",
        device: str = "cpu",
        window: int = 512,
        overlap: int = 64,
        max_chars: int = MAX_CHARS,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> DuoGuard:
        """Load a checkpoint of the family.

        Args:
            model: folder or hub id of the classifier.
            tokenizer: folder or hub id of the tokenizer; the classifier's own when not given. Published checkpoints
                may leave it in the base model's repository.
            calibration: JSON file that ``save_calibrations`` wrote.
            dtype: of the weights, ``float32`` or ``bfloat16``; ``auto`` keeps the stored one.
            device: ``cpu`` or ``cuda``.
            window: tokens in a window.
            overlap: tokens that consecutive windows share.
            max_chars: longest judged message.
            tokens_per_batch: padded tokens in one forward pass.

        Raises:
            NotFoundError: nothing at ``model``, or no tokenizer.
            ConfigError: weights are missing from the checkpoint, or as the class says.
        """
        ref = ModelRef.parse(model)
        given = ModelRef.parse(tokenizer) if tokenizer is not None else None
        loaded_tokenizer = _load_tokenizer(ref, given)
        return cls(
            load_sequence_classifier(ref, dtype=find_dtype(dtype), device=device),
            loaded_tokenizer,
            revision=sha256_json([weights_revision(ref), loaded_tokenizer.to_str()]),
            calibrations=load_calibrations(Path(calibration)) if calibration is not None else {},
            window=window,
            overlap=overlap,
            max_chars=max_chars,
            tokens_per_batch=tokens_per_batch,
        )

    @property
    def name(self) -> str:
        """Name in policies."""
        return "duoguard"

    @property
    def revision(self) -> str:
        """Hash of weights and their dtype, tokenizer, windows, limit on characters and calibrations."""
        return self._revision

    @property
    def taxonomy(self) -> str:
        """The twelve categories."""
        return TAXONOMY

    def encode(self, conversation: Conversation, target: Target) -> JudgedWindows:
        """Windows over the judged message alone, each behind the tokenizer's beginning-of-sequence, if it has one."""
        index = conversation.judged_index(target)
        text = "" if index is None else conversation.messages[index].text
        ids = self._text.encode(text)
        return JudgedWindows(
            tuple(
                Window((*self._prefix, *ids[start:stop]), len(self._prefix), len(self._prefix) + stop - start)
                for start, stop in window_spans(len(ids), self._window, self._overlap)
            )
        )

    def forward(self, sequences: Sequence[tuple[int, ...]], spans: Sequence[Span]) -> FloatArray:
        """Raw scores (S, K): the head on the last token of each sequence that is not padding."""
        import torch

        device = self._model.device
        batch = pad(sequences, side=self._padding_side)
        mask_BT = batch.attention_mask_BT.to(device)
        with torch.inference_mode():
            hidden_BTD = self._model.base_model(
                input_ids=batch.input_ids_BT.to(device),
                attention_mask=mask_BT,
                position_ids=batch.position_ids_BT.to(device),
                use_cache=False,
            ).last_hidden_state
            last_B = mask_BT.cumsum(dim=1).argmax(dim=1)
            last_BD = hidden_BTD[torch.arange(len(sequences), device=device), last_B]
            scores_BK = self._model.score(last_BD).float().cpu().numpy()
        scores_SK: FloatArray = scores_BK[[span.row for span in spans]].astype(np.float64)
        return scores_SK

    def conclude(self, scores_K: FloatArray, target: Target) -> Scores:
        """Unsafe iff the largest calibrated p_k is above 0.5; the jailbreak category is the attack score of prompts."""
        p_K = self._calibrations.apply(scores_K).tolist()
        return Scores(
            flagged=max(p_K) > 0.5,
            p_harm=max(p_K),
            p_attack=p_K[-1] if target == "prompt" else None,
            categories=dict(zip(self.codes, p_K, strict=True)),
        )


def fit_category_calibrations(
    scores_NK: FloatArray, labels_NK: NDArray[np.integer], *, split: str, max_fpr: float | None = None
) -> dict[str, Calibration]:
    """Calibrate each category on a named development split.

    Args:
        scores_NK: raw scores, from ``DuoGuard.raw_scores``.
        labels_NK: 1, 0, or negative for unknown; unknown labels count for nothing.
        split: name of the development split.
        max_fpr: see ``fit_calibration``.

    Returns:
        Code to calibration, without the categories that have no known positive or no known negative.

    Raises:
        MetricError: as ``fit_calibration``.
        DataError: shapes that differ, or not twelve columns.
    """
    codes = duoguard_codes()
    if scores_NK.shape != labels_NK.shape or scores_NK.shape[1:] != (len(codes),):
        raise DataError(
            f"scores of shape `{scores_NK.shape}` and labels of shape `{labels_NK.shape}`, not (N, 12) both"
        )
    fitted = {}
    for column, code in enumerate(codes):
        known_N = labels_NK[:, column] >= 0
        labels = labels_NK[known_N, column]
        if 0 < labels.sum() < len(labels):
            fitted[code] = fit_calibration(scores_NK[known_N, column], labels, split=split, max_fpr=max_fpr)
    return fitted


def save_calibrations(path: Path, calibrations: Mapping[str, Calibration]) -> None:
    """Write calibrations as JSON, atomically."""
    atomic_write_json(path, {code: calibration.model_dump() for code, calibration in calibrations.items()})


def load_calibrations(path: Path) -> dict[str, Calibration]:
    """Read what ``save_calibrations`` wrote.

    Raises:
        NotFoundError: no such file.
        ConfigError: not calibrations; names the field.
    """
    try:
        return _CALIBRATIONS.validate_python(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{field}: {first['msg']}", where=str(path), hint="Fit the calibrations again.") from error


def _load_tokenizer(model: ModelRef, given: ModelRef | None) -> Tokenizer:
    try:
        return load_fast_tokenizer(given or model)
    except NotFoundError as error:
        if given is not None:
            raise
        raise NotFoundError(
            "the checkpoint has no tokenizer",
            where=str(model),
            hint="Name the folder or hub id of the base model's: `tokenizer=...`, or `--set duoguard.tokenizer=...` on "
            "the command line.",
        ) from error


def sequence_prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What the tokenizer puts in front of a text: nothing for Qwen2, beginning-of-sequence for Llama.

    Raises:
        ConfigError: it puts something behind a text too, where a decoder classifier is read.
    """
    whole: list[int] = tokenizer.encode("a").ids
    bare: list[int] = tokenizer.encode("a", add_special_tokens=False).ids
    if whole[len(whole) - len(bare) :] != bare:
        raise ConfigError(
            "the tokenizer appends tokens to a text, where a decoder classifier would be read",
            where="tokenizer",
            hint="Give the tokenizer of the decoder that the classifier was trained from.",
        )
    return tuple(whole[: len(whole) - len(bare)])


def _check_head(model: Any, categories: int) -> None:
    head = getattr(model, "score", None)
    outputs = getattr(head, "out_features", None)
    if outputs != categories:
        raise ConfigError(
            f"the head has `{outputs}` outputs, taxonomy `{TAXONOMY}` has {categories} categories",
            where="model",
            hint="Give a checkpoint of this family; a head of another size is never replaced.",
        )


def _check_length(model: Any, window: int) -> None:
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and window > longest:
        raise ConfigError(f"a window of `{window}` tokens is longer than the model's {longest}", where="window")


def _in_order(calibrations: Mapping[str, Calibration], codes: Sequence[str]) -> list[Calibration]:
    if unknown := [code for code in calibrations if code not in codes]:
        raise ConfigError(f"a calibration of `{unknown[0]}`, which is no category of `{TAXONOMY}`", where="calibration")
    return [calibrations.get(code, _UNFITTED) for code in codes]
