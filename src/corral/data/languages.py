"""Which language a text is in, by a small packaged model; unknown is an answer.

The model is py3langid's (naive Bayes over byte n-grams, Lui and Baldwin 2012, 139 languages), an optional package
without dependencies beyond numpy. Its model file is a numpy archive read without pickle.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any, Final, Protocol

from corral.core.errors import MissingDependencyError

UNKNOWN: Final = ""
LEAST_CONFIDENCE: Final = 0.6
LEAST_LETTERS: Final = 10
READ_CHARACTERS: Final = 2000
"""A language shows in the first lines; reading on costs time and changes little."""
_NOT_LANGUAGES: Final = frozenset({"und", "zxx"})
_LETTER: Final = re.compile(r"[^\W\d_]")


class LanguageIdentifier(Protocol):
    """Tells languages apart."""

    @property
    def name(self) -> str:
        """Name and version: what was told apart by another identifier may be told apart otherwise."""

    def identify(self, texts: Sequence[str]) -> list[str]:
        """ISO 639-1 codes (639-3 where there is none), ``UNKNOWN`` where it cannot tell; order kept."""


class NoIdentifier:
    """Tells nothing apart: every language is unknown."""

    name = "none"

    def identify(self, texts: Sequence[str]) -> list[str]:
        """``UNKNOWN`` for each text."""
        return [UNKNOWN] * len(texts)


class Py3LangId:
    """py3langid; texts of fewer than ten letters, or that it is not sure of, are unknown.

    Raises:
        MissingDependencyError: the package is not installed.
    """

    def __init__(self) -> None:
        self._model = _model()
        self.name = f"py3langid {version('py3langid')}"

    def identify(self, texts: Sequence[str]) -> list[str]:
        """See ``LanguageIdentifier.identify``."""
        return [self._one(text[:READ_CHARACTERS]) for text in texts]

    def _one(self, text: str) -> str:
        if len(_LETTER.findall(text)) < LEAST_LETTERS:
            return UNKNOWN
        language, confidence = self._model.classify(text)
        return UNKNOWN if language in _NOT_LANGUAGES or confidence < LEAST_CONFIDENCE else str(language)


def find_identifier() -> LanguageIdentifier:
    """The identifier that is installed, else the one that tells nothing apart."""
    try:
        return Py3LangId()
    except MissingDependencyError:
        return NoIdentifier()


@cache
def _model() -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "telling languages apart needs the package `py3langid`",
            hint="Install it: `pip install 'corral[languages]'`.",
        ) from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
