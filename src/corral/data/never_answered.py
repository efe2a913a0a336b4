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
    r"\b(child\w*|grand-?child\w*|kids?|kiddies?|minors?|(pre-?)?teen\w*|tweens?|adolescen\w*|juveniles?|youths?|infan\w*|"
    r"newborns?|orphans?|under-?age\w*|girls?|boys?|(pre-?)?school\w*|kindergart\w*|nurser\w*|"
    r"day-?care|pupils?|students?|toddlers?|bab(y|ies)|young\w*|((grand|step)-?)?(daughter|son)s?|nieces?|nephews?|"
    r"little (sister|brother|one)s?)\b",
    re.IGNORECASE,
)
_AGE: Final = (
    r"([1-9]|1[0-7]|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    r"seventeen)"
)
_MINORS_AGE: Final = re.compile(
    rf"\b{_AGE}[\s-]*(years?|yrs?)[\s-]*olds?\b|\b{_AGE}[\s-]*(yo|y/o)\b|\b(aged?|age of)[\s-]+{_AGE}\b", re.IGNORECASE
)
_SEXUAL: Final = re.compile(
    r"\b(sex\w*|\w+sexual\w*|rap(e[ds]?|ing|ist\w*)|porn\w*|nud(e|es|ity|ist\w*)|naked\w*|topless|undress\w*|upskirt\w*|"
    r"lingerie|erot\w*|incest\w*|molest\w*|groom(ed|er|ers|ing)?|grop(e[ds]?|ing)|p(a)?edo\w*|genital\w*|penis\w*|"
    r"vagina\w*|breasts?|boobs?|masturbat\w*|intercourse|ejaculat\w*|orgasm\w*|arous\w*|seduc\w*|horny|lewd\w*|fetish\w*|kinky?|"
    r"bondage|voyeur\w*|bestial\w*|necrophil\w*|prostitut\w*|brothels?|hookers?|strippers?|striptease|escorts?|hentai|"
    r"nsfw|xxx|blow ?jobs?|intimate (photo|picture|image|video)s?)\b",
    re.IGNORECASE,
)


def never_answered(text: str, categories: Mapping[str, bool]) -> bool:
    """Whether a harmful request is of a sexual category or speaks of minors."""
    return any(categories.get(code) for code in SEXUAL_CODES) or _speaks_of_minors(text)


def speaks_of_sex_or_minors(text: str) -> bool:
    """The same by words alone, for texts that no category is known of."""
    return bool(_SEXUAL.search(text) or _speaks_of_minors(text))


def _speaks_of_minors(text: str) -> bool:
    return bool(_MINORS.search(text) or _MINORS_AGE.search(text))
