"""Steering adds a direction while the prompt is read, ablation takes one out, and no hook outlives its block."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from corral.core.errors import ConfigError
from corral.models.activations import capture
from corral.models.sites import Site, hooked, residual_sites
from corral.models.steering import ablated, orthogonalise_weights, steered

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 6, 5]])


@pytest.fixture
def vector():
    return torch.randn(32, generator=torch.Generator().manual_seed(1))


def states(decoder, sites, ids=IDS, **steering):
    with torch.no_grad(), capture(decoder, sites) as found:
        decoder(input_ids=ids, **steering)
    return found


def hook_counts(model):
    return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]


def test_the_vector_is_added_at_one_layer_and_nothing_below_it_changes(llama, vector):
    sites = residual_sites(llama.model)
    before = states(llama.model, sites)
    with steered(llama.model, vector, layer=1, coefficient=3.0):
        after = states(llama.model, sites)
    assert torch.equal(after[sites[0]], before[sites[0]])
    torch.testing.assert_close(after[sites[1]], before[sites[1]] + 3.0 * vector)
    assert not torch.allclose(after[sites[2]], before[sites[2]])


def test_the_raw_output_of_the_last_layer_can_be_steered(llama, vector):
    top = Site("residual", 3)
    before = states(llama.model, [top])[top]
    with steered(llama.model, vector, layer=3):
        torch.testing.assert_close(states(llama.model, [top])[top], before + vector)


def test_coefficient_zero_changes_no_bit(llama, vector):
    with torch.no_grad():
        expected = llama(IDS).logits
        with steered(llama.model, vector, layer=1, coefficient=0.0):
            assert torch.equal(llama(IDS).logits, expected)


def test_a_mask_and_a_slice_choose_tokens(llama, vector):
    site = Site("residual", 1)
    before = states(llama.model, [site])[site]
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, 1] = mask[1, 3] = True
    with steered(llama.model, vector, layer=1, positions=mask):
        change = states(llama.model, [site])[site] - before
    assert {tuple(place) for place in change.abs().sum(-1).gt(1e-4).nonzero().tolist()} == {(0, 1), (1, 3)}
    with steered(llama.model, vector, layer=1, positions=slice(None, -2)):
        change = states(llama.model, [site])[site] - before
    assert change.abs().sum(-1).gt(1e-4).tolist() == [[True, True, True, False, False]] * 2


def test_decoding_after_a_steered_prefill_reads_the_steered_cache_and_is_not_steered_itself(llama, vector):
    site = Site("residual", 1)
    steered_cache, plain_cache = DynamicCache(config=llama.config), DynamicCache(config=llama.config)
    step = torch.tensor([[3], [4]])
    with torch.no_grad():
        with steered(llama.model, vector, layer=1):
            llama(IDS, past_key_values=steered_cache)
            with capture(llama.model, [site]) as inside:
                within = llama(step, past_key_values=copy.deepcopy(steered_cache)).logits
        after = llama(step, past_key_values=steered_cache).logits
        llama(IDS, past_key_values=plain_cache)
        with capture(llama.model, [site]) as outside:
            plain = llama(step, past_key_values=plain_cache).logits
    # the step's own input of layer 1 follows one unsteered block, so only its attention to the cache may differ
    assert torch.equal(within, after)
    assert torch.equal(inside[site], outside[site])
    assert not torch.allclose(within, plain)


def test_every_step_is_steered_when_asked_for(llama, vector):
    site = Site("residual", 0)
    cache = DynamicCache(config=llama.config)
    with torch.no_grad(), steered(llama.model, vector, layer=0, prefill_only=False):
        llama(IDS, past_key_values=cache)
        with capture(llama.model, [site]) as found:
            llama(torch.tensor([[3], [4]]), past_key_values=cache)
    torch.testing.assert_close(found[site][:, 0], llama.model.embed_tokens.weight[[3, 4]] + vector)


def test_steering_is_out_of_place_so_gradients_reach_the_vector(llama, vector):
    vector = vector.requires_grad_()
    with steered(llama.model, vector, layer=1):
        llama(IDS).logits.sum().backward()
    assert vector.grad is not None
    assert vector.grad.abs().sum() > 0


def test_ablation_leaves_nothing_along_the_direction_and_twice_is_once(llama, vector):
    unit = vector / vector.norm()
    written = [Site("attention", 2), Site("mlp", 2), Site("residual", 1), Site("residual", 3)]
    with torch.no_grad(), ablated(llama.model, vector):
        once = states(llama.model, written)
        logits = llama(IDS).logits
        with ablated(llama.model, 2.5 * vector):
            twice = llama(IDS).logits
    for site in written:
        assert (once[site] @ unit).abs().max() < 1e-6, site
    torch.testing.assert_close(logits, twice, atol=1e-5, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_ablation_by_hooks_equals_ablation_in_the_weights(llama, vector, tied):
    model = copy.deepcopy(llama)
    if tied:
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
    with torch.no_grad(), ablated(model.model, vector):
        expected = model(IDS).logits
    orthogonalise_weights(model, vector)
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected, atol=1e-5, rtol=0)


def test_hooks_are_gone_after_an_error(llama, vector):
    before = hook_counts(llama)
    with pytest.raises(ValueError, match="inside"), steered(llama.model, vector, layer=1), ablated(llama.model, vector):
        raise ValueError("inside")
    with pytest.raises(IndexError), capture(llama.model, residual_sites(llama.model)):
        llama(torch.tensor([[10**6]]))
    assert hook_counts(llama) == before


def test_capture_of_a_batch_equals_capture_of_each_row(llama):
    sites = [*residual_sites(llama.model), Site("attention", 1), Site("mlp", 2)]
    columns = torch.tensor([[1, 4], [0, 3]])
    with torch.no_grad(), capture(llama.model, sites, positions_BP=columns) as batch:
        llama(IDS)
    for row in range(2):
        single = states(llama.model, sites, IDS[row : row + 1])
        for site in sites:
            torch.testing.assert_close(batch[site][row], single[site][0][columns[row]], atol=1e-6, rtol=0)


def test_a_hook_that_returns_nothing_leaves_the_states(llama):
    seen = []
    with torch.no_grad():
        expected = llama(IDS).logits
        with hooked(llama.model, [(Site("residual", 2), lambda states: seen.append(states.shape))]):
            assert torch.equal(llama(IDS).logits, expected)
    assert seen == [torch.Size([2, 5, 32])]


@pytest.mark.parametrize(
    ("vector", "match"),
    [
        (torch.ones(31), r"\(31,\)"),
        (torch.full((32,), float("nan")), "not finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(llama, vector, match):
    with pytest.raises(ConfigError, match=match), steered(llama.model, vector, layer=1):
        pass


def test_a_direction_of_no_length_is_refused(llama):
    with pytest.raises(ConfigError, match="length 0"), ablated(llama.model, torch.zeros(32)):
        pass


def test_a_mask_of_another_shape_is_refused(llama, vector):
    with (
        pytest.raises(ConfigError, match="mask of shape"),
        steered(llama.model, vector, layer=1, positions=torch.ones(1, 5, dtype=torch.bool)),
    ):
        llama(IDS)


def test_layers_that_are_not_plain_are_refused_in_the_weight_form(llama, vector):
    model = copy.deepcopy(llama)
    model.model.layers[0].mlp.down_proj = nn.Identity()
    with pytest.raises(ConfigError, match="hook form"):
        orthogonalise_weights(model, vector)


def test_another_threads_decoding_does_not_switch_steering_off(llama, vector):
    ids = torch.arange(6)[None]
    cache = llama.model(input_ids=ids, use_cache=True).past_key_values

    def decode() -> None:
        llama.model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)

    plain = llama.model(input_ids=ids).last_hidden_state
    with steered(llama.model, vector, layer=1):
        alone = llama.model(input_ids=ids).last_hidden_state
        between = llama.model.layers[0].register_forward_pre_hook(lambda *_: _in_another_thread(decode))
        beside = llama.model(input_ids=ids).last_hidden_state
        between.remove()
    assert torch.equal(alone, beside) and not torch.equal(alone, plain)


def _in_another_thread(work) -> None:
    if threading.current_thread() is threading.main_thread():
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
