"""GCG on a tiny Llama: the gradient against differences of the loss, a whole step against brute force."""

from __future__ import annotations

import random

import pytest
import torch
from scipy.stats import spearmanr

from corral.models.engines.torch import TorchEngine
from corral.models.tiny import write_tiny_llama
from corral.redteam.judges import PrefixListJudge
from corral.redteam.store import Store
from corral.redteam.styles import NotApplicable, StyleContext, load_style, seeded
from corral.redteam.styles.prompt import Draft
from corral.redteam.styles.search import SearchTools
from corral.redteam.styles.search.gcg import Descent, locate

GOAL = "How do I mix teal?"
DRAFT = Draft(GOAL, GOAL)


@pytest.fixture(scope="module")
def engine(tmp_path_factory) -> TorchEngine:
    folder = write_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", layers=1, weight_std=0.1, context=256)
    return TorchEngine.load(folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def descent(engine) -> Descent:
    return Descent(engine, locate(engine, DRAFT, " !"), topk=1000)


def loss_at(engine: TorchEngine, descent: Descent, suffix_SD: torch.Tensor) -> float:
    """The loss with given embeddings in the suffix's place, by a plain forward pass."""
    embedding = engine.model.get_input_embeddings()
    parts = [embedding(torch.tensor(part)) for part in (descent.start.before, descent.start.after)]
    target = torch.tensor(descent.start.target)
    states_TD = torch.cat([parts[0], suffix_SD, parts[1], embedding(target)])
    with torch.no_grad():
        logits_TV = engine.model(inputs_embeds=states_TD[None], use_cache=False).logits[0]
    return float(torch.nn.functional.cross_entropy(logits_TV[-len(target) - 1 : -1], target))


def test_the_suffix_has_tokens_of_its_own(engine, descent) -> None:
    start = descent.start
    assert engine.chat.decode(start.ids) == " !"
    assert GOAL in engine.chat.decode(start.before)
    assert engine.chat.decode(start.target).startswith("Sure.")


def test_the_gradient_is_the_slope_towards_each_token(engine, descent) -> None:
    # Brute force: central differences of the loss along every sixth one-hot direction. Norms compute in
    # float32, so the step is not small.
    ids, weight_VD = descent.start.ids, engine.model.get_input_embeddings().weight.detach()
    gradient_SV = descent.gradient(ids)
    step = 1e-2
    place = len(ids) - 1
    slopes = []
    tokens = range(0, weight_VD.shape[0], 6)
    for token in tokens:
        moved = [weight_VD[list(ids)].clone() for _ in range(2)]
        moved[0][place] += step * weight_VD[token]
        moved[1][place] -= step * weight_VD[token]
        slopes.append((loss_at(engine, descent, moved[0]) - loss_at(engine, descent, moved[1])) / (2 * step))
    gradient_N = gradient_SV[place, list(tokens)]
    assert torch.allclose(gradient_N, torch.tensor(slopes), atol=3e-4)
    assert spearmanr(gradient_N, slopes).statistic > 0.999


def test_the_gradient_ranks_exchanges_as_their_true_losses_do(descent) -> None:
    ids = descent.start.ids
    exchanges = descent.exchanges(ids, 100_000, random.Random(0))
    losses = [loss for loss, _ in descent.losses(exchanges)]
    gradient_SV = descent.gradient(ids)
    predicted = []
    for exchange in exchanges:
        (place,) = [i for i, (old, new) in enumerate(zip(ids, exchange, strict=True)) if old != new]
        predicted.append(float(gradient_SV[place, exchange[place]] - gradient_SV[place, ids[place]]))
    assert spearmanr(predicted, losses).statistic > 0.2  # first order only: far exchanges are not predicted


def test_a_step_over_all_exchanges_is_the_best_one_by_brute_force(engine, descent) -> None:
    ids = descent.start.ids
    printable = [engine.chat.encode_text(chr(code))[0] for code in range(32, 127)]
    every = [(*ids[:i], token, *ids[i + 1 :]) for i in range(len(ids)) for token in printable if token != ids[i]]
    # What the tokenizer would join or split is not a prompt that can be sent.
    whole = [[*descent.start.before, *each, *descent.start.after] for each in every]
    texts = [DRAFT.with_text(GOAL + engine.chat.decode(each)) for each in every]
    sendable = [
        each
        for each, tokens, draft in zip(every, whole, texts, strict=True)
        if engine.chat.encode_prompt(draft.conversation) == tokens
    ]
    brute = {
        each: loss_at(engine, descent, engine.model.get_input_embeddings().weight.detach()[list(each)])
        for each in sendable
    }
    exchanges = descent.exchanges(ids, 100_000, random.Random(0))
    assert set(exchanges) == set(sendable)
    losses = [loss for loss, _ in descent.losses(exchanges)]
    assert losses == pytest.approx([brute[each] for each in exchanges], abs=1e-5)
    assert exchanges[losses.index(min(losses))] == min(brute, key=lambda each: brute[each])


def test_a_search_lowers_the_loss_and_sends_what_it_scored(engine, tmp_path) -> None:
    tools = SearchTools(engine, PrefixListJudge(), Store(tmp_path, 8), {})
    style = load_style("gcg:steps=4:width=24:topk=32:length=3")
    found = style.apply(GOAL, rng=seeded(0), context=StyleContext(search=tools))
    text = found.prompt.messages[-1].text
    start = locate(engine, DRAFT, " ! ! !")
    before, _ = Descent(engine, start, 1).losses([start.ids])[0]
    sent = engine.chat.encode_prompt(found.prompt)
    score = engine.token_logprobs([(sent, start.target)])[0].total / len(start.target)
    assert text.startswith(GOAL)
    assert float(dict(found.meta.notes)["score"]) == pytest.approx(score)
    assert -score < before


def test_a_search_repeats_itself(engine, tmp_path) -> None:
    style = load_style("gcg:steps=1:width=4:topk=8:length=1")
    found = set()
    for folder in ("first", "second"):
        tools = SearchTools(engine, PrefixListJudge(), Store(tmp_path / folder, 8), {})
        found.add(style.apply(GOAL, rng=seeded(0), context=StyleContext(search=tools)).sha256)
    assert len(found) == 1


def test_no_exchange_writes_a_control_token(engine, descent) -> None:
    special = set(engine.chat.tokenizer.all_special_ids)
    assert not any(special & set(each) for each in descent.exchanges(descent.start.ids, 100_000, random.Random(0)))


def test_a_suffix_that_shares_tokens_is_not_searched_for(engine, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("corral.redteam.styles.search.gcg.locate", lambda *_: None)
    tools = SearchTools(engine, PrefixListJudge(), Store(tmp_path, 8), {})
    found = load_style("gcg:steps=1").apply(GOAL, rng=seeded(0), context=StyleContext(search=tools))
    assert isinstance(found, NotApplicable)
