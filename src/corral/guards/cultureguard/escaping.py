"""What a quoted message must not be able to write in a CultureGuard prompt.

The blocks and speakers are Llama Guard's, so its ``escape`` takes care of them; here come the reply's heading, the
place where the answer begins, and a line that begins like an answer.
"""

from __future__ import annotations

from typing import Final

from corral.guards.cultureguard.answers import KEYS
from corral.guards.llama_guard.escaping import escape as escape_blocks
from corral.guards.prompted.escaping import BLANK, COLON, pattern_of, quote_line_starts, spelled

ANSWER_HEADING: Final = "Output JSON"
_QUOTE: Final = f"(?:[\"'\u201c\u201d\uff02]{BLANK}*)?"
_STRUCTURE: Final = pattern_of(
    f"(?:{spelled('response')}|{spelled(ANSWER_HEADING)}){BLANK}*{COLON}",
    # An answer's first key, behind its brace or not; the brace or quotation mark is where the line starts.
    f"(?:[{{\uff5b]{BLANK}*)?{_QUOTE}(?:{'|'.join(map(spelled, KEYS))}){BLANK}*{_QUOTE}{COLON}",
)


def escape(text: str) -> str:
    """The text with nothing in it that could open or close a block, speak as another, or answer; twice is once."""
    return quote_line_starts(escape_blocks(text), _STRUCTURE)
