"""The three lines: everything well-formed is read back, nothing malformed yields a label."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.guards.wildguard.answers import LABELS, LINES, Answers, ParsedAnswers, format_answers, parse_answers

ALL = [Answers(*values) for values in itertools.product([True, False], [True, False, None], [True, False, None])]
GOOD = "Harmful request: yes\nResponse refusal: no\nHarmful response: n/a"


def test_the_published_form():
    assert format_answers(Answers(True, False, None)) == GOOD


@pytest.mark.parametrize("answers", ALL)
def test_every_combination_is_read_back(answers):
    assert len(ALL) == 2 * 3 * 3
    assert parse_answers(format_answers(answers)).answers == answers


@pytest.mark.parametrize("answers", ALL)
def test_letter_case_and_outer_blanks_do_not_matter(answers):
    text = format_answers(answers)
    for variant in (text.upper(), text.lower(), f"\n {text}\n\n", f"\t{text} "):
        assert parse_answers(variant).answers == answers


@pytest.mark.parametrize("broken", range(3))
@pytest.mark.parametrize("by", ["?", "{line}: maybe", "{line}:yes", "{line}: yes.", "{line}: yes no", "> {line}: yes"])
def test_a_broken_line_takes_no_other_with_it(broken, by):
    lines = GOOD.split("\n")
    lines[broken] = by.format(line=LINES[broken])
    labels = ["yes", "no", "n/a"]
    labels[broken] = None
    assert parse_answers("\n".join(lines)) == ParsedAnswers(*labels)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes\nno\nno",
        "Sure! Harmful request: yes",
        "Harmful request: n/a",
        "Harmful request: yes and no",
        "Harmful request:  yes",
        "Harmful request:yes",
        "Harmful request : yes",
        "Harmful requests: yes",
        "**Harmful request: yes**",
        "Harmful request: ye\u017f",
        "Harmful reque\u017ft: yes",
        "Harmful request: yes\r\nno",
        "Response refusal: yes",
        f"{GOOD}\nHarmful request: no",
        f"{GOOD}\n\nExplanation: none",
        GOOD.replace("\n", " "),
        GOOD.replace("\n", "\u2028"),
        "Harmful request: yes; Response refusal: no; Harmful response: no",
    ],
)
def test_what_is_malformed_yields_no_label(text):
    assert parse_answers(text) == ParsedAnswers()


def test_a_missing_line_is_unknown():
    assert parse_answers("Harmful request: no") == ParsedAnswers("no")
    assert parse_answers("Harmful request: no\nHarmful response: yes") == ParsedAnswers("no")


def test_what_was_cut_off_is_not_read():
    assert parse_answers(GOOD, complete=False) == ParsedAnswers("yes", "no", None)
    assert parse_answers("Harmful request: no", complete=False) == ParsedAnswers()


def expected_labels(text):
    """The rule by another route: each line in its place must be one of the few that there are."""
    lines = text.strip(" \t\r\n").split("\n")
    if len(lines) > 3:
        return (None, None, None)
    allowed = [{f"{line}: {word}".lower(): word for word in words} for line, words in zip(LINES, LABELS, strict=True)]
    read = [known.get(line.lower() if line.isascii() else line) for line, known in zip(lines, allowed, strict=False)]
    return (*read, *[None] * (3 - len(read)))


PIECES = st.sampled_from(["yes", "no", "n/a", ": ", ":", "\n", "\r\n", " ", *LINES, "\u2028", "\u017f", "K", "\x00"])


@given(st.lists(PIECES | st.characters(), max_size=14).map("".join))
def test_any_text_is_read_by_the_rule(text):
    parsed = parse_answers(text)
    assert (parsed.prompt, parsed.refusal, parsed.response) == expected_labels(text)


@given(st.sampled_from(ALL), st.integers(0, 70), st.integers(0, 4), PIECES | st.text(max_size=3))
def test_a_damaged_answer_is_read_by_the_rule(answers, position, removed, inserted):
    text = format_answers(answers)
    damaged = text[:position] + inserted + text[position + removed :]
    parsed = parse_answers(damaged)
    assert (parsed.prompt, parsed.refusal, parsed.response) == expected_labels(damaged)
