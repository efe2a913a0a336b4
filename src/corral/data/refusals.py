"""Whether a reply opens like a refusal: the phrase list that red-team papers use, in our own selection.

A cheap, high-precision label for training rows whose source says "does not comply" without saying how. It is no judge
of success: it misses refusals in other words and other languages.
"""

from __future__ import annotations

from typing import Final

OPENING_CHARS: Final = 160
REFUSAL_PHRASES: Final = (
    "i'm sorry",
    "i am sorry",
    "sorry, but",
    "i apologize",
    "i apologise",
    "my apologies",
    "i cannot",
    "i can't",
    "i can not",
    "i won't",
    "i will not",
    "i'm unable",
    "i am unable",
    "i'm not able",
    "i am not able",
    "i'm not going to",
    "i must decline",
    "i have to decline",
    "i refuse to",
    "it is not appropriate",
    "it's not appropriate",
    "it would be inappropriate",
    "as a responsible ai",
    "as an ethical ai",
    "against my programming",
    "against my guidelines",
)


def opens_with_refusal(text: str) -> bool:
    """Whether one of the phrases stands in the first 160 characters."""
    opening = text[:OPENING_CHARS].casefold().replace("\u2019", "'")
    return any(phrase in opening for phrase in REFUSAL_PHRASES)
