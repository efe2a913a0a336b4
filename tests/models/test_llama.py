"""The light decoder computes what transformers' LlamaModel computes."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.core.errors import ConfigError, DataError, NotFoundError
from corral.models import llama as light
from corral.models.batching import pad
from corral.models.llama import LlamaDecoder, LlamaShape
from corral.models.loading import load_backbone, load_inference_decoder
from corral.models.packed.int8 import int8_is_exact

exact = pytest.mark.skipif(not int8_is_exact(), reason="no exact 8-bit products on this machine")
token_lists = st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=20), min_size=1, max_size=5)


@pytest.fixture(scope="module")
def folder(llama, tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    llama.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def reference(folder):
    return load_backbone(folder, layers=2)


@pytest.fixture(scope="module")
def decoder(folder):
    return load_inference_decoder(folder, layers=2)


@given(token_lists)
@settings(deadline=None)
def test_hidden_states_equal_those_of_transformers_on_every_token(reference, decoder, sequences):
    batch = pad(sequences)
    with torch.inference_mode():
        ours = decoder(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state
        theirs = reference(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).last_hidden_state
    real = batch.attention_mask_BT.bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-5)
    assert not ours[~real].any()


def test_off_the_cpu_hidden_states_equal_those_of_transformers_too(reference, decoder, monkeypatch):
    # The path of other devices, computed on this one.
    monkeypatch.setattr("corral.models.llama._is_cpu", lambda tensor: False)
    batch = pad([[5, 6, 7, 8], [9], [10, 11]])
    with torch.inference_mode():
        ours = decoder(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state
        theirs = reference(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).last_hidden_state
    real = batch.attention_mask_BT.bool()
    torch.testing.assert_close(ours[real], theirs[real], atol=1e-5, rtol=1e-5)
    assert not ours[~real].any()


def test_a_row_without_tokens_is_all_zeros(decoder):
    mask = torch.tensor([[1, 1], [0, 0], [1, 0]])
    states = decoder(torch.tensor([[1, 2], [3, 4], [5, 6]]), mask).last_hidden_state
    assert not states[1].any()
    assert states[0].any()


def test_weights_that_change_after_the_first_pass_are_used(folder):
    decoder = load_inference_decoder(folder)
    batch = pad([[5, 6, 7]])
    before = decoder(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state
    with torch.no_grad():
        decoder.layers[0].self_attn.k_proj.weight.zero_()
    changed = decoder(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state
    assert not torch.allclose(before, changed)
    decoder.load_state_dict(load_inference_decoder(folder).state_dict(), assign=True)
    torch.testing.assert_close(decoder(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state, before)


@given(
    st.lists(st.lists(st.integers(0, 200), max_size=20), min_size=1, max_size=5),
    st.sampled_from([[7], [7, 8, 9]]),
)
@settings(deadline=None)
def test_an_expected_beginning_gives_what_the_whole_gives(reference, folder, tails, beginning):
    # Also where only some sequences begin with it, or one is nothing else.
    decoder = load_inference_decoder(folder, layers=2)
    decoder.expect([[7], [7, 8, 9], [50, 51]])
    sequences = [[*beginning, *tail] for tail in tails]
    batch = pad(sequences)
    with torch.inference_mode():
        theirs = reference(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).last_hidden_state
        first, again = (decoder(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state for _ in range(2))
    real = batch.attention_mask_BT.bool()
    torch.testing.assert_close(first[real], theirs[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, first, atol=0, rtol=0)


def test_an_expected_beginning_is_computed_once_and_anew_when_weights_change(folder, monkeypatch):
    computed = []
    compute = light.beginning_of
    monkeypatch.setattr(light, "beginning_of", lambda weights, ids: computed.append(ids) or compute(weights, ids))
    decoder = load_inference_decoder(folder)
    decoder.expect([[5, 6], [9, 9]])
    for tail in ([7], [8, 8, 1], [7]):
        decoder(torch.tensor([[5, 6, *tail]]), torch.ones(1, 2 + len(tail)))
    assert computed == [(5, 6)]
    with torch.no_grad():
        decoder.layers[0].self_attn.k_proj.weight.zero_()
    changed = decoder(torch.tensor([[5, 6, 7]]), torch.ones(1, 3)).last_hidden_state
    assert computed == [(5, 6)] * 2
    decoder.expect([])
    whole = decoder(torch.tensor([[5, 6, 7]]), torch.ones(1, 3)).last_hidden_state
    torch.testing.assert_close(changed, whole, atol=1e-5, rtol=1e-5)


def test_a_batch_that_shares_more_than_what_is_expected_computes_that_once(folder, monkeypatch):
    monkeypatch.setattr(light, "beginning_of", lambda *_: pytest.fail("the batch shares more"))
    decoder = load_inference_decoder(folder)
    decoder.expect([[5]])
    decoder(torch.tensor([[5, 6, 7, 8, 1], [5, 6, 7, 8, 2], [5, 6, 7, 8, 3]]), torch.ones(3, 5))


@exact
def test_8_bits_are_near_and_a_batch_gives_what_single_sequences_give(reference, folder):
    decoder = load_inference_decoder(folder, layers=2, dtype=torch.bfloat16)
    decoder.use_int8()
    sequences = [[5, 6, 7, 8, 9, 10], [9], [10, 11, 12]]
    batch = pad(sequences)
    with torch.inference_mode():
        ours = decoder(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state
        theirs = reference(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).last_hidden_state
        single = [decoder(torch.tensor([ids]), torch.ones(1, len(ids))).last_hidden_state[0] for ids in sequences]
    real = batch.attention_mask_BT.bool()
    error = (ours[real] - theirs[real]).norm() / theirs[real].norm()
    assert 0 < float(error) < 0.03
    torch.testing.assert_close(torch.cat(single), ours[real], atol=0.02, rtol=0.02)


@exact
def test_8_bits_stay_near_where_a_channel_of_the_stream_is_far_larger_than_the_others(folder):
    decoder, rounded = (load_inference_decoder(folder, layers=2) for _ in range(2))
    rounded.use_int8()
    batch = pad([[5, 6, 7, 8, 9, 10], [9]])
    large = 100 * decoder.embed_tokens.weight.std()
    with torch.inference_mode():
        for model in (decoder, rounded):
            model.embed_tokens.weight[:, 3] = large
        exactly, ours = (
            model(batch.input_ids_BT, batch.attention_mask_BT).last_hidden_state for model in (decoder, rounded)
        )
    # Of what the layers add to the stream.
    added = exactly - decoder.embed_tokens.weight[batch.input_ids_BT]
    real = batch.attention_mask_BT.bool()
    error = (ours - exactly)[real].norm() / added[real].norm()
    assert 0 < float(error) < 0.015  # twice that without the turn


def test_8_bits_are_refused_where_their_products_are_not_exact(decoder, monkeypatch):
    monkeypatch.setattr(light, "int8_is_exact", lambda: False)
    with pytest.raises(ConfigError, match="8-bit"):
        decoder.use_int8()
    monkeypatch.setattr(light, "_is_cpu", lambda tensor: False)
    with pytest.raises(ConfigError, match="CPU only"):
        decoder.use_int8()


def test_the_final_norm_is_kept_on_request(folder):
    batch = pad([[5, 6, 7]])
    ours = load_inference_decoder(folder, final_norm=True)(batch.input_ids_BT, batch.attention_mask_BT)
    theirs = load_backbone(folder, final_norm=True)(input_ids=batch.input_ids_BT)
    torch.testing.assert_close(ours.last_hidden_state, theirs.last_hidden_state)


def test_parameters_have_the_names_of_transformers(reference, decoder):
    assert {n: p.shape for n, p in decoder.named_parameters()} == {n: p.shape for n, p in reference.named_parameters()}


def test_the_dtype_is_converted_on_request(folder):
    assert {p.dtype for p in load_inference_decoder(folder, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}


def test_left_padding_and_a_cache_are_refused(decoder):
    batch = pad([[1, 2, 3], [4]], side="left")
    with pytest.raises(ValueError, match="right padding"):
        decoder(batch.input_ids_BT, batch.attention_mask_BT)
    with pytest.raises(ValueError, match="cache"):
        decoder(batch.input_ids_BT[:1], batch.attention_mask_BT[:1], use_cache=True)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "qwen2"},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
    ],
)
def test_a_model_that_is_not_a_plain_llama_is_refused(folder, change):
    config = json.loads((folder / "config.json").read_text()) | change
    with pytest.raises(DataError, match=next(iter(change))):
        LlamaShape.from_config(config)


def test_missing_files_weights_and_layers_are_named(folder, tmp_path):
    with pytest.raises(DataError, match="the model has 3"):
        LlamaDecoder.from_directory(folder, layers=4)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(NotFoundError, match=r"model\.safetensors"):
        LlamaDecoder.from_directory(tmp_path)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": 9}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"not the weights of this model.*model\.layers\.3"):
        LlamaDecoder.from_directory(tmp_path)
