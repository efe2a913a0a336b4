"""Making text harmless to the prompt that quotes it.

A judged message is data between delimiters. If it could spell a chat template's control token, or begin a line as the
prompt begins its parts, it would speak with the prompt's voice. These pieces change just such spots: control tokens get
a space, beginnings of lines a quotation mark. Wording that merely imitates instructions is content, and is judged.
"""

from __future__ import annotations

import re
from typing import Final

# Blanks and characters that are not seen: a reader, and perhaps a model, looks past them.
BLANK: Final = r"[\s\u00ad\u200b-\u200f\u2060-\u2064\ufeff]"
COLON: Final = "[:\uff1a]"
_ONE_BLANK: Final = re.compile(BLANK)
_LINE_BREAKS: Final = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
# Llama 2's markers are ordinary text to its tokenizer, so no tokenizer can be trusted to tell them apart.
_CONTROL: Final = re.compile(r"<(?=\|)|\|(?=>)|[<\[](?=/?INST\]|</?SYS>>|/?(?:s|unk|pad|bos|eos)>)")


def spelled(word: str) -> str:
    """A pattern for the letters of a word with anything blank between them."""
    return f"{BLANK}*".join(re.escape(letter) for letter in word if letter != " ")


def pattern_of(*alternatives: str) -> re.Pattern[str]:
    """Any of these patterns, in any case."""
    return re.compile("|".join(alternatives), re.IGNORECASE)


def break_control_tokens(text: str) -> str:
    """The text with a space in everything that spells a control token."""
    return _CONTROL.sub(lambda match: f"{match[0]} ", text)


def quote_line_starts(text: str, pattern: re.Pattern[str]) -> str:
    """The text with ``> `` before matches that only blanks part from the start of a line, or of the text."""
    return pattern.sub(lambda match: f"> {match[0]}" if _starts_line(text, match.start()) else match[0], text)


def _starts_line(text: str, position: int) -> bool:
    while position > 0 and _ONE_BLANK.match(text, position - 1):
        position -= 1
        if text[position] in _LINE_BREAKS:
            return True
    return position == 0
