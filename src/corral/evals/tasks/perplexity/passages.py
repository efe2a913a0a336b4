"""Cutting text into passages, the samples of perplexity, and scoring them.

Which tokens are scored:

- ``windows``, with an engine that scores token ids. The whole text is tokenised once; a beginning-of-sequence token is
  put before it if, and only if, the tokenizer does so by itself. It is cut into windows of the stated number of tokens
  that do not overlap. The first token of each window is context and is not scored. What is left at the end, shorter
  than a window, is left out unless there is nothing else. These are the windows of the published tables (GPTQ, arXiv
  2210.17323, and its successors), whose perplexity is exp of the mean loss over windows; ours is exp of the mean over
  tokens, which is the same for windows of one length.
- ``documents``, with such an engine. Each document follows the beginning-of-sequence token (end-of-sequence for models
  without one), and every token is scored once; a document longer than the window is read in windows, each after the
  last token of the one before.
- Any other engine scores strings: pieces of at most so many bytes as the window has tokens, cut at blanks, the first
  word of each being context. Figures of the two ways differ, so the way is part of the data hash.

Bytes are those of the scored tokens' own text, so bits per byte are not flattered by tokens that were not scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Generic, Protocol, TypeVar

from corral.core.errors import EngineError
from corral.evals.tasks.perplexity.texts import TextSet
from corral.models.engines.base import CompletionLogprobs, Engine
from corral.models.scoring import TextLikelihood, TokenEngine, rolling_windows, start_token

Part = TypeVar("Part")

_BY_TOKENS: Final = "token ids"
_BY_STRINGS: Final = "strings"
_WORD: Final = re.compile(r"\s*\S+")
_LEAST_WINDOW: Final = 2


@dataclass(frozen=True, slots=True)
class Passage(Generic[Part]):
    """What one sample scores.

    Attributes:
        id: unique within its set; of a window the bytes that it covers, so that equal ids mean equal windows.
        parts: (context, scored) pairs, of token ids or of strings.
        bytes: UTF-8 bytes of all that is scored.
    """

    id: str
    parts: tuple[tuple[Part, Part], ...]
    bytes: int


class PassageScorer(Protocol):
    """Cuts and scores text for one engine.

    Attributes:
        way: how, for the data hash and the reader.
        window: tokens, or bytes, that are read at once.
    """

    way: str
    window: int

    def cut(self, texts: TextSet) -> list[Passage[Any]]:
        """The passages of a set, in order."""

    def score(self, passages: Sequence[Passage[Any]]) -> list[TextLikelihood]:
        """Likelihood of each; same length and order."""


def passage_scorer(engine: Engine, window: int) -> PassageScorer:
    """The way of scoring that the engine allows.

    Args:
        engine: the model.
        window: tokens read at once, at least 2; a shorter context of the model takes its place.
    """
    window = max(window, _LEAST_WINDOW)
    if isinstance(engine, TokenEngine):
        return TokenPassages(engine, min(window, engine.context_length))
    return StringPassages(engine, window)


class TokenPassages:
    """See the module: ``windows`` and ``documents`` of token ids."""

    way = _BY_TOKENS

    def __init__(self, engine: TokenEngine, window: int) -> None:
        self._engine = engine
        self.window = window

    def cut(self, texts: TextSet) -> list[Passage[Sequence[int]]]:
        """The passages of a set, in order.

        Raises:
            ConfigError: documents, and a tokenizer that has no token to start a text with.
        """
        return list(self._documents(texts) if texts.cut == "documents" else self._windows(texts.whole))

    def score(self, passages: Sequence[Passage[Sequence[int]]]) -> list[TextLikelihood]:
        """Likelihood of each; same length and order."""
        scored = iter(self._engine.token_logprobs([part for passage in passages for part in passage.parts]))
        return [_sum(passage, scored) for passage in passages]

    def _documents(self, texts: TextSet) -> Iterator[Passage[Sequence[int]]]:
        prefix = start_token(self._engine)
        for document in texts.documents:
            ids = self._engine.chat.encode_text(document.text)
            parts = tuple(rolling_windows(ids, prefix, window=self.window))
            yield Passage(document.id, parts, len(document.text.encode()))

    def _windows(self, text: str) -> Iterator[Passage[Sequence[int]]]:
        ids, ends = self._engine.chat.encode_text_with_ends(text)
        lead = self._engine.chat.encode_raw("")
        before = list(accumulate((len(character.encode()) for character in text), initial=0))
        # bytes[i]: how many bytes of text end with the i-th of all tokens, those of the lead having none.
        bytes_to = [0] * len(lead) + [before[end] for end in ends]
        ids = [*lead, *ids]
        for start in range(0, max(len(ids) - self.window, 0) + 1, self.window):
            stop = min(start + self.window, len(ids))
            if stop - start >= _LEAST_WINDOW:
                covered = (bytes_to[start], bytes_to[stop - 1])
                parts = ((ids[start : start + 1], ids[start + 1 : stop]),)
                yield Passage(f"{covered[0]}-{covered[1]}", parts, covered[1] - covered[0])


class StringPassages:
    """See the module: pieces of text, for engines that take strings alone."""

    way = _BY_STRINGS

    def __init__(self, engine: Engine, window: int) -> None:
        self._engine = engine
        self.window = window

    def cut(self, texts: TextSet) -> list[Passage[str]]:
        """The passages of a set, in order; documents of a single word have nothing to score and are left out."""
        return list(self._documents(texts) if texts.cut == "documents" else self._pieces(texts.whole))

    def score(self, passages: Sequence[Passage[str]]) -> list[TextLikelihood]:
        """Likelihood of each; same length and order."""
        pairs = [part for passage in passages for part in passage.parts]
        scores = self._engine.logprobs(pairs)
        if len(scores) != len(pairs):
            raise EngineError("the engine gave another number of scores than was asked for")
        scored = iter(scores)
        return [_sum(passage, scored) for passage in passages]

    def _documents(self, texts: TextSet) -> Iterator[Passage[str]]:
        for document in texts.documents:
            parts = tuple(string_pieces(document.text, self.window))
            if parts:
                yield Passage(document.id, parts, sum(len(scored.encode()) for _, scored in parts))

    def _pieces(self, text: str) -> Iterator[Passage[str]]:
        for number, part in enumerate(string_pieces(text, self.window)):
            yield Passage(str(number), (part,), len(part[1].encode()))


def string_pieces(text: str, most_bytes: int) -> Iterator[tuple[str, str]]:
    """Cut text at blanks into pieces of at most ``most_bytes`` (unless one word is longer), each as (word, rest).

    The pieces make up the text, but for blanks at its end. A last piece of a single word has no rest and is left out.
    """
    piece: list[str] = []
    size = 0
    for word in [*_WORD.findall(text), None]:
        if word is not None and (len(piece) < _LEAST_WINDOW or size + len(word.encode()) <= most_bytes):
            piece.append(word)
            size += len(word.encode())
            continue
        if len(piece) >= _LEAST_WINDOW:
            yield piece[0], "".join(piece[1:])
        if word is not None:
            piece, size = [word], len(word.encode())


def _sum(passage: Passage[Any], scored: Iterator[CompletionLogprobs]) -> TextLikelihood:
    scores = [next(scored) for _ in passage.parts]
    return TextLikelihood(
        nats=sum(score.total for score in scores),
        tokens=sum(len(score.logprobs) for score in scores),
        bytes=passage.bytes,
    )
