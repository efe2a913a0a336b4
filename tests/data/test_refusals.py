"""Replies that open like a refusal."""

from __future__ import annotations

import pytest

from corral.data.refusals import opens_with_refusal, repeats_a_word


@pytest.mark.parametrize(
    "text", ["I'm sorry, but no.", "I\u2019m sorry.", "[note] I cannot do that", "I won't help with this."]
)
def test_refusals_are_recognised(text: str) -> None:
    assert opens_with_refusal(text)


@pytest.mark.parametrize("text", ["Here is the recipe.", "", "x" * 200 + " I'm sorry"])
def test_other_openings_are_not(text: str) -> None:
    assert not opens_with_refusal(text)


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("SorrySorrySorrySorry", True),
        ("First take one, Sorry, sorry. Sorry\n Sorry then two.", True),
        ("SorrySorrySorry", False),
        ("Sorry, I won't help with that. Sorry, sorry, but no. Sorry.", False),
        ("", False),
    ],
)
def test_a_word_four_times_in_a_row_is_a_loop(text: str, repeats: bool) -> None:
    assert repeats_a_word(text, ["no (really)", "Sorry"]) is repeats


def test_without_words_nothing_is_a_loop() -> None:
    assert not repeats_a_word("SorrySorrySorrySorry", ())
