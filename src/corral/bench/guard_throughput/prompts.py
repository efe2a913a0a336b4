"""The prompts that dtypes are compared on: real ones where the data set is there, self-written ones elsewhere."""

from __future__ import annotations

from itertools import islice
from typing import Final, NamedTuple

from corral.bench.requests import benign_requests
from corral.core.errors import NotFoundError

REAL_SOURCE: Final = "toxicchat"
SELF_WRITTEN: Final = "self-written"
_WORDS: Final = range(5, 61)


class AccuracyPrompts(NamedTuple):
    """Texts, and the data set that they are from."""

    texts: list[str]
    source: str

    @property
    def real(self) -> int:
        """How many of them somebody sent to a chat model."""
        return len(self.texts) if self.source == REAL_SOURCE else 0


def accuracy_prompts(count: int, *, seed: int) -> AccuracyPrompts:
    """The first ``count`` distinct prompts of 5 to 60 words of ToxicChat, in its order; fewer if it has fewer.

    Without the data set, as many self-written requests of the same lengths.
    """
    from corral.data.sources.loading import load_source

    try:
        rows = load_source(REAL_SOURCE)
    except NotFoundError:
        texts = benign_requests(count, shortest=_WORDS[0], longest=_WORDS[-1], seed=seed)
        return AccuracyPrompts(texts, SELF_WRITTEN)
    prompts = (row.conversation.messages[0].text.strip() for row in rows)
    distinct = dict.fromkeys(text for text in prompts if len(text.split()) in _WORDS)
    return AccuracyPrompts(list(islice(distinct, count)), REAL_SOURCE)
