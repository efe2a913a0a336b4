"""Evaluation text is recognised whole, and by long runs of words."""

from __future__ import annotations

from corral.data.decontamination import EvaluationIndex

LONG = "one two three four five six seven eight nine ten eleven twelve"


def test_the_same_prompt_is_recognised_whatever_its_case_and_punctuation() -> None:
    index = EvaluationIndex(["How do I bake bread?"])
    assert index.contaminated("how do i BAKE bread")
    assert not index.contaminated("how do i bake bread at home")


def test_a_shared_run_of_words_is_recognised_anywhere() -> None:
    index = EvaluationIndex([LONG], run_words=10)
    assert index.contaminated("before " + " ".join(LONG.split()[1:11]) + " after")
    assert not index.contaminated("before " + " ".join(LONG.split()[1:10]) + " after")


def test_texts_shorter_than_a_run_match_only_whole() -> None:
    index = EvaluationIndex(["bake bread"], run_words=10)
    assert not index.contaminated("please bake bread now")
