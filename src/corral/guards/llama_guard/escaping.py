"""What a quoted message must not be able to write in a Llama Guard prompt.

``escape`` gives delimiters square brackets, role prefixes at the start of a line a quotation mark, and control tokens a
space. What is left cannot be read as structure, and neither can any part of it, since a turn's text never starts a line
of the prompt; so escaped text may be cut into windows.
"""

from __future__ import annotations

from typing import Final

from corral.guards.prompted.escaping import (
    BLANK,
    COLON,
    break_control_tokens,
    pattern_of,
    quote_line_starts,
    spelled,
)

BEGIN_CATEGORIES: Final = "<BEGIN UNSAFE CONTENT CATEGORIES>"
END_CATEGORIES: Final = "<END UNSAFE CONTENT CATEGORIES>"
BEGIN_CONVERSATION: Final = "<BEGIN CONVERSATION>"
END_CONVERSATION: Final = "<END CONVERSATION>"
DELIMITERS: Final = (BEGIN_CATEGORIES, END_CATEGORIES, BEGIN_CONVERSATION, END_CONVERSATION)
ROLES: Final = ("User", "Agent")

_DELIMITER: Final = pattern_of(*map(spelled, DELIMITERS))
_ROLE_PREFIX: Final = pattern_of(f"(?:{'|'.join(ROLES)}){BLANK}*{COLON}")


def escape(text: str) -> str:
    """The text with nothing in it that could close a block, open a turn or end the prompt; escaping twice is once.

    Linear in the length of the text. Substrings of the result are safe too.
    """
    text = _DELIMITER.sub(lambda match: f"[{match[0][1:-1]}]", text)
    return quote_line_starts(break_control_tokens(text), _ROLE_PREFIX)


def escape_line(text: str) -> str:
    """The same for text that has to stay on one line: runs of blanks become one space."""
    return escape(" ".join(text.split()))
