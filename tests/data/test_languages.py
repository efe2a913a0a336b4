"""Guessing the language of a text."""

from __future__ import annotations

import pytest

from corral.data.languages import guess_language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I bake the bread that you made for me?", "en"),
        ("Comment faire le pain que vous avez fait pour nous ?", "fr"),
        ("Wie backe ich das Brot, und wie lange ist es im Ofen?", "de"),
        ("¿Cómo se hace el pan y qué es lo más difícil?", "es"),
        ("Come si fa il pane della nonna con il lievito?", "it"),
        ("Como eu faço um pão com fermento e o que é mais fácil?", "pt"),
        ("Hoe bak ik het brood dat je van mijn oma hebt?", "nl"),
        ("Как испечь хлеб?", "ru"),
        ("パンの作り方を教えてください", "ja"),
        ("怎么烤面包", "zh"),
        ("빵을 어떻게 굽나요", "ko"),
        ("كيف أخبز الخبز", "ar"),
        ("", "und"),
        ("12345 !!!", "und"),
        ("zxqv wkjh", "und"),
    ],
)
def test_the_language_is_guessed(text: str, language: str) -> None:
    assert guess_language(text) == language
