"""Requests that no model is asked to answer here, not even for a rejected or masked side: sexual ones, and minors.

Training data may hold a harmful answer as context that is read and not learnt. Of these requests it holds none: they
are left out of such data, or answered with a refusal and nothing else. The words cast wide on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

SEXUAL_CODES: Final = ("llama_guard_3/S3", "llama_guard_3/S4", "llama_guard_3/S12")
_MINORS: Final = re.compile(
    r"\b(child\w*|kids?|minors?|teen\w*|under-?age\w*|girls?|boys?|school\w*|pupils?|students?|toddlers?|bab(y|ies)|young)\b",
    re.IGNORECASE,
)
_SEXUAL: Final = re.compile(
    r"\b(sex\w*|rap(e[ds]?|ing|ist\w*)|porn\w*|nud(e|es|ity)|naked|erotic\w*|incest\w*|molest\w*|p(a)?edo\w*|genital\w*|"
    r"prostitut\w*|orgasm\w*|fetish\w*)\b",
    re.IGNORECASE,
)


def never_answered(text: str, categories: Mapping[str, bool]) -> bool:
    """Whether a harmful request is of a sexual category or speaks of minors."""
    return any(categories.get(code) for code in SEXUAL_CODES) or bool(_MINORS.search(text))


def speaks_of_sex_or_minors(text: str) -> bool:
    """The same by words alone, for texts that no category is known of."""
    return bool(_SEXUAL.search(text) or _MINORS.search(text))
