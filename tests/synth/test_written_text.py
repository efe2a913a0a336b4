import pytest

from corral.models.engines.base import Generation
from corral.synth.rows import Unusable
from corral.synth.written_text import one_text, sections

INSTRUCTION = "Write one short question about the following topic and nothing else."


def answer(text: str, *, cut: bool = False) -> Generation:
    return Generation(text, (1,), "length" if cut else "stop", 1)


@pytest.mark.parametrize(
    "written",
    [
        "How do bees fly?",
        "  How do bees fly?\n",
        '"How do bees fly?"',
        "1. How do bees fly?",
        "- How do bees fly?",
        "Question: How do bees fly?",
        "**Question:** How do bees fly?",
        'question: "How do bees fly?"',
    ],
)
def test_what_models_put_around_a_text_is_taken_off(written: str) -> None:
    assert one_text(answer(written), instruction=INSTRUCTION, label="Question") == "How do bees fly?"


def test_quotes_inside_a_text_stay() -> None:
    assert one_text(answer('"Yes" and "no"'), instruction=INSTRUCTION) == '"Yes" and "no"'


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("", "unparseable"),
        (" \n ", "unparseable"),
        ("word " * 50, "unparseable"),
        ("I'm sorry, but I can't write that.", "refused"),
        ("Sure. One short question about the following topic and nothing else: bees?", "echo"),
    ],
)
def test_what_is_no_answer_is_unusable(written: str, code: str) -> None:
    with pytest.raises(Unusable) as caught:
        one_text(answer(written), instruction=INSTRUCTION, most_words=40)
    assert caught.value.code == code


def test_an_answer_that_was_cut_off_is_unusable() -> None:
    with pytest.raises(Unusable, match="cut_off"):
        one_text(answer("How do", cut=True), instruction=INSTRUCTION)
    with pytest.raises(Unusable, match="cut_off"):
        sections(answer("Request: a\nReply: b", cut=True), ["Request", "Reply"])


@pytest.mark.parametrize(
    "written",
    [
        "Request: one\nReply: two\nlines",
        "**Request:** one\n\n**Reply:** two\nlines",
        "## request: one\n## REPLY : two\nlines",
        "Request:\none\nReply:\ntwo\nlines\n",
    ],
)
def test_sections_are_found_however_their_headings_are_dressed(written: str) -> None:
    assert sections(answer(written), ["Request", "Reply"]) == ["one", "two\nlines"]


@pytest.mark.parametrize(
    "written",
    [
        "no sections",
        "Request: one",
        "Reply: two\nRequest: one",
        "Sure!\nRequest: one\nReply: two",
        "Request: one\nReply: two\nRequest: three\nReply: four",
        "Request:\nReply: two",
    ],
)
def test_missing_repeated_swapped_or_empty_sections_are_unusable(written: str) -> None:
    with pytest.raises(Unusable, match="unparseable"):
        sections(answer(written), ["Request", "Reply"])
