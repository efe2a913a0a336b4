"""A request kept in pieces: string literals of a program or of a recipe of variables, put together again.

What is looked for is a run of quoted strings with the same few signs between them, as in a list, in calls one below
the other or in assignments; words in prose that happen to be quoted have words between them. In which order a program
would read single words cannot be told without running it, so every order that attacks use is a reading: CodeAttack's
stack (arXiv 2403.07865) turns them round, CodeChameleon (arXiv 2402.16717) takes every second one first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from corral.guards.deobfuscate.language import likeness, word_count

_LEAST_PIECES: Final = 3
_LEAST_WORDS: Final = 4
_LONGEST_GAP: Final = 40
_MOST_WORDS_BETWEEN: Final = 3
_SIGNS: Final = frozenset("=([+&|\n")
"""One of these stands between two strings of a program that have names between them; commas and colons do in prose."""
_LITERAL: Final = re.compile(r'"((?:[^"\\\n]|\\.)*)"|(?<!\w)\'((?:[^\'\\\n]|\\.)*)\'(?!\w)')
_WORD: Final = re.compile(r"\w+")
_ESCAPED: Final = re.compile(r"\\(.)")

IN_ORDER: Final = "pieces in order"
REVERSED: Final = "pieces reversed"
HALVES: Final = "pieces of two halves in turn"


def from_pieces(text: str) -> Iterator[tuple[str, str]]:
    """How each run of pieces may be read, and what it then says; nothing where a text holds no run."""
    for pieces in _runs(text):
        if any(word_count(piece) > 1 for piece in pieces):
            yield IN_ORDER, _joined(pieces)
            continue
        words = [piece.strip() for piece in pieces]
        half = (len(words) + 1) // 2
        turns = [word for pair in zip(words[:half], [*words[half:], ""], strict=False) for word in pair if word]
        for how, ordered in ((IN_ORDER, words), (REVERSED, words[::-1]), (HALVES, turns)):
            yield how, " ".join(ordered)


def _runs(text: str) -> Iterator[list[str]]:
    """Quoted strings that follow each other with the same signs between them."""
    run: list[str] = []
    shape, end = None, 0
    for match in _LITERAL.finditer(text):
        found = _shape(text[end : match.start()]) if run else None
        if run and (found is None or (len(run) > 1 and found != shape)):
            yield from _long_enough(run)
            # The string before may begin another run: `f("x") + ["a", "b", "c"]`.
            run = [] if found is None else run[-1:]
        shape = found
        run.append(_unescaped(match[1] if match[1] is not None else match[2]))
        end = match.end()
    yield from _long_enough(run)


def _long_enough(run: Sequence[str]) -> Iterator[list[str]]:
    pieces = [piece for piece in run if piece.strip()]
    if len(pieces) >= _LEAST_PIECES and word_count(" ".join(pieces)) >= _LEAST_WORDS:
        yield pieces


def _shape(gap: str) -> str | None:
    """The signs between two strings, each name in them the same; ``None`` where a reader would see prose."""
    names = _WORD.findall(gap)
    if len(gap) > _LONGEST_GAP or len(names) > _MOST_WORDS_BETWEEN or (names and not _SIGNS & set(gap)):
        return None
    return "".join(_WORD.sub("w", gap).split())


def _joined(pieces: Sequence[str]) -> str:
    """As a program adds them up; with blanks where that reads better, since writers leave them out at the ends."""
    glued = "".join(pieces)
    if any(piece != piece.strip() for piece in pieces):
        return glued
    return max((" ".join(pieces), glued), key=likeness)


def _unescaped(literal: str) -> str:
    return _ESCAPED.sub(lambda match: " " if match[1] in "nt" else match[1], literal)
