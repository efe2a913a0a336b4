"""The baseline that a guard must beat: bags of word and character n-grams under logistic regression.

Four independent linear heads (prompt harm, attack, response harm, refusal) are fitted to the very rows that the guard
was trained on, and calibrated on its development rows by the same rule (``guards/calibration``), so that what the guard
scores above the baseline is owed neither to its data nor to its thresholds.

Texts are hashed, so no vocabulary is kept; the hash is the same on every machine, and so is the fit: the same rows in
the same order give the same revision.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from corral.core.errors import DataError, MetricError
from corral.data.examples import ModerationExample
from corral.data.messages import TARGETS, Conversation, Target, TargetChoice
from corral.guards.base import Status, Verdict
from corral.guards.calibration import Calibration, fit_calibration

Floats: TypeAlias = npt.NDArray[np.float64]
Labels: TypeAlias = npt.NDArray[np.int8]
SparseRows: TypeAlias = Any
"""A SciPy CSR matrix; SciPy ships no types."""

_BUCKETS: Final = 2**18
_INVERSE_REGULARISATION: Final = 4.0


@dataclass(frozen=True, slots=True)
class _Question:
    """One head: which rows it learns from and under which label."""

    target: Target
    label: str


_QUESTIONS: Final[Mapping[str, _Question]] = {
    "prompt_harm": _Question("prompt", "harmful"),
    "prompt_attack": _Question("prompt", "attack"),
    "response_harm": _Question("response", "harmful"),
    "response_refusal": _Question("response", "refusal"),
}


class _TextFeatures:
    """TF-IDF of hashed word 1-2-grams and character 3-5-grams within words, each block of unit length."""

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

        counts = {"n_features": _BUCKETS, "alternate_sign": False, "norm": None, "dtype": np.float32}
        self._counters = (
            HashingVectorizer(ngram_range=(1, 2), **counts),
            HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), **counts),
        )
        self._weighings = tuple(TfidfTransformer(sublinear_tf=True) for _ in self._counters)

    def fit(self, texts: Sequence[str]) -> SparseRows:
        """Learn document frequencies and return the features, (rows, 2 * buckets)."""
        pairs = zip(self._counters, self._weighings, strict=True)
        return _stacked([weighing.fit_transform(counter.transform(texts)) for counter, weighing in pairs])

    def transform(self, texts: Sequence[str]) -> SparseRows:
        """Features of new texts under the learned frequencies."""
        pairs = zip(self._counters, self._weighings, strict=True)
        return _stacked([weighing.transform(counter.transform(texts)) for counter, weighing in pairs])


class _Features:
    """Features of the judged message, and for a response those of the prompt it answers beside them."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._blocks = [_TextFeatures() for _ in ("judged", "answered")[: 1 if target == "prompt" else 2]]

    def fit(self, conversations: Sequence[Conversation]) -> SparseRows:
        texts = self._texts(conversations)
        return _stacked([block.fit(column) for block, column in zip(self._blocks, texts, strict=True)])

    def transform(self, conversations: Sequence[Conversation]) -> SparseRows:
        texts = self._texts(conversations)
        return _stacked([block.transform(column) for block, column in zip(self._blocks, texts, strict=True)])

    def _texts(self, conversations: Sequence[Conversation]) -> list[list[str]]:
        judged = [_text(conversation, self._target) for conversation in conversations]
        if self._target == "prompt":
            return [judged]
        return [judged, [_text(conversation, "prompt") for conversation in conversations]]


@dataclass(frozen=True, slots=True)
class _LinearHead:
    """Weights over features, a bias, and what makes probabilities of the sum."""

    weights: Floats
    bias: float
    calibration: Calibration = Calibration()  # noqa: RUF009 (frozen)

    def logits(self, features: SparseRows) -> Floats:
        return np.asarray(features @ self.weights + self.bias, dtype=np.float64)

    def probabilities(self, features: SparseRows) -> Floats:
        return self.calibration.apply(self.logits(features))


class BagOfWordsGuard:
    """A guard of linear heads over n-grams; made by ``train_bag_of_words``.

    A head whose label no training row had, or had with one value only, is missing, and its score is ``None``.
    """

    name = "bag-of-words"
    taxonomy = ""

    def __init__(self, features: Mapping[Target, _Features], heads: Mapping[str, _LinearHead]) -> None:
        self._features = features
        self._heads = heads
        digest = hashlib.sha256()
        for name, head in heads.items():
            settings = f"{name} {head.bias!r} {head.calibration.model_dump_json()} "
            digest.update(settings.encode() + head.weights.tobytes())
        self._revision = digest.hexdigest()[:16]

    @property
    def revision(self) -> str:
        """Hash of all weights."""
        return self._revision

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads there are, as in a default guard: ``prompt_harm`` and so on."""
        return tuple(self._heads)

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``."""
        targets = [conversation.target(target) for conversation in conversations]
        verdicts: list[Verdict | None] = [None] * len(targets)
        for each in TARGETS:
            wanted = [i for i, found in enumerate(targets) if found == each]
            for i, verdict in zip(wanted, self._judge([conversations[i] for i in wanted], each), strict=True):
                verdicts[i] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response; see ``Guard.classify_both``."""
        found: list[dict[Target, Verdict]] = [{} for _ in conversations]
        for target in TARGETS:
            present = [i for i, c in enumerate(conversations) if c.judged_index(target) is not None]
            for i, verdict in zip(present, self._judge([conversations[i] for i in present], target), strict=True):
                found[i][target] = verdict
        return found

    def _judge(self, conversations: Sequence[Conversation], target: Target) -> list[Verdict]:
        if not conversations:
            return []
        started = time.perf_counter()
        names = [name for name, question in _QUESTIONS.items() if question.target == target and name in self._heads]
        if not names:
            return [self._failed(target, f"no training row had a label of a {target}") for _ in conversations]
        features = self._features[target].transform(conversations)
        scores = {_QUESTIONS[name].label: self._heads[name].probabilities(features) for name in names}
        each_ms = (time.perf_counter() - started) * 1000 / len(conversations)
        return [
            self._failed(target, f"there is no {target} to judge")
            if conversation.judged_index(target) is None
            else self._verdict(target, {label: float(column[i]) for label, column in scores.items()}, each_ms)
            for i, conversation in enumerate(conversations)
        ]

    def _failed(self, target: Target, detail: str) -> Verdict:
        return Verdict.failed(target, self.name, self.revision, Status.ERROR, detail)

    def _verdict(self, target: Target, scores: Mapping[str, float], latency_ms: float) -> Verdict:
        return Verdict(
            target,
            self.name,
            self.revision,
            flagged=max(scores.get("harmful", 0.0), scores.get("attack", 0.0)) >= 0.5,
            p_harm=scores.get("harmful"),
            p_refusal=scores.get("refusal"),
            p_attack=scores.get("attack"),
            latency_ms=latency_ms,
        )


def train_bag_of_words(
    rows: Iterable[ModerationExample],
    development: Iterable[ModerationExample] = (),
    *,
    max_fpr: Mapping[str, float] = MappingProxyType({}),
    split: str = "development rows",
    seed: int = 0,
) -> BagOfWordsGuard:
    """Fit the baseline to the rows that a guard was trained on.

    Args:
        rows: training rows; an unknown label is left out of its head alone.
        development: rows to calibrate on; a head without both labels there keeps its natural boundary.
        max_fpr: by head, the largest false-positive rate on the development rows at 0.5; the best F1 where not given.
        split: name of the development rows, for the record.
        seed: of the solver.

    Raises:
        DataError: no label occurs with both values.
    """
    training, held_out = _by_target(rows), _by_target(development)
    features: dict[Target, _Features] = {}
    heads: dict[str, _LinearHead] = {}
    for target, members in training.items():
        features[target] = _Features(target)
        matrix = features[target].fit([row.conversation for row in members])
        held = held_out.get(target, [])
        held_matrix = features[target].transform([row.conversation for row in held]) if held else None
        for name, question in _QUESTIONS.items():
            if question.target != target:
                continue
            head = _fit_head(matrix, _labels(members, question.label), seed)
            if head is not None and held_matrix is not None:
                labels = _labels(held, question.label)
                head = _calibrated(head, held_matrix, labels, split=split, max_fpr=max_fpr.get(name))
            if head is not None:
                heads[name] = head
    if not heads:
        raise DataError("no label occurs with both values", hint="Give rows of both kinds for at least one label.")
    return BagOfWordsGuard(features, heads)


def _fit_head(matrix: SparseRows, labels: Labels, seed: int) -> _LinearHead | None:
    """A head for labels in {1, 0, -1 unknown}, or ``None`` when one of the two values does not occur."""
    known = labels >= 0
    return _logistic_regression(matrix[known], labels[known], seed) if _both(labels[known]) else None


def _calibrated(
    head: _LinearHead, matrix: SparseRows, labels: Labels, *, split: str, max_fpr: float | None
) -> _LinearHead:
    known = labels >= 0
    if not _both(labels[known]):
        return head
    try:
        fitted = fit_calibration(head.logits(matrix[known]), labels[known], split=split, max_fpr=max_fpr)
    except MetricError:  # scores that do not rise with the label: the natural boundary is the better choice
        return head
    return replace(head, calibration=fitted)


def _logistic_regression(matrix: SparseRows, labels: Labels, seed: int) -> _LinearHead:
    from sklearn.linear_model import LogisticRegression

    # the dual solver is several times faster on sparse rows with more features than rows
    model = LogisticRegression(
        solver="liblinear", dual=True, C=_INVERSE_REGULARISATION, class_weight="balanced", random_state=seed
    )
    model.fit(matrix, labels)
    return _LinearHead(np.asarray(model.coef_[0], dtype=np.float64), float(model.intercept_[0]))


def _by_target(rows: Iterable[ModerationExample]) -> dict[Target, list[ModerationExample]]:
    found: dict[Target, list[ModerationExample]] = {}
    for row in rows:
        found.setdefault(row.target, []).append(row)
    return found


def _labels(rows: Sequence[ModerationExample], name: str) -> Labels:
    """(N,) 1, 0 or -1 for unknown."""
    values = [getattr(row, name) for row in rows]
    return np.array([-1 if value is None else int(value) for value in values], dtype=np.int8)


def _both(labels: Labels) -> bool:
    return len(np.unique(labels)) == 2


def _text(conversation: Conversation, target: Target) -> str:
    index = conversation.judged_index(target)
    return "" if index is None else conversation.messages[index].text


def _stacked(blocks: Sequence[SparseRows]) -> SparseRows:
    from scipy.sparse import hstack

    return blocks[0] if len(blocks) == 1 else hstack(blocks, format="csr")
