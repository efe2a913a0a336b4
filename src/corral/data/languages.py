"""A rough guess of the language of a text: by its script, and for the Latin script by its function words.

Enough to break statistics down by language, not to route texts by. Short and mixed texts are ``und`` (ISO 639-2 for
undetermined).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final

UNDETERMINED: Final = "und"

# Scripts (as the first word of a letter's Unicode name) that nearly always mean one language; Cyrillic and Arabic
# stand for their most frequent one.
_SCRIPTS: Final = {
    "CYRILLIC": "ru", "ARABIC": "ar", "HEBREW": "he", "GREEK": "el", "HANGUL": "ko", "HIRAGANA": "ja",
    "KATAKANA": "ja", "CJK": "zh", "THAI": "th", "DEVANAGARI": "hi", "BENGALI": "bn", "TAMIL": "ta", "TELUGU": "te",
    "GEORGIAN": "ka", "ARMENIAN": "hy",
}  # fmt: skip
_WORDS: Final = {
    "en": "the of and to in is that it for you with on are this be have how what can do your my from not i a me",
    "fr": "le la les des et est une un dans que qui pour pas sur je vous au avec ce il elle comment mon ne du",
    "de": "der die das und ist ein eine ich nicht zu mit den von wie auf für im sie es kann mein dem auch wird",
    "es": "el la los las de que y en un una es por para con no se como mi su lo cómo qué del al más",
    "it": "il lo la gli di che e un una per non con come mi sono è della nel questo posso più del ho si",
    "pt": "o a os as de que e um uma em para com não como por se do da eu meu minha é você mais no",
    "nl": "de het een en van ik is dat niet te op met voor hoe je aan zijn er die kan mijn wat om naar",
}
_VOCABULARY: Final = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_WORD: Final = re.compile(r"[^\W\d_]+")
_LEAST_SHARE: Final = 0.15


def guess_language(text: str) -> str:
    """The likely language of a text, as an ISO 639-1 code, or ``und``."""
    scripts = Counter(_script(letter) for letter in text if letter.isalpha())
    if not scripts:
        return UNDETERMINED
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > 0.1 * scripts.total():
        return "ja"  # Japanese is written with Chinese characters in between
    script, _ = scripts.most_common(1)[0]
    return _SCRIPTS.get(script) or (_by_words(text) if script == "LATIN" else UNDETERMINED)


def _script(letter: str) -> str:
    return "LATIN" if letter.isascii() else unicodedata.name(letter, "").partition(" ")[0]


def _by_words(text: str) -> str:
    words = _WORD.findall(text.casefold())
    found = {language: sum(word in known for word in words) for language, known in _VOCABULARY.items()}
    (best, count), (_, second) = sorted(found.items(), key=lambda item: -item[1])[:2]
    return best if count > second and count >= _LEAST_SHARE * len(words) else UNDETERMINED
