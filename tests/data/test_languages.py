"""Languages are told apart by the optional package, and what it cannot tell is unknown rather than guessed."""

from __future__ import annotations

import sys

import pytest

from corral.core.errors import MissingDependencyError
from corral.data import languages
from corral.data.languages import UNKNOWN, NoIdentifier, Py3LangId, find_identifier


def test_common_languages_are_told_apart() -> None:
    pytest.importorskip("py3langid")
    texts = {
        "en": "Could you please tell me how to bake a loaf of bread at home?",
        "de": "Kannst du mir bitte sagen, wie ich zu Hause ein Brot backen kann?",
        "fr": "Pourriez-vous m'expliquer comment faire du pain à la maison ?",
        "es": "¿Podrías decirme cómo se hace el pan en casa, por favor?",
        "pt": "Você poderia me dizer como se faz pão em casa, por favor?",
        "it": "Potresti dirmi come si prepara il pane in casa, per favore?",
        "nl": "Kun je me alsjeblieft vertellen hoe ik thuis een brood kan bakken?",
        "zh": "请告诉我如何在家里烤面包，需要哪些材料？",
    }
    assert Py3LangId().identify(list(texts.values())) == list(texts)


def test_what_is_too_short_or_no_language_is_unknown() -> None:
    pytest.importorskip("py3langid")
    assert Py3LangId().identify(["", "ok", "1 + 2 = 3", "🙂🙂🙂", "x = f(y)[0]"]) == [UNKNOWN] * 5


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    pytest.importorskip("py3langid")
    german = "Das ist ein ganz gewöhnlicher deutscher Satz. " * 60
    assert Py3LangId().identify([german + "and then English " * 10_000]) == ["de"]


def test_without_the_package_nothing_is_told_apart_and_asking_for_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    languages._model.cache_clear()
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MissingDependencyError, match="corral\\[languages\\]"):
        Py3LangId()
    assert isinstance(find_identifier(), NoIdentifier)
    assert find_identifier().identify(["Das ist ein deutscher Satz."]) == [UNKNOWN]
    languages._model.cache_clear()
