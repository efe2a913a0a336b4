"""The refusal curve and the positions of refusals, on a model whose probabilities are known and on one that is real."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from corral.data.messages import Conversation
from corral.data.refusals import refusal_start
from corral.evals.refusal_curve import BINS, Probe, RefusalPosition, places_of, refusal_curve, refusal_positions
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import Generation, GenerationSettings, Prompt
from corral.models.engines.torch import TorchEngine
from corral.models.loading import load_causal_lm, load_tokenizer
from corral.models.prompts import Prefilled
from corral.models.tiny import write_tiny_llama

PROBES = [
    Probe(Conversation.user("How?"), "First take one, then two.", "a"),
    Probe(Conversation.user("Why?"), "So", "b"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TorchEngine:
    folder = write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
    return TorchEngine(load_causal_lm(folder, dtype=torch.float32), ChatTokenizer(load_tokenizer(folder)))


def test_the_curve_is_the_models_next_token_log_probability_place_by_place(engine: TorchEngine) -> None:
    """Brute force: one forward pass a place, of the rows as they are."""
    found = refusal_curve(engine, PROBES, [83, 84], (0.0, 0.5, 1.0))
    for probe, row in zip(PROBES, found, strict=True):
        prompt, answer = engine.chat.encode_prompt(probe.prompt), engine.chat.encode_text(probe.answer)
        for place, value in zip((0, round(len(answer) / 2), len(answer)), row, strict=True):
            with torch.no_grad():
                logits = engine.model(torch.tensor([[*prompt, *answer[:place]]])).logits[0, -1]
            both = logits.log_softmax(-1)[[83, 84]].mean().item()
            assert value == pytest.approx(both, abs=1e-5)


def test_a_share_is_at_least_one_token_and_at_most_all() -> None:
    assert places_of(40, (0.0, 0.01, 0.05, 0.5, 1.0)) == [0, 1, 2, 20, 40]
    assert places_of(1, (0.0, 0.01, 1.0)) == [0, 1, 1]


class Says:
    """Goes on with given words, whatever it is asked."""

    name = "says"
    context_length = 512

    def __init__(self, chat: ChatTokenizer, words: str) -> None:
        self.chat = chat
        self.words = words
        self.asked: list[Prompt] = []

    def generate(self, prompts: Sequence[Prompt], settings: GenerationSettings) -> list[Generation]:
        self.asked += prompts
        return [Generation(self.words, (), "stop", 1) for _ in prompts]

    def token_logprobs(self, pairs: object) -> list[object]:
        raise AssertionError("is not scored")


def test_a_refusal_begins_so_many_tokens_into_the_answer(engine: TorchEngine) -> None:
    """A token is a byte here: after the forced ones come those before the first refusal phrase."""
    says = Says(engine.chat, "well, I'm sorry, no.")
    found = refusal_positions(says, PROBES, (0, 5, 24), GenerationSettings())  # type: ignore[arg-type]
    assert [(each.probe, each.forced, each.start) for each in found] == [(0, 0, 6), (0, 5, 11), (0, 24, 30), (1, 0, 6)]
    assert says.asked[1] == Prefilled(PROBES[0].prompt, "First")
    assert says.asked[3] == PROBES[1].prompt
    quiet = Says(engine.chat, "then three.")
    assert {each.start for each in refusal_positions(quiet, PROBES, (0,), GenerationSettings())} == {None}  # type: ignore[arg-type]


def test_a_word_in_a_loop_is_told_from_a_phrase(engine: TorchEngine) -> None:
    """A token is a byte here; the word counts as a refusal and stands at 2, the phrase at 24."""
    loop, both = "ok" + 6 * "Sorry", "ok" + 4 * "Sorry" + ", " + "I can't help."
    for text, phrase in ((loop, None), (both, 24)):
        says = Says(engine.chat, text)
        (found,) = refusal_positions(says, PROBES[1:], (0,), GenerationSettings(), words=("Sorry",))  # type: ignore[arg-type]
        assert found == RefusalPosition(0, 0, 2, phrase, repeats=True)
        assert (found.bin, found.phrase_bin) == ("0-5", "none" if phrase is None else "6-30")
    (sentence,) = refusal_positions(
        Says(engine.chat, "Sorry, I can't help."),  # type: ignore[arg-type]
        PROBES[1:],
        (0,),
        GenerationSettings(),
        words=("Sorry",),
    )
    assert sentence == RefusalPosition(0, 0, 0, 7)


@pytest.mark.parametrize(
    ("start", "name"), [(0, "0-5"), (5, "0-5"), (6, "6-30"), (30, "6-30"), (31, ">30"), (None, "none")]
)
def test_bins_are_the_papers(start: int | None, name: str) -> None:
    assert RefusalPosition(0, 0, start).bin == name
    assert name in BINS


@pytest.mark.parametrize(
    ("text", "words", "start"),
    [
        ("Sure. I\u2019m sorry, no.", (), 6),
        ("It is so. Sorry then", ("Sorry",), 10),
        ("It is so.", ("Sorry",), None),
        ("\u0130\u0130 I cannot", (), 3),
        ("", (), None),
    ],
)
def test_a_refusal_phrase_is_found_where_it_begins(text: str, words: tuple[str, ...], start: int | None) -> None:
    """Also after letters whose lower case is longer."""
    assert refusal_start(text, words=words) == start


def test_an_even_model_is_as_ready_to_refuse_anywhere(engine: TorchEngine) -> None:
    """With a head of zeros every token has probability 1 / V."""
    with torch.no_grad():
        kept = engine.model.lm_head.weight.clone()
        engine.model.lm_head.weight.zero_()
        found = refusal_curve(engine, PROBES, [83], (0.0, 0.5))
        engine.model.lm_head.weight.copy_(kept)
    assert found == pytest.approx(-math.log(engine.model.config.vocab_size))
