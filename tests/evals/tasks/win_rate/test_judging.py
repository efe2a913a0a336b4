"""A judge's reply is read strictly: one kind of mark, or nothing."""

from __future__ import annotations

import pytest

from corral.evals.tasks.win_rate.judging import judge_prompt, parse_preference, subject_share


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Both are fine, A is clearer. [[A]]", "first"),
        ("[[B]]", "second"),
        ("[[C]]\n", "tie"),
        ("[[A]] as I said: [[A]]", "first"),
        ("[[A]] no, [[B]]", None),
        ("A", None),
        ("[A]", None),
        ("[[a]]", None),
        ("[[D]]", None),
        ("[[]]", None),
        ("", None),
    ],
)
def test_only_one_kind_of_known_mark_is_a_verdict(reply, expected):
    assert parse_preference(reply) == expected


def test_shares_follow_the_order():
    assert subject_share("first", subject_first=True) == 1.0
    assert subject_share("first", subject_first=False) == 0.0
    assert subject_share("second", subject_first=False) == 1.0
    assert subject_share("tie", subject_first=True) == 0.5
    assert subject_share(None, subject_first=True) is None


def test_answers_are_quoted_as_they_stand():
    text = judge_prompt("{first} or {second}?", "{prompt}", "a{b}").messages[-1].text
    assert "[Request]\n{first} or {second}?\n" in text
    assert "[Answer A]\n{prompt}\n" in text
    assert "[Answer B]\na{b}\n" in text
