"""Self-written refusals and answers: recognisable, varied, and apart from what measures over-refusal."""

from __future__ import annotations

import pytest

from corral.core.errors import NotFoundError
from corral.data.decontamination import EvaluationIndex
from corral.data.refusals import opens_with_refusal
from corral.data.self_written import self_written_rows
from corral.data.self_written.replies import helpful_answers, refusals
from corral.data.taxonomy import load_taxonomy


def all_refusals() -> list[str]:
    found = refusals()
    return [*found.general, *(text for texts in found.topics.values() for text in texts)]


def test_there_are_more_than_sixty_distinct_refusals_most_of_which_open_like_one() -> None:
    texts = all_refusals()
    assert len(set(texts)) == len(texts) > 60
    assert sum(map(opens_with_refusal, texts)) >= 0.9 * len(texts)


def test_topics_are_categories_of_the_taxonomy() -> None:
    codes = {category.code for category in load_taxonomy("llama_guard_3").categories}
    assert {f"llama_guard_3/{topic}" for topic in refusals().topics} <= {
        code if "/" in code else f"llama_guard_3/{code}" for code in codes
    }


def test_a_refusal_depends_on_its_key_alone_and_may_name_the_topic() -> None:
    drawn = [refusals().draw(f"{i}", ["llama_guard_3/S11"]) for i in range(200)]
    assert drawn == [refusals().draw(f"{i}", ["llama_guard_3/S11"]) for i in range(200)]
    topical = sum(text in refusals().topics["S11"] for text in drawn)
    assert 80 < topical < 160
    assert all(refusals().draw(f"{i}", ["other/S11"]) in refusals().general for i in range(50))


def test_refusals_that_begin_with_a_word_are_many_and_drawn_by_key() -> None:
    drawn = [refusals().draw_beginning("Sorry", f"{i}") for i in range(300)]
    assert drawn == [refusals().draw_beginning("Sorry", f"{i}") for i in range(300)]
    assert len(set(drawn)) > 30
    assert all(text.startswith("Sorry") and opens_with_refusal(text) for text in drawn)
    with pytest.raises(NotFoundError, match="begins with `Alas`"):
        refusals().draw_beginning("Alas", "0")


def test_answers_are_short_distinct_and_never_refuse() -> None:
    answers = helpful_answers()
    assert len({prompt for prompt, _ in answers}) == len(answers) >= 150
    assert not any(opens_with_refusal(answer) for _, answer in answers)
    assert all(8 <= len(answer.split()) <= 60 for _, answer in answers)


def test_no_prompt_with_an_answer_is_among_those_that_measure_over_refusal() -> None:
    measured = EvaluationIndex((row.text for row in self_written_rows("benign_lookalikes")), run_words=8)
    assert not [prompt for prompt, _ in helpful_answers() if measured.contaminated(prompt)]
