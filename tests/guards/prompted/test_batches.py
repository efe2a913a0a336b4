"""Asking in batches: order kept, and only the questions at fault fail."""

from hypothesis import given
from hypothesis import strategies as st

from corral.guards.base import Status
from corral.guards.prompted.batches import Failure, ask_apart


def double(questions):
    if any(question < 0 for question in questions):
        raise ValueError("secret")
    return [2 * question for question in questions]


@given(st.lists(st.integers(-2, 9), max_size=12))
def test_each_question_has_its_answer_or_its_failure(questions):
    asked = ask_apart(questions, double)
    assert len(asked) == len(questions)
    for question, one in zip(questions, asked, strict=True):
        if question < 0:
            assert isinstance(one.answer, Failure)
            assert "secret" not in one.answer.detail
        else:
            assert one.answer == 2 * question


def test_one_batch_suffices_where_nothing_fails():
    calls = []
    ask_apart([1, 2, 3], lambda some: calls.append(some) or double(some))
    assert calls == [[1, 2, 3]]


def test_a_time_limit_has_its_own_status():
    def ask(_):
        raise TimeoutError

    assert ask_apart([1], ask)[0].answer.status is Status.TIMEOUT


def test_another_number_of_answers_is_a_failure():
    (asked,) = ask_apart([1], lambda _: [])
    assert asked.answer.status is Status.ERROR
