"""One prompt that fails takes no other with it."""

from __future__ import annotations

import pytest

from corral.core.errors import CorralError, DataError, EngineError
from corral.models.engines.base import GenerationSettings
from corral.models.engines.each import EachEngine, generate_each
from corral.models.engines.scripted import ScriptedEngine

SETTINGS = GenerationSettings(max_new_tokens=8)


@pytest.mark.parametrize("error", [DataError("too long"), EngineError("busy")])
def test_the_error_of_a_prompt_stands_in_its_place(error) -> None:
    def reply(prompt: str) -> str:
        if prompt == "bad":
            raise error
        return prompt.upper()

    found = generate_each(ScriptedEngine(reply), ["a", "bad", "b"], SETTINGS)
    assert [each if isinstance(each, CorralError) else each.text for each in found] == ["A", error, "B"]


def test_an_engine_that_tells_errors_apart_is_asked_once() -> None:
    class Telling:
        name = "telling"

        def generate_each(self, prompts, settings):
            return [EngineError(prompt) for prompt in prompts]

    assert isinstance(Telling(), EachEngine)
    assert [str(each) for each in generate_each(Telling(), ["a", "b"], SETTINGS)] == ["a", "b"]


def test_a_defect_is_not_taken_for_a_prompt_that_failed() -> None:
    def reply(prompt: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generate_each(ScriptedEngine(reply), ["a"], SETTINGS)


def test_nothing_in_nothing_out() -> None:
    assert generate_each(ScriptedEngine({}), [], SETTINGS) == []
