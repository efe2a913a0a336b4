"""Keeping evaluation text out of training rows: exact prompts, and long runs of words in common.

A training text is contaminated when its normalised form equals an evaluation text's, or when both share a run of
``run_words`` consecutive words. Runs are kept as 64-bit hashes: a false match costs a training row, never the reverse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b

from corral.data.examples import normalise_prompt


class EvaluationIndex:
    """Knows the evaluation texts that training must not have seen.

    Args:
        texts: evaluation texts.
        run_words: a shared run of this many words counts as contamination; shorter texts match only whole.
    """

    def __init__(self, texts: Iterable[str], *, run_words: int = 10) -> None:
        self._run_words = run_words
        self._whole: set[int] = set()
        self._runs: set[int] = set()
        for text in texts:
            words = normalise_prompt(text).split()
            self._whole.add(_hash(words))
            self._runs.update(self._run_hashes(words))

    def contaminated(self, text: str) -> bool:
        """Whether ``text`` repeats an evaluation text or a long run of one."""
        words = normalise_prompt(text).split()
        return _hash(words) in self._whole or any(run in self._runs for run in self._run_hashes(words))

    def _run_hashes(self, words: list[str]) -> Iterator[int]:
        for start in range(len(words) - self._run_words + 1):
            yield _hash(words[start : start + self._run_words])


def _hash(words: list[str]) -> int:
    return int.from_bytes(blake2b(" ".join(words).encode(), digest_size=8).digest(), "big")
