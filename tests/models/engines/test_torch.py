"""The torch engine: batches change nothing, padding changes nothing, errors are clear.

Golden values are brute force: one prompt at a time through the model without padding or cache, or transformers' own
``generate``.
"""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError, DataError, EngineError
from corral.data.messages import Conversation, ImagePart, Message
from corral.models.engines.base import GenerationSettings
from corral.models.engines.torch import TorchEngine

GREEDY = GenerationSettings(max_new_tokens=12)
SAMPLED = GenerationSettings(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3)
PROMPTS = ["h", Conversation.user("tell the hills"), "hello, hello, hello", Conversation.user(""), "é 12"]

quick = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
raw_texts = st.text(alphabet="hel to,12é", min_size=1, max_size=30)


@pytest.fixture(scope="module")
def engine(llama, chat):
    return TorchEngine(llama, chat)


def engine_with(llama, chat, **options):
    return TorchEngine(llama, chat, **options)


def brute_force_logprobs(llama, prompt_ids, completion_ids):
    logits = llama(torch.tensor([[*prompt_ids, *completion_ids]])).logits[0]
    logprobs = logits.log_softmax(dim=-1)
    return [logprobs[len(prompt_ids) + i - 1, token].item() for i, token in enumerate(completion_ids)]


def test_greedy_generation_equals_that_of_transformers(engine, llama, chat):
    for prompt, ours in zip(PROMPTS, engine.generate(PROMPTS, GREEDY), strict=True):
        ids = torch.tensor([chat.encode_prompt(prompt)])
        theirs = llama.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        new = theirs[0, ids.shape[1] :].tolist()
        end = chat.tokenizer.eos_token_id
        assert list(ours.token_ids) == (new[: new.index(end)] if end in new else new)
        assert ours.finish_reason == ("stop" if end in new else "length")
        assert ours.prompt_tokens == ids.shape[1]
        assert ours.text == chat.decode(ours.token_ids)


@given(st.lists(raw_texts, min_size=1, max_size=5))
@quick
def test_batched_generation_equals_single_generation(engine, prompts):
    assert engine.generate(prompts, GREEDY) == [engine.generate([prompt], GREEDY)[0] for prompt in prompts]


@pytest.mark.parametrize("budget", [1, 60, 10_000])
def test_the_batch_budget_changes_nothing(llama, chat, engine, budget):
    small = TorchEngine(llama, chat, max_batch_tokens=budget)
    assert small.generate(PROMPTS, GREEDY) == engine.generate(PROMPTS, GREEDY)
    assert small.generate(PROMPTS, SAMPLED) == engine.generate(PROMPTS, SAMPLED)


def test_sampling_is_reproducible_and_differs_by_seed_and_index(engine):
    first = engine.generate(["hello"] * 3, SAMPLED)
    assert engine.generate(["hello"] * 3, SAMPLED) == first
    assert len({generation.token_ids for generation in first}) == 3
    other = GenerationSettings(max_new_tokens=12, temperature=1.0, top_p=0.9, seed=4)
    assert engine.generate(["hello"] * 3, other) != first


@pytest.mark.parametrize("how", [GREEDY, SAMPLED])
def test_a_stream_is_the_generation_in_pieces(engine, how):
    for prompt in PROMPTS:
        pieces = list(engine.stream(prompt, how))
        assert "".join(pieces) == engine.generate([prompt], how)[0].text
        assert "" not in pieces


def test_a_stop_string_ends_the_text_before_it(engine):
    text = engine.generate(["hello"], GREEDY)[0].text
    stop = text[4:6]
    cut = GenerationSettings(max_new_tokens=12, stop=(stop,))
    (generation,) = engine.generate(["hello"], cut)
    assert generation.text == text[: text.index(stop)]
    assert generation.finish_reason == "stop"
    assert "".join(engine.stream("hello", cut)) == generation.text


def test_every_end_token_that_the_model_lists_ends_the_text(llama, chat, engine):
    expected = engine.generate(["hello"], GREEDY)[0].token_ids
    listing = copy.deepcopy(llama)
    listing.generation_config.eos_token_id = [expected[3]]
    (generation,) = TorchEngine(listing, chat).generate(["hello"], GREEDY)
    assert generation.token_ids == expected[: expected.index(expected[3])]
    assert generation.finish_reason == "stop"


def test_generation_ends_where_the_context_does(engine):
    prompt = "h" * (engine.context_length - 4)
    (generation,) = engine.generate([prompt], GREEDY)
    assert generation.prompt_tokens == engine.context_length - 3
    assert len(generation.token_ids) <= 3


def test_a_prompt_that_leaves_no_room_is_refused_by_index_and_never_cut(engine):
    full = "h" * (engine.context_length - 1)
    with pytest.raises(DataError, match=r"prompts\[1\].*do not fit the model's context of 160"):
        engine.generate(["h", full], GREEDY)
    with pytest.raises(DataError, match="do not fit"):
        next(engine.stream(full, GREEDY))
    with pytest.raises(DataError, match="do not fit"):
        engine.logprobs([(full, "hello")])
    with pytest.raises(DataError, match="do not fit"):
        engine.activations([full + "h"], [1])


def test_an_error_in_a_prompt_names_prompt_and_part(engine):
    image = Conversation((Message("user", (ImagePart("data:,"),)),))
    with pytest.raises(DataError, match=r"prompts\[1\]\.messages\[0\]\.content\[0\]"):
        engine.generate(["h", image], GREEDY)
    with pytest.raises(DataError, match=r"pairs\[0\]"):
        engine.logprobs([(Conversation.user("h"), "")])


def has_completion(chat, prompt, completion):
    """Whether any token is left for the completion: its start may be merged into the prompt's last token."""
    try:
        return bool(chat.encode_completion(prompt, completion)[1])
    except DataError:
        return False


@given(st.lists(st.tuples(raw_texts, raw_texts), min_size=1, max_size=5))
@quick
def test_logprobs_equal_brute_force_with_padding_on_either_side(llama, chat, pairs):
    assume(all(has_completion(chat, *pair) for pair in pairs))
    right = TorchEngine(llama, chat, padding_side="right").logprobs(pairs)
    left = TorchEngine(llama, chat, padding_side="left").logprobs(pairs)
    for (prompt, completion), on_right, on_left in zip(pairs, right, left, strict=True):
        prompt_ids, completion_ids = chat.encode_completion(prompt, completion)
        expected = brute_force_logprobs(llama, prompt_ids, completion_ids)
        assert on_right.token_ids == on_left.token_ids == tuple(completion_ids)
        assert on_right.logprobs == pytest.approx(expected, abs=1e-5)
        assert on_left.logprobs == pytest.approx(expected, abs=1e-5)


def test_greedy_completions_are_recognised(engine):
    ids = engine.chat.encode_prompt("hello")
    written = list(engine.generate(["hello"], GREEDY)[0].token_ids)
    changed = [*written[:-1], (written[-1] + 1) % 200]
    right, wrong = engine.token_logprobs([(ids, written), (ids, changed)])
    assert right.greedy
    assert not wrong.greedy


def test_more_scored_tokens_than_rows_of_logits_at_a_time(llama, chat, monkeypatch):
    pair = (Conversation.user("hello"), "tell the hills")
    expected = TorchEngine(llama, chat).logprobs([pair])
    monkeypatch.setattr("corral.models.engines.torch._LOGIT_ROWS", 3)
    assert TorchEngine(llama, chat).logprobs([pair])[0].logprobs == pytest.approx(expected[0].logprobs, abs=1e-5)


@pytest.mark.parametrize("pair", [([], [1]), ([1], [])])
def test_a_score_needs_both_sides(engine, pair):
    with pytest.raises(DataError, match=r"pairs\[0\]"):
        engine.token_logprobs([pair])


@pytest.mark.parametrize("side", ["left", "right"])
def test_activations_equal_hidden_states_of_single_prompts(llama, chat, side):
    engine = TorchEngine(llama, chat, padding_side=side)
    for prompt, states in zip(PROMPTS, engine.activations(PROMPTS, [2, 0], positions="all"), strict=True):
        hidden = llama(torch.tensor([chat.encode_prompt(prompt)]), output_hidden_states=True).hidden_states
        torch.testing.assert_close(states, torch.stack([hidden[2][0], hidden[0][0]]), atol=1e-5, rtol=1e-5)


def test_activations_can_be_of_chosen_tokens(engine):
    (every,) = engine.activations(["hello"], [1], positions="all")
    (last,) = engine.activations(["hello"], [1])
    (chosen,) = engine.activations(["hello"], [1], positions=[-1, 0])
    assert torch.equal(last, every[:, -1:])
    assert torch.equal(chosen, every[:, [every.shape[1] - 1, 0]])
    with pytest.raises(ConfigError, match="outside a prompt"):
        engine.activations(["h"], [1], positions=[99])


def test_logits_that_are_not_finite_are_an_engine_error(llama, chat):
    broken = copy.deepcopy(llama)
    with torch.no_grad():
        broken.lm_head.weight[3] = float("nan")
    engine = TorchEngine(broken, chat)
    for answer in (
        lambda: engine.generate(["hello"], GREEDY),
        lambda: list(engine.stream("hello", GREEDY)),
        lambda: engine.logprobs([("hello", "the")]),
    ):
        with pytest.raises(EngineError, match="not finite"):
            answer()


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError(), RuntimeError("not enough memory: ...")])
def test_running_out_of_memory_is_an_engine_error(llama, chat, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(llama, "forward", fail)
    with pytest.raises(EngineError, match="max_batch_tokens"):
        TorchEngine(llama, chat).generate(["hello"], GREEDY)


def test_no_prompts_give_no_answers(engine):
    assert engine.generate([], GREEDY) == []
    assert engine.logprobs([]) == []
    assert engine.activations([], [1]) == []


def test_bfloat16_answers_and_scores(llama, chat, tmp_path):
    llama.save_pretrained(tmp_path)
    chat.tokenizer.save_pretrained(tmp_path)
    engine = TorchEngine.load(tmp_path, dtype=torch.bfloat16)
    assert engine.name == str(tmp_path)
    assert engine.model.dtype == torch.bfloat16
    assert engine.generate(["hello"], GREEDY)[0].token_ids
    exact = TorchEngine(llama, chat).logprobs([("hello", "the")])[0].total
    assert engine.logprobs([("hello", "the")])[0].total == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize("options", [{"max_batch_tokens": 0}, {"threads": 0}])
def test_limits_below_one_are_refused(llama, chat, options):
    with pytest.raises(ConfigError, match="below 1"):
        TorchEngine(llama, chat, **options)


def test_threads_are_set(llama, chat):
    before = torch.get_num_threads()
    try:
        TorchEngine(llama, chat, threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_a_head_that_is_more_than_a_matrix_is_refused(llama, chat):
    capped = copy.deepcopy(llama)
    capped.config.final_logit_softcapping = 30.0
    with pytest.raises(ConfigError, match="final_logit_softcapping"):
        TorchEngine(capped, chat)
