"""Whether style alone tells the two sides of pairs apart: a bag of words, cross-validated by base request.

Where it does, preference training may learn the style and not the matter (arXiv 2504.02193).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from corral.core.stats import Estimate, cluster_bootstrap
from corral.core.weighted import auroc
from corral.redteam.egida.pairs import Pair

ALARM: Final = 0.95
_FOLDS: Final = 5
_LEAST_PAIRS: Final = 10


@dataclass(frozen=True)
class Shortcut:
    """How well a bag of words knows the preferred side.

    Attributes:
        auroc: over held-out folds, base requests resampled; without a value for fewer than ten pairs.
        alarm: it lies above 0.95.
    """

    auroc: Estimate
    alarm: bool


def style_shortcut(pairs: Sequence[Pair], *, seed: int = 0) -> Shortcut:
    """Cross-validated AUROC of a logistic regression over word 1-2-grams; the pairs of a base request share a fold.

    Args:
        pairs: chosen sides are the positives, rejected ones the negatives.
        seed: of the intervals.
    """
    groups = [pair.instance.base.id for pair in pairs]
    if len(pairs) < _LEAST_PAIRS or len(set(groups)) < _FOLDS:
        return Shortcut(Estimate(None, None, None, len(pairs), len(set(groups)), rule="too few pairs"), alarm=False)
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    labels = np.tile([1, 0], len(pairs))
    doubled = np.repeat(groups, 2)
    scores = np.zeros(len(texts))
    for train, test in GroupKFold(n_splits=_FOLDS).split(texts, labels, doubled):
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, tokenizer=str.split, token_pattern=None)
        fitted = LogisticRegression(max_iter=1000).fit(words.fit_transform([texts[i] for i in train]), labels[train])
        scores[test] = fitted.decision_function(words.transform([texts[i] for i in test]))
    found = cluster_bootstrap(auroc(labels, scores), doubled.tolist(), seed=seed, rule="5 folds, requests resampled")
    return Shortcut(found, alarm=(found.value or 0.0) > ALARM)
