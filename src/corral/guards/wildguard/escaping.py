"""What a quoted message must not be able to write in a WildGuard prompt.

At the start of a line: the headings of the blocks and of earlier turns, the rule that ends the conversation, and an
answer. Anywhere: control tokens. A piece cut from escaped text has to be escaped again, since it starts a line where it
is put.
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
from corral.guards.wildguard.answers import LINES

HUMAN: Final = "Human user"
ASSISTANT: Final = "AI assistant"
ANSWERS: Final = "Answers"
EARLIER_USER: Final = "Earlier user turn"
EARLIER_ASSISTANT: Final = "Earlier assistant turn"
JUDGED_USER: Final = "Judged user turn"
RULE: Final = "---"

_HEADINGS: Final = (HUMAN, ASSISTANT, ANSWERS, EARLIER_USER, EARLIER_ASSISTANT, JUDGED_USER, *LINES)
_DASH: Final = "[-\u2010-\u2015\u2212\ufe58\ufe63\uff0d]"
_STRUCTURE: Final = pattern_of(
    f"(?:{'|'.join(map(spelled, _HEADINGS))}){BLANK}*{COLON}", f"{_DASH}(?:{BLANK}*{_DASH}){{2}}"
)


def escape(text: str) -> str:
    """The text with nothing in it that could open or close a block, answer, or end the prompt; twice is once."""
    return quote_line_starts(break_control_tokens(text), _STRUCTURE)
