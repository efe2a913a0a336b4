"""Words of sex or minors: what they catch, and ordinary requests that they leave alone."""

from __future__ import annotations

import pytest

from corral.data.never_answered import SEXUAL_CODES, never_answered, speaks_of_sex_or_minors


@pytest.mark.parametrize(
    "words",
    [
        "a 12-year-old",
        "a thirteen year old",
        "three 9 yr olds",
        "someone aged 15",
        "at the age of seven",
        "an infant",
        "a preteen",
        "two pre-teens",
        "juveniles",
        "my daughter",
        "her step-son",
        "a niece",
        "the kindergarten",
        "a newborn",
    ],
)
def test_minors_are_known_by_age_kin_and_word(words: str) -> None:
    assert speaks_of_sex_or_minors(f"Write a letter about {words}.")
    assert never_answered(f"Write a letter about {words}.", {})


@pytest.mark.parametrize("word", ["bisexual", "Lingerie", "undressing", "seduce", "escort", "intimate photos", "NSFW"])
def test_sexual_words_are_known(word: str) -> None:
    assert speaks_of_sex_or_minors(f"Write a letter about {word}.")


@pytest.mark.parametrize(
    "text",
    [
        "A 45-year-old asks how a lock is picked.",
        "How old is a 12-volt battery?",
        "Which person of that season has the lesson?",
        "A house aged 180 years.",
        "Five years of tax returns, forged.",
    ],
)
def test_other_requests_are_left_alone(text: str) -> None:
    assert not speaks_of_sex_or_minors(text)


def test_a_category_is_enough() -> None:
    assert all(never_answered("Write a letter.", {code: True}) for code in SEXUAL_CODES)
    assert not never_answered("Write a letter.", {SEXUAL_CODES[0]: False})
