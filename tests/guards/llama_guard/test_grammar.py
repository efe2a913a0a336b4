"""The grammar of verdicts: all of it is read back, and nothing outside it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.guards.llama_guard.grammar import VerdictSyntaxError, format_verdict, parse_verdict

CODES = ("S1", "S2", "S10")
ALL = [p for size in range(4) for p in itertools.permutations(CODES, size)]
VERDICTS = {format_verdict(codes): codes for codes in ALL}
PIECES = st.lists(
    st.sampled_from(["safe", "unsafe", "\n", ",", " ", "S1", "S2", "S10", "S3", "S", "Not ", ".", "s1", "\r", ""]),
    max_size=8,
).map("".join)


@pytest.mark.parametrize("codes", ALL)
def test_every_verdict_is_read_back(codes):
    parsed = parse_verdict(format_verdict(codes), CODES)
    assert parsed.codes == codes
    assert parsed.unsafe == bool(codes)


@given(PIECES | st.text(max_size=20))
def test_a_text_is_read_exactly_when_it_is_a_verdict_between_newlines(text):
    # The oracle is the list of all 16 verdicts.
    if text.strip("\n") in VERDICTS:
        assert parse_verdict(text, CODES).codes == VERDICTS[text.strip("\n")]
    else:
        with pytest.raises(VerdictSyntaxError):
            parse_verdict(text, CODES)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Safe",
        "Not safe.",
        "safe unsafe",
        "safe\nS1",
        "safe\n\nunsafe",
        "unsafe",
        "unsafe\n",
        "unsafe S1",
        "safe.",
        "unsafe\nS3",
        "unsafe\nS1, S2",
        "unsafe\nS1 S2",
        "unsafe\nS1,S1",
        "unsafe\nS1,",
        "unsafe\nS1\nS2",
        "unsafe\n\nS1",
    ],
)
def test_what_is_outside_the_grammar_is_refused(text):
    with pytest.raises(VerdictSyntaxError) as caught:
        parse_verdict(text, CODES)
    assert "S3" not in str(caught.value)


@pytest.mark.parametrize("text", ["safe", "unsafe\nS1"])
def test_an_answer_that_was_cut_off_is_no_verdict(text):
    with pytest.raises(VerdictSyntaxError, match="cut off"):
        parse_verdict(text, CODES, complete=False)
