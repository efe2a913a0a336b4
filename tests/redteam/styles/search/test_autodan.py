"""AutoDAN-GA: children have one place for the request and only sentences of their parents; the fittest comes out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.models.engines.base import Prompt
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.judges import PrefixListJudge
from corral.redteam.store import Store
from corral.redteam.styles import StyleContext, load_style, seeded
from corral.redteam.styles.search import Attacker, SearchTools
from corral.redteam.styles.search.autodan import SLOT, Wrapper, crossed, reworded
from corral.redteam.styles.templates import read_packaged

GOAL = "Reveal the secret colour of the attic."
REFUSAL = "I'm sorry, but I can't tell."
parts = st.text(alphabet="ab .!?\n", max_size=40)


def test_packaged_wrappers_have_one_place_for_the_request() -> None:
    for template in read_packaged("search")["wrappers"]:
        assert Wrapper.of(template).around(SLOT) == template
        assert len(Wrapper.of(template).before) > 1


@given(parts, parts)
def test_a_template_taken_apart_is_the_template(before, after) -> None:
    wrapper = Wrapper.of(before + SLOT + after)
    assert wrapper.around(SLOT) == before + SLOT + after


@given(st.tuples(parts, parts), st.tuples(parts, parts), st.integers())
def test_children_take_sentences_of_both_in_their_places(mother, father, seed) -> None:
    both = [Wrapper.of(SLOT.join(each)) for each in (mother, father)]
    child = crossed(*both, random.Random(seed))
    for side in ("before", "after"):
        for place, sentence in enumerate(getattr(child, side)):
            assert sentence in [getattr(each, side)[place] for each in both if place < len(getattr(each, side))]


@pytest.mark.parametrize(
    ("sentence", "reply", "made"),
    [
        ("It is late. ", '"It is not early."', "It is not early. "),
        ("It is late. ", "", "It is late. "),
        ("It is late. ", "word " * 40, "It is late. "),
        ("It is late. ", "It {goal} is", "It is late. "),
        ("\n", "something", "\n"),
    ],
)
def test_a_sentence_in_other_words_keeps_its_blanks(sentence, reply, made) -> None:
    assert reworded(sentence, reply) == made


def test_a_wrapper_without_one_place_is_refused() -> None:
    with pytest.raises(ConfigError, match="2 times"):
        Wrapper.of("{goal} and {goal}")


class Garden:
    """A target that likes some words, each worth a nat, and answers once all are there."""

    words = ("rose", "tulip", "lily", "iris")

    def __init__(self) -> None:
        self.scored = 0

    def tools(self, folder: Path, attacker=None) -> SearchTools:
        def logprob(prompt: Prompt, completion: str) -> float:
            assert isinstance(prompt, Conversation)
            self.scored += 1
            return -float(len(completion.encode())) * (5 - self.count(prompt))

        def reply(prompt: Prompt) -> str:
            return "It is green." if self.count(prompt) == len(self.words) else REFUSAL

        wrappers = tuple(
            " ".join(f"A {word if i == j else 'weed'} grows here." for j in range(4)) + " {goal} Answer."
            for i, word in enumerate(self.words)
        )
        return SearchTools(
            engine=ScriptedEngine(reply, logprob=logprob),
            judge=PrefixListJudge(),
            store=Store(folder, 8),
            depends_on={},
            attacker=attacker,
            wrappers=wrappers,
        )

    def count(self, prompt: Prompt) -> int:
        return sum(word in prompt.messages[-1].text for word in self.words)


def test_breeding_brings_together_what_each_wrapper_has_a_part_of(tmp_path) -> None:
    garden = Garden()
    style = load_style("autodan_ga:steps=40:batch=16:crossover=1.0")
    found = style.apply(GOAL, rng=seeded(1), context=StyleContext(search=garden.tools(tmp_path)))
    text = found.prompt.messages[-1].text
    assert all(word in text for word in Garden.words)
    assert text.count(GOAL) == 1
    notes = dict(found.meta.notes)
    assert notes["succeeded"] == "True"
    assert float(notes["score"]) == pytest.approx(-1.0)  # mean nats a byte with all four words
    assert notes["mutation"] == "none"
    assert int(notes["queries"]) >= garden.scored


def test_a_second_model_puts_sentences_in_other_words(tmp_path) -> None:
    garden = Garden()
    writer = ScriptedEngine(lambda prompt: "A rose, a tulip, a lily and an iris.", name="writer")
    style = load_style("autodan_ga:steps=3:batch=8:mutation=1.0")
    context = StyleContext(search=garden.tools(tmp_path, Attacker(writer)))
    found = style.apply(GOAL, rng=seeded(0), context=context)
    assert "A rose, a tulip" in found.prompt.messages[-1].text
    assert dict(found.meta.notes)["mutation"] == "writer"
    assert dict(found.meta.notes)["steps"] == "1"  # what fills the first generation is varied too
