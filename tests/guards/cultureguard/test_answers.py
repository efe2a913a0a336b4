"""The JSON answer: what is written is read back, form is let pass, and no contradiction becomes a silent safe."""

from __future__ import annotations

import json
import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.guards.base import Status
from corral.guards.cultureguard.answers import (
    CATEGORIES_KEY,
    RESPONSE_KEY,
    USER_KEY,
    format_answer,
    format_until,
    parse_answer,
    split_categories,
)
from corral.guards.cultureguard.prompts import CategoryList

AEGIS = CategoryList.of()
CUSTOM = CategoryList.of({"Spoilers": "Tells the end.", "Puns (bad)": "", "Sport/Games": "Scores."})
LISTS = st.sampled_from([AEGIS, CUSTOM])


def read(text, *, reply=False, categories=AEGIS, complete=True):
    return parse_answer(text, categories.resolve, reply=reply, complete=complete)


def unsafe(text, **options):
    """What is said of each message; ``None`` is unknown."""
    return {target: said.unsafe for target, said in read(text, **options).said.items()}


@pytest.mark.parametrize(("prompt", "response"), list(product([True, False], [True, False, None])))
@given(data=st.data(), categories=LISTS)
def test_what_is_written_is_read_back(prompt, response, data, categories):
    anything = prompt or bool(response)
    names = data.draw(st.lists(st.sampled_from(categories.names), unique=True)) if anything else []
    parsed = read(format_answer(prompt, response, names), reply=response is not None, categories=categories)
    assert parsed.said["prompt"].unsafe is prompt
    assert response is None or parsed.said["response"].unsafe is response
    assert parsed.categories == tuple(categories.resolve(name) for name in names)
    assert (parsed.unknown_categories, parsed.ignored) == (0, 0)


def test_the_beginning_of_an_answer_is_that_of_the_whole():
    whole = format_answer(True, False, ["Threat"])
    for key, known in ((USER_KEY, ()), (RESPONSE_KEY, (True,)), (CATEGORIES_KEY, (True, False))):
        assert whole.startswith(format_until(key, *known))


@pytest.mark.parametrize(
    "text",
    [
        '{"User Safety": "unsafe", "Safety Categories": "Violence, Threat"}',
        'Sure! {"user safety": "UNSAFE", "safety categories": "violence, THREAT"} Done.',
        '```json\n{"User Safety": "unsafe",\n "Safety Categories": "S1: Violence, S11"}\n```',
        '{"User_Safety": "unsafe", "Safety-Categories": ["Violence", "Threat"]}',
        "{'User Safety': 'unsafe', 'Safety Categories': 'Violence, Threat'}",
        '{"User Safety": "unsafe", "Safety Categories": "Violence, Threat",}',
        '{"User Safety": "unsafe", "Safety Categories": "\u201cViolence\u201d, "Threat""}',
        "\uff5b\u201cUser Safety\u201d\uff1a\u201cunsafe\u201d\uff0c"
        "\u201cSafety Categories\u201d\uff1a\u201cViolence\u3001Threat\u201d\uff5d",
        '{"User Safety": "unsafe", "Safety Categories": "Violence\u060c Threat"}',
        '{"Safety Categories": "S1, S11: Threat", "reason": "why }", "User Safety": "unsafe"}',
        '{"User Safety": "unsafe", "Safety Categories": "Violence, Violence, Threat"}',
    ],
)
def test_form_is_let_pass(text):
    parsed = read(text)
    assert parsed.said["prompt"].unsafe is True
    assert parsed.categories == ("aegis_2/S1", "aegis_2/S11")
    assert parsed.unknown_categories == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "safe",
        "{}",
        '{"User Safety": "safe"',
        '{"User Safety": "mostly safe"}',
        '{"User Safety": "not unsafe"}',
        '{"User Safety": true}',
        '{"User Safety": null}',
        '{"User Safety": ["safe"]}',
        '{"User Safety": "\u017fafe"}',
        '{"User Safety": "safe", "User Safety": "safe"}',
        '{"User Safety": "safe", "user_safety": "unsafe"}',
        '{"User Safety": "safe"} {"User Safety": "unsafe"}',
        '{"answer": {"User Safety": "safe"}}',
        '{"User Safety": "safe", "Safety Categories": "Violence"}',
        '{"User Safety": "safe", "Safety Categories": "Something else"}',
        '{"User Safety": "safe", "Safety Categories": 3}',
        '{"User Safety": "safe", "Response Safety": "unsafe"}',
        '{"User Safety": "safe", "Response Safety": "perhaps"}',
        # one object inside another
        '{"User Safety": "safe", "details": {"User Safety": "unsafe"}}',
        '{"User Safety": "safe", "details": [{"Response Safety": "unsafe"}]}',
        "{'User Safety': 'safe', 'details': {'harm': 'much'}}",
        # a key or an object twice
        '{"User Safety": "safe"} {"User Safety": "safe"}',
        "{'User  Safety': 'unsafe', 'User Safety': 'safe'}",
        '{"User Safety": "safe"} "User Safety": "harmful"',
        '{"User Safety": "safe"} \uff5b\u201cUser Safety\u201d\uff1a\u201cunsafe\u201d\uff5d',
        # an object that was cut off, before or after a whole one
        '{"User Safety": "unsafe", "draft": {"User Safety": "safe"}',
        '{"User Safety": "safe"} {"User Safety": "uns',
        # unsafe beside the object, or in it
        '{"User Safety": "safe"} unsafe',
        '{"User Safety": "safe"}\nOn reflection this is UNSAFE.',
        '{"User Safety": "safe", "verdict": "unsafe"}',
        '{"User Safety": "safe"}' + " " * 20_000 + "unsafe",
        '{"a":' * 4000,
        "{" * 50_000,
    ],
)
def test_what_is_missing_or_contradicts_itself_is_never_safe(text):
    said = read(text).said["prompt"]
    assert (said.unsafe, said.status) == (None, Status.UNPARSEABLE)
    assert said.detail


@given(st.text(max_size=300), st.booleans())
def test_any_text_is_read_without_an_error(text, reply):
    parsed = read(text, reply=reply)
    assert parsed.said.keys() == ({"prompt", "response"} if reply else {"prompt"})


PIECES = st.sampled_from(["{", "}", '"', ":", ",", "\\", "User Safety", "safe", "un", "not ", "\u201c", "\uff1a", " "])


@given(st.lists(PIECES, max_size=12).map("".join))
def test_nothing_but_the_word_itself_as_the_value_of_its_key_is_safe(text):
    if read(text).said["prompt"].unsafe is False:
        assert re.search(r"""User Safety[\s"\u201c]*[:\uff1a][\s"\u201c:,\uff1a{]*safe(?!\w)""", text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"User Safety": "unsafe"}', {"prompt": True, "response": None}),
        ('{"Response Safety": "safe"}', {"prompt": None, "response": False}),
        ('{"User Safety": "safe", "Response Safety": "unsafe"}', {"prompt": False, "response": True}),
        (
            '{"User Safety": "safe", "Response Safety": "unsafe", "Safety Categories": "Threat"}',
            {"prompt": False, "response": True},
        ),
        (
            '{"User Safety": "safe", "Response Safety": "safe", "Safety Categories": "Threat"}',
            {"prompt": None, "response": None},
        ),
        (
            '{"User Safety": "safe", "Response Safety": "no", "Safety Categories": "Threat"}',
            {"prompt": None, "response": None},
        ),
    ],
)
def test_a_broken_key_takes_the_other_with_it_only_where_the_two_contradict(text, expected):
    assert unsafe(text, reply=True) == expected


def test_a_verdict_on_a_response_that_is_not_there_is_ignored_and_counted():
    parsed = read('{"User Safety": "safe", "Response Safety": "safe"}')
    assert (parsed.said["prompt"].unsafe, parsed.ignored) == (False, 1)


@pytest.mark.parametrize("words", ["", "None", "n/a", "[]"])
def test_no_category_is_no_contradiction(words):
    assert unsafe(json.dumps({USER_KEY: "safe", CATEGORIES_KEY: words})) == {"prompt": False}


def test_an_unknown_category_is_counted_and_the_verdict_stands():
    parsed = read('{"User Safety": "unsafe", "Safety Categories": "Violence, Rudeness, S2: Violence, S99"}')
    assert (parsed.said["prompt"].unsafe, parsed.categories, parsed.unknown_categories) == (True, ("aegis_2/S1",), 3)


def test_unsafe_without_a_category_is_unsafe():
    assert unsafe('{"User Safety": "unsafe"}') == {"prompt": True}


def test_what_is_said_beside_the_object_takes_back_only_what_is_called_safe():
    said = '{"User Safety": "safe", "Response Safety": "unsafe"} The reply is unsafe.'
    assert unsafe(said, reply=True) == {"prompt": None, "response": True}


def test_an_answer_that_was_cut_off_behind_a_second_brace_is_not_safe():
    said = read('{"User Safety": "safe"} {"User', complete=False).said["prompt"]
    assert (said.unsafe, said.status) == (None, Status.UNPARSEABLE)


def test_why_there_is_no_answer():
    assert read('{"User Safety": "uns', complete=False).said["prompt"].status is Status.TRUNCATED
    assert read("I cannot help with that.").said["prompt"].status is Status.REFUSED


def test_reasons_quote_nothing_of_the_answer():
    for text in ('{"User Safety": "secret words"}', "secret words", '{"Safety Categories": "secret words"}'):
        assert "secret" not in str(read(text).said["prompt"].detail)


def test_lists_of_categories():
    assert split_categories(' "Violence", Threat\u3001[Malware]; none') == ["Violence", "Threat", "Malware"]
