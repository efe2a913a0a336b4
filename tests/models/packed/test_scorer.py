"""The packed scorer gives what transformers' model gives, whatever is shared, packed, cached or evicted.

Golden values are brute force: one sequence and label at a time through ``LlamaForCausalLM``, without a cache.
"""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import EngineError
from corral.models.packed.scorer import LabelScorer
from corral.models.packed.weights import model_weights

LABELS = [[3], [5, 8]]
POLICY = random.Random(1).choices(range(97), k=60)

tokens = st.integers(0, 96)


def scorer(model, **options):
    return LabelScorer(model_weights(model), **options)


def requests(count, *, seed=2, policy=POLICY):
    draw = random.Random(seed)
    return [[*policy, *draw.choices(range(97), k=draw.randint(1, 30))] for _ in range(count)]


def close(ours, expected, tolerance=1e-4):
    assert len(ours) == len(expected)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine == pytest.approx(theirs, abs=tolerance)


@pytest.mark.parametrize("reorder_bytes", [0, 2**30])
def test_a_shared_policy_gives_the_scores_of_whole_prompts(llama, expected, monkeypatch, reorder_bytes):
    monkeypatch.setattr("corral.models.packed.weights.REORDER_BYTES", reorder_bytes)
    sequences = requests(12)
    close(scorer(llama).label_logprobs(sequences, LABELS), expected(sequences, LABELS))


def test_a_prompt_scores_alike_whatever_else_is_in_the_call_and_in_the_cache(llama):
    sequences = requests(8) + requests(4, seed=3, policy=POLICY[:35])
    together = scorer(llama).label_logprobs(sequences, LABELS)
    warm = scorer(llama)
    warm.label_logprobs(sequences[::-1], LABELS)
    for sequence, scores in zip(sequences, together, strict=True):
        assert scorer(llama).label_logprobs([sequence], LABELS)[0] == pytest.approx(scores, abs=1e-5)
        assert warm.label_logprobs([sequence], LABELS)[0] == pytest.approx(scores, abs=1e-5)


@given(
    st.lists(st.lists(tokens, min_size=1, max_size=24), min_size=1, max_size=6),
    st.lists(tokens, max_size=40),
    st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(1, 64),
)
@settings(max_examples=40, deadline=None)
def test_any_sequences_and_labels_equal_brute_force(llama, expected, tails, shared, labels, pack_tokens):
    sequences = [tail if i % 3 == 2 else [*shared, *tail] for i, tail in enumerate(tails)]
    found = scorer(llama, pack_tokens=pack_tokens).label_logprobs(sequences, labels)
    close(found, expected(sequences, labels))


@pytest.mark.parametrize(
    "labels",
    [
        [[1], [2]],
        [[1, 2, 3], [4, 5], [4, 6, 7], [9]],  # branches
        [[1], [1, 2], [1, 2, 3]],  # each begins the next
        [[7, 7, 7], [7, 7, 8]],
    ],
)
def test_labels_of_many_tokens_are_sums_over_their_tokens(llama, expected, labels):
    sequences = requests(3)
    close(scorer(llama).label_logprobs(sequences, labels), expected(sequences, labels))


def test_a_sequence_that_is_a_prefix_of_another_and_one_of_one_token(llama, expected):
    sequences = [POLICY, POLICY[:20], [4], [*POLICY, 3], POLICY]
    close(scorer(llama).label_logprobs(sequences, LABELS), expected(sequences, LABELS))


def test_long_segments_are_attended_in_pieces(llama, expected, monkeypatch):
    # Room for so few scores that every segment is cut.
    monkeypatch.setattr("corral.models.packed.attention.SCORE_BYTES", 1024)
    monkeypatch.setattr("corral.models.packed.decoder.CHUNK_TOKENS", 7)
    draw = random.Random(4)
    sequences = [[*POLICY, *draw.choices(range(97), k=90)] for _ in range(3)]
    labels = [[1, 2, 3], [4, 5], [4, 6]]
    close(scorer(llama).label_logprobs(sequences, labels), expected(sequences, labels))


def test_prefixes_are_reused_and_eviction_changes_no_score(llama, expected):
    policies = [random.Random(seed).choices(range(97), k=50) for seed in range(4)]
    keeps, forgets = scorer(llama), scorer(llama, cache_bytes=0)
    small = scorer(llama, cache_bytes=2 * 50 * 3 * 2 * 2 * 8 * 4)  # two policies
    for policy in [*policies, *policies[::-1]]:
        sequences = requests(3, policy=policy)
        for one in (keeps, forgets, small):
            close(one.label_logprobs(sequences, LABELS), expected(sequences, LABELS))
    assert [len(one._prefixes) for one in (keeps, small, forgets)] == [4, 2, 0]


def test_a_known_policy_is_not_computed_again(llama, monkeypatch):
    calls = []
    from corral.models.packed import scorer as module

    monkeypatch.setattr(
        module, "prefix_states", lambda *args, real=module.prefix_states: calls.append(len(args[1])) or real(*args)
    )
    one = scorer(llama)
    for sequence in requests(5):
        one.label_logprobs([sequence], LABELS)
    assert len(calls) == 1


def test_many_threads_get_the_scores_of_one(llama):
    one = scorer(llama)
    batches = [requests(4, seed=seed, policy=POLICY[: 30 + 5 * (seed % 3)]) for seed in range(12)]
    alone = [scorer(llama).label_logprobs(batch, LABELS) for batch in batches]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(lambda batch: one.label_logprobs(batch, LABELS), batches))
    for ours, expected in zip(together, alone, strict=True):
        close(ours, expected, 1e-5)


def test_bfloat16_is_close_to_float32(make_llama):
    # Weights that bfloat16 holds exactly, so that only the arithmetic differs.
    rounded = make_llama(torch.bfloat16, spread=0.08)
    sequences = requests(20)
    narrow = scorer(rounded).label_logprobs(sequences, LABELS)
    wide = scorer(rounded.float()).label_logprobs(sequences, LABELS)
    close(narrow, wide, 0.05)


def test_large_constants_of_the_highest_layer_are_not_rounded_to_bfloat16(make_llama, monkeypatch):
    model = make_llama(torch.bfloat16, spread=0.08)
    with torch.no_grad():
        model.model.layers[-1].mlp.down_proj.weight *= 64
    sequences = requests(20)
    exact = torch.tensor(scorer(model.float()).label_logprobs(sequences, LABELS))
    model = model.bfloat16()
    found = torch.tensor(scorer(model).label_logprobs(sequences, LABELS))
    monkeypatch.setattr("corral.models.packed.weights._wide_end", lambda _, weights: weights)
    rounded = torch.tensor(scorer(model).label_logprobs(sequences, LABELS))
    assert (found - exact).abs().mean() < 0.8 * (rounded - exact).abs().mean()


def test_scores_too_large_for_their_exponent_are_computed_with_the_maximum_subtracted(make_llama):
    model = make_llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 60
    sequences = requests(4)
    with torch.inference_mode():
        logits = [model(torch.tensor([s])).logits[0, -1].log_softmax(-1)[3].item() for s in sequences]
    found = scorer(model).label_logprobs(sequences, [[3]])
    close(found, [(value,) for value in logits], 1e-3)


def test_weights_that_are_no_numbers_are_an_error(make_llama):
    model = make_llama()
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    with pytest.raises(EngineError, match="finite"):
        scorer(model).label_logprobs([[1, 2, 3]], [[1]])


def test_nothing_asked_nothing_answered(llama):
    assert scorer(llama).label_logprobs([], LABELS) == []
    assert scorer(llama).label_logprobs([[1], [2]], []) == [(), ()]
