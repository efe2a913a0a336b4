"""Replies that open like a refusal."""

from __future__ import annotations

import pytest

from corral.data.refusals import opens_with_refusal


@pytest.mark.parametrize(
    "text", ["I'm sorry, but no.", "I\u2019m sorry.", "[note] I cannot do that", "I won't help with this."]
)
def test_refusals_are_recognised(text: str) -> None:
    assert opens_with_refusal(text)


@pytest.mark.parametrize("text", ["Here is the recipe.", "", "x" * 200 + " I'm sorry"])
def test_other_openings_are_not(text: str) -> None:
    assert not opens_with_refusal(text)
