"""Finding objects in what a model wrote: the stretches from a brace to the one that closes it."""

from __future__ import annotations

from typing import Final

_LONGEST: Final = 20_000


def balanced_objects(text: str, *, longest: int = _LONGEST) -> list[str]:
    """Each ``{...}`` whose braces balance, outermost ones only, in the order of the text.

    Braces in string literals (double quotes, backslash escapes, inside an object) do not count, and neither does a
    brace that nothing closes; a quotation mark behind such a one may hide what follows. Reads at most ``longest``
    characters, each once.
    """
    spans: list[tuple[int, int]] = []
    opened: list[int] = []
    quoted = escaped = False
    for position, letter in enumerate(text[:longest]):
        if escaped:
            escaped = False
        elif quoted:
            escaped = letter == "\\"
            quoted = letter != '"'
        elif letter == "{":
            opened.append(position)
        elif opened and letter == '"':
            quoted = True
        elif opened and letter == "}":
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, position + 1))
    return [text[start:stop] for start, stop in spans]
