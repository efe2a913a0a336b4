"""Answers that one model begins and another finishes: golden values by running both by hand, token by token."""

from __future__ import annotations

import copy

import pytest
import torch

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.models.engines.base import GenerationSettings
from corral.models.engines.first_tokens import FirstTokensSwitch, SafeDecodingEngine, contrast_logits
from corral.models.engines.torch import TorchEngine
from corral.models.routing.installing import RoutingShape, install_routing, recorded_gates, routing_of
from corral.models.routing.means import MEASURES

GREEDY = GenerationSettings(max_new_tokens=12)
SAMPLED = GenerationSettings(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3)
PROMPTS = ["h", Conversation.user("tell the hills"), "hello, hello, hello", Conversation.user(""), "é 12"]


@pytest.fixture(scope="module")
def gated(llama):
    model = copy.deepcopy(llama)
    routing = install_routing(model, RoutingShape((0, 1, 2), rank=4, alpha=8, router_width=8), glad=True)
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for part in ("unwill", "glad", "router"):
            for parameter in routing.parameters(part):
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.5)
    return model


@pytest.fixture(scope="module")
def switch(gated, chat):
    return FirstTokensSwitch(gated, chat, first_tokens=5)


def by_hand(switch, llama, ids, limit=12):
    """Greedy ids: each of the first tokens by the gated model on the whole prefix, the others by the plain one."""
    ids, new = list(ids), []
    while len(new) < limit:
        model = switch.model if len(new) < switch.first_tokens else llama
        with torch.no_grad():
            token = model(torch.tensor([ids])).logits[0, -1].argmax().item()
        if token == switch.chat.tokenizer.eos_token_id:
            break
        ids.append(token)
        new.append(token)
    return new


@pytest.mark.parametrize("first", [1, 2, 5, 12, 40])
def test_the_gated_model_begins_and_the_base_goes_on(gated, llama, chat, first):
    switch = FirstTokensSwitch(gated, chat, first_tokens=first)
    for prompt, ours in zip(PROMPTS, switch.generate(PROMPTS, GREEDY), strict=True):
        assert list(ours.token_ids) == by_hand(switch, llama, chat.encode_prompt(prompt))
        assert ours.text == chat.decode(ours.token_ids)


def test_after_the_switch_every_token_is_the_base_models_own(switch, llama, chat):
    plain = TorchEngine(llama, chat)
    for prompt, ours in zip(PROMPTS, switch.generate(PROMPTS, GREEDY), strict=True):
        ids, begun = chat.encode_prompt(prompt), list(ours.token_ids[:5])
        if len(begun) < 5:
            continue
        rows = plain.token_logprobs([([*ids, *begun], ours.token_ids[5:])])
        assert rows[0].greedy
    assert any(ours.token_ids != theirs.token_ids for ours, theirs in
               zip(switch.generate(PROMPTS, GREEDY), plain.generate(PROMPTS, GREEDY), strict=True))  # fmt: skip


@pytest.mark.parametrize("how", [GREEDY, SAMPLED])
def test_batches_of_ragged_prompts_and_streams_change_nothing(switch, gated, chat, how):
    together = switch.generate(PROMPTS, how)
    one_by_one = FirstTokensSwitch(gated, chat, first_tokens=5, max_batch_tokens=1)
    assert together == one_by_one.generate(PROMPTS, how)
    for prompt in PROMPTS:
        assert "".join(switch.stream(prompt, how)) == switch.generate([prompt], how)[0].text


def test_an_answer_that_ends_within_the_first_tokens_is_not_gone_on_with(gated, chat, make_llama):
    """Every token ends the answer of one row: the base is never asked for it."""
    engine = FirstTokensSwitch(gated, chat, first_tokens=5)
    first = [generation.token_ids[0] for generation in engine.generate(PROMPTS, GREEDY)]
    engine._end_ids = frozenset({first[1]})
    answers = engine.generate(PROMPTS, GREEDY)
    assert answers[1].token_ids == ()
    assert answers[1].finish_reason == "stop"
    assert any(len(each.token_ids) > 5 for each in answers)


def test_an_answer_that_ends_after_the_first_tokens_leaves_the_others_to_go_on(gated, chat):
    """A row leaves the batch while the base writes, which takes no gates."""
    engine = FirstTokensSwitch(gated, chat, first_tokens=5)
    whole = engine.generate(PROMPTS, GREEDY)
    later, begun = [each.token_ids[5:] for each in whole], {token for each in whole for token in each.token_ids[:5]}
    row, end = next(
        (row, token)
        for row, tokens in enumerate(later)
        for token in tokens[:-1]
        if token not in begun and any(token not in others for others in later)
    )
    engine._end_ids = frozenset({end})
    answers = engine.generate(PROMPTS, GREEDY)
    assert answers[row].finish_reason == "stop" and 5 <= len(answers[row].token_ids) < 12
    assert any(len(each.token_ids) == 12 for each in answers)
    assert [each.measures for each in answers] == [each.measures for each in whole]


def test_fewer_tokens_than_are_begun_with_are_possible(switch):
    (answer,) = switch.generate(["hello"], GenerationSettings(max_new_tokens=3))
    assert len(answer.token_ids) == 3
    assert answer.finish_reason == "length"


def test_answers_tell_the_mean_gates_while_they_were_begun(switch, gated, chat):
    """By hand: every gate of every layer at the prompt's and the first tokens that were read, one row at a time."""
    for prompt, ours in zip(PROMPTS, switch.generate(PROMPTS, GREEDY), strict=True):
        read = [*chat.encode_prompt(prompt), *ours.token_ids[:4]]  # the fifth is written and read by the base alone
        with torch.no_grad(), recorded_gates(gated) as gates:
            gated(torch.tensor([read]))
        for name, side in zip(MEASURES, zip(*gates.values(), strict=True), strict=True):
            assert ours.measures[name] == pytest.approx(torch.stack(side).mean().item(), abs=1e-5)


def test_a_stream_ends_with_what_generating_gives(switch):
    pieces = switch.stream(PROMPTS[1], GREEDY)
    text = ""
    while True:
        try:
            text += next(pieces)
        except StopIteration as ended:
            whole = ended.value
            break
    (expected,) = switch.generate([PROMPTS[1]], GREEDY)
    assert whole == expected
    assert whole.text == text
    assert whole.measures == expected.measures


def test_an_expert_alone_has_no_gates_to_tell(gated, chat):
    (answer,) = FirstTokensSwitch(gated, chat, first_tokens=5, mode="unwill").generate(["h"], GREEDY)
    assert answer.measures == {}


def test_a_paused_stream_leaves_the_model_to_others(switch, llama):
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        routed = switch.model(ids).logits
        pieces = switch.stream("hello", GREEDY)
        next(pieces)
        assert torch.equal(switch.model(ids).logits, routed)
        with routing_of(switch.model).control.using("base"):
            assert torch.equal(switch.model(ids).logits, llama(ids).logits)
        pieces.close()


def test_completions_are_scored_as_they_would_be_written(switch, llama, chat):
    pairs = [(prompt, text) for prompt in PROMPTS for text in ("he", "hello to the hills", "12")]
    for (prompt, text), ours in zip(pairs, switch.logprobs(pairs), strict=True):
        context, targets = chat.encode_completion(prompt, text)
        ids = torch.tensor([[*context, *targets]])
        with torch.no_grad():
            begun, rest = (model(ids).logits[0].log_softmax(-1) for model in (switch.model, llama))
        for place, (token, value) in enumerate(zip(targets, ours.logprobs, strict=True)):
            source = begun if place < 5 else rest
            assert value == pytest.approx(source[len(context) + place - 1, token].item(), abs=1e-4)
        assert ours.greedy == (list(targets) == by_hand(switch, llama, context, len(targets))[: len(targets)])


def test_what_the_switch_writes_it_scores_as_greedy(switch, chat):
    for prompt, answer in zip(PROMPTS, switch.generate(PROMPTS, GREEDY), strict=True):
        assert switch.token_logprobs([(chat.encode_prompt(prompt), answer.token_ids)])[0].greedy


def test_labels_are_scored_by_what_begins_answers(switch, chat):
    (found,) = switch.label_logprobs([PROMPTS[1]], ["he", "l"])
    expected = [each.total for each in switch.logprobs([(PROMPTS[1], "he"), (PROMPTS[1], "l")])]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_model_without_gates_and_no_tokens_are_refused(llama, gated, chat):
    with pytest.raises(ConfigError, match="no gates"):
        FirstTokensSwitch(llama, chat, first_tokens=5)
    with pytest.raises(ConfigError, match="below 1"):
        FirstTokensSwitch(gated, chat, first_tokens=0)


def grown(base, expert, alpha, shared):
    """SafeDecoding as its paper tells it, for one row: k grows until enough tokens are shared."""
    p_base, p_expert = base.double().softmax(-1), expert.double().softmax(-1)
    orders = [sorted(range(len(p)), key=lambda i: (-p[i].item(), i)) for p in (p_base, p_expert)]
    k = shared
    while len(chosen := set(orders[0][:k]) & set(orders[1][:k])) < shared:
        k += 1
    pushed = {i: max((p_base[i] + alpha * (p_expert[i] - p_base[i])).item(), 1e-8) for i in chosen}
    total = sum(pushed.values())
    return {i: value / total for i, value in pushed.items()}


@pytest.mark.parametrize("shared", [1, 3, 5])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
def test_the_contrast_equals_brute_force(shared, alpha):
    random = torch.Generator().manual_seed(shared)
    base, expert = (torch.randn(20, 13, generator=random, dtype=torch.float64) * 2 for _ in range(2))
    found = contrast_logits(base, expert, alpha=alpha, shared=shared)
    for row in range(20):
        expected = grown(base[row], expert[row], alpha, shared)
        drawn = found[row].exp()
        for token in range(13):
            assert drawn[token].item() == pytest.approx(expected.get(token, 0.0), abs=1e-12)


def test_safe_decoding_begins_with_the_contrast_and_the_base_goes_on(llama, chat, make_llama):
    torch.manual_seed(0)
    expert = make_llama(vocab_size=llama.config.vocab_size)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    engine = SafeDecodingEngine(llama, expert, chat, first_tokens=2, alpha=3.0, shared=5)
    for prompt, ours in zip(PROMPTS, engine.generate(PROMPTS, GREEDY), strict=True):
        ids = chat.encode_prompt(prompt)
        for place, token in enumerate(ours.token_ids):
            with torch.no_grad():
                base, other = (model(torch.tensor([ids])).logits[0, -1] for model in (llama, expert))
            likely = grown(base, other, 3.0, 5) if place < 2 else dict(enumerate(base.tolist()))
            assert token == max(likely, key=likely.get)
            ids = [*ids, token]
    assert "".join(engine.stream(PROMPTS[1], GREEDY)) == engine.generate([PROMPTS[1]], GREEDY)[0].text


def test_an_expert_that_is_the_base_changes_nothing_greedy(llama, chat):
    engine = SafeDecodingEngine(llama, llama, chat)
    assert engine.generate(PROMPTS, GREEDY) == TorchEngine(llama, chat).generate(PROMPTS, GREEDY)


def test_models_of_other_vocabularies_are_refused(llama, chat, make_llama):
    with pytest.raises(ConfigError, match="vocabularies"):
        SafeDecodingEngine(llama, make_llama(vocab_size=17), chat)
    with pytest.raises(ConfigError, match="shared"):
        SafeDecodingEngine(llama, llama, chat, shared=0)
