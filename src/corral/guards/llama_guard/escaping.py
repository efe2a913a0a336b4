"""Making text harmless to the prompt that quotes it.

A judged message is data between delimiters. If it could write ``<END CONVERSATION>``, open a turn with ``Agent:`` at
the start of a line, or spell a chat template's control token, it would speak with the prompt's voice. ``escape``
changes just those spots: delimiters get square brackets, role prefixes at the start of a line a quotation mark, control
tokens a space. What is left cannot be read as structure, and neither can any part of it, so escaped text may be cut
into windows. Wording that merely imitates instructions is content, and is judged as such.
"""

from __future__ import annotations

import re
from typing import Final

BEGIN_CATEGORIES: Final = "<BEGIN UNSAFE CONTENT CATEGORIES>"
END_CATEGORIES: Final = "<END UNSAFE CONTENT CATEGORIES>"
BEGIN_CONVERSATION: Final = "<BEGIN CONVERSATION>"
END_CONVERSATION: Final = "<END CONVERSATION>"
DELIMITERS: Final = (BEGIN_CATEGORIES, END_CATEGORIES, BEGIN_CONVERSATION, END_CONVERSATION)
ROLES: Final = ("User", "Agent")

# Blanks and characters that are not seen: a reader, and perhaps a model, looks past them.
_BLANK: Final = r"[\s\u00ad\u200b-\u200f\u2060-\u2064\ufeff]"
_LINE_BREAKS: Final = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")


def _spelled(word: str) -> str:
    """A pattern for the letters of a word with anything blank between them."""
    return f"{_BLANK}*".join(re.escape(letter) for letter in word if letter != " ")


_DELIMITER: Final = re.compile("|".join(_spelled(delimiter) for delimiter in DELIMITERS), re.IGNORECASE)
# Llama 2's markers are ordinary text to its tokenizer, so no tokenizer can be trusted to tell them apart.
_CONTROL: Final = re.compile(r"<(?=\|)|\|(?=>)|[<\[](?=/?INST\]|</?SYS>>|/?(?:s|unk|pad|bos|eos)>)")
_ROLE_PREFIX: Final = re.compile(f"(?:{'|'.join(ROLES)}){_BLANK}*[:\uff1a]", re.IGNORECASE)
_ONE_BLANK: Final = re.compile(_BLANK)


def escape(text: str) -> str:
    """The text with nothing in it that could close a block, open a turn or end the prompt; escaping twice is once.

    Linear in the length of the text. Substrings of the result are safe too.
    """
    text = _DELIMITER.sub(lambda match: f"[{match[0][1:-1]}]", text)
    text = _CONTROL.sub(lambda match: f"{match[0]} ", text)
    return _ROLE_PREFIX.sub(lambda match: f"> {match[0]}" if _starts_line(text, match.start()) else match[0], text)


def escape_line(text: str) -> str:
    """The same for text that has to stay on one line: runs of blanks become one space."""
    return escape(" ".join(text.split()))


def _starts_line(text: str, position: int) -> bool:
    """Only blanks between ``position`` and the line's start, which the text's own start counts as."""
    while position > 0 and _ONE_BLANK.match(text, position - 1):
        position -= 1
        if text[position] in _LINE_BREAKS:
            return True
    return position == 0
