"""The likeliest choice is the model's answer; definitions are those of the lm-evaluation-harness."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError, DataError
from corral.evals.tasks.multiple_choice.items import ChoiceItem, ChoiceSet
from corral.evals.tasks.multiple_choice.task import MultipleChoice, choice_values
from corral.evals.tasks.task import Subject
from corral.models.engines.scripted import ScriptedEngine

ITEMS = (
    ChoiceItem.question("0", "Sky?", ["blue", "greenish"], 0),
    ChoiceItem.question("1", "Grass?", ["blue", "greenish"], 1),
    ChoiceItem.question("2", "Snow?", ["white", "black"], 1),
)
OWN = ChoiceSet("own", ITEMS)


def subject(nats) -> Subject:
    """A subject whose log-likelihood of a completion is given by a table of completions."""
    return Subject(ScriptedEngine({}, default="", logprob=lambda _, completion: nats[completion.strip()]), "s", "1")


FLAT = {"blue": -4.0, "greenish": -6.0, "white": -1.0, "black": -2.0}


def test_accuracy_takes_the_likeliest_and_by_length_the_likeliest_a_character(cache, progress):
    result = MultipleChoice((OWN,)).run(subject(FLAT), cache, progress)
    assert [sample.values["acc"] for sample in result.samples] == [1.0, 0.0, 0.0]
    # -4 / 4 against -6 / 8 characters.
    assert [sample.values["acc_norm"] for sample in result.samples] == [0.0, 1.0, 0.0]
    assert [sample.values["margin"] for sample in result.samples] == pytest.approx([2.0, -2.0, -1.0])
    assert result.figures["acc/own"].value == pytest.approx(1 / 3)
    assert result.figures["accuracy"].value == pytest.approx(1 / 3)
    assert result.figures["margin"].value == pytest.approx(-1 / 3)
    assert progress.total == progress.done == 3
    (headline,) = [measure for measure in result.measures if measure.headline]
    assert (headline.name, headline.chance) == ("accuracy", 0.5)


def test_the_set_says_which_accuracy_counts(cache, progress):
    by_length = ChoiceSet("own", ITEMS[:2], normalised=True)
    result = MultipleChoice((by_length,)).run(subject({"blue": -4.0, "greenish": -7.0}), cache, progress)
    assert [sample.values["correct"] for sample in result.samples] == [0.0, 1.0]


@given(st.lists(st.floats(-50, -1), min_size=2, max_size=5), st.data())
def test_values_equal_the_formulas_of_the_harness(nats, data):
    choices = data.draw(st.lists(st.text("abé漢", min_size=1, max_size=9), min_size=len(nats), max_size=len(nats)))
    answer = data.draw(st.integers(0, len(nats) - 1))
    values = choice_values(nats, choices, answer)
    assert values["acc"] == float(np.argmax(nats) == answer)
    assert values["acc_norm"] == float(np.argmax(np.array(nats) / [len(c) for c in choices]) == answer)
    assert values["acc_bytes"] == float(np.argmax(np.array(nats) / [len(c.encode()) for c in choices]) == answer)
    assert (values["margin"] > 0) <= (values["acc"] == 1.0)
    assert values["margin"] == nats[answer] - max(n for i, n in enumerate(nats) if i != answer)


def test_partial_evaluation_scores_the_ending_after_each_beginning(cache, progress):
    item = ChoiceItem.partial("0", ["The cup", "The box"], "was full.", 1)
    assert item.requests == (("The cup", " was full."), ("The box", " was full."))
    engine = ScriptedEngine({}, default="", logprob=lambda prompt, _: -1.0 if prompt == "The box" else -2.0)
    task = MultipleChoice((ChoiceSet("own", (item,), by_length=False),))
    result = task.run(Subject(engine, "s", "1"), cache, progress)
    assert result.figures["acc/own"].value == 1.0
    assert "acc_norm/own" not in result.figures


def test_an_item_that_does_not_fit_is_unscored_and_wrong_and_the_others_are_not_lost(tiny_subject, cache, progress):
    items = (ChoiceItem.question("long", "word " * 300, ["a", "b"], 0), *ITEMS)
    result = MultipleChoice((ChoiceSet("own", items),)).run(tiny_subject, cache, progress)
    long, *others = result.samples
    assert long.values["acc"] is None
    assert "context" in long.texts["unscored"]
    assert all(sample.values["acc"] is not None for sample in others)
    figure = result.figures["acc/own"]
    assert (figure.n, figure.unscored) == (4, 1)
    assert figure.value == pytest.approx(sum(sample.values["acc"] for sample in others) / 4)


def test_scores_are_those_of_the_model(tiny_engine, tiny_subject, cache, progress):
    result = MultipleChoice((OWN,)).run(tiny_subject, cache, progress)
    for item, sample in zip(ITEMS, result.samples, strict=True):
        nats = [score.total for score in tiny_engine.logprobs(list(item.requests))]
        assert sample.values["margin"] == pytest.approx(
            choice_values(nats, item.choices, item.answer)["margin"], abs=1e-4
        )


def test_a_limit_and_a_changed_item_change_the_data_hash(cache, progress):
    def data_hash(*items: ChoiceItem, limit=None) -> str:
        return MultipleChoice((ChoiceSet("own", items),), limit=limit).run(subject(FLAT), cache, progress).data_hash

    other = ChoiceItem.question("2", "Snow?", ["white", "black"], 0)
    assert len({data_hash(*ITEMS), data_hash(*ITEMS, limit=2), data_hash(*ITEMS[:2], other)}) == 3


def test_only_new_items_are_asked(cache, progress):
    asked = []

    def logprob(prompt, completion):
        asked.append((prompt, completion))
        return -float(len(completion))

    own = Subject(ScriptedEngine({}, default="", logprob=logprob), "s", "1")
    MultipleChoice((ChoiceSet("own", ITEMS[:2]),)).run(own, cache, progress)
    MultipleChoice((OWN,)).run(own, cache, progress)
    assert len(asked) == sum(len(item.requests) for item in ITEMS)


def test_chance_is_the_mean_over_items():
    three = ChoiceItem.question("3", "?", ["a", "b", "c", "d"], 0)
    assert math.isclose(ChoiceSet("own", (ITEMS[0], three)).chance, 3 / 8)


def test_malformed_items_and_settings_are_refused():
    with pytest.raises(DataError, match="at least two"):
        ChoiceItem.question("0", "?", ["a"], 0)
    with pytest.raises(DataError, match="empty"):
        ChoiceItem.question("0", "?", ["a", " "], 0)
    with pytest.raises(DataError, match="choice 2 of 2"):
        ChoiceItem.question("0", "?", ["a", "b"], 2)
    with pytest.raises(DataError, match="twice"):
        ChoiceSet("own", (ITEMS[0], ITEMS[0]))
    for settings in ({"sets": ()}, {"sets": (OWN, OWN)}, {"limit": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            MultipleChoice(**settings)
