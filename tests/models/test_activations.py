"""Hidden states are those of transformers, and nothing above the highest layer is computed."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from corral.core.errors import ConfigError
from corral.models.activations import hidden_states, select_positions
from corral.models.batching import pad


def test_layers_are_the_residual_stream_after_them(llama):
    batch = pad([[5, 6, 7, 8]])
    found = hidden_states(llama.model, batch, [0, 1, 2])
    expected = llama(batch.input_ids_BT, output_hidden_states=True).hidden_states
    for layer in (0, 1, 2):
        torch.testing.assert_close(found[layer], expected[layer])


def test_the_last_layer_is_taken_before_the_final_norm(llama):
    batch = pad([[5, 6, 7, 8]])
    last = hidden_states(llama.model, batch, [3])[3]
    torch.testing.assert_close(llama.model.norm(last), llama.model(batch.input_ids_BT).last_hidden_state)


@pytest.mark.parametrize(("layers", "computed"), [([0], 0), ([1], 1), ([2, 0], 2), ([3], 3)])
def test_layers_above_the_highest_are_not_computed(llama, layers, computed):
    calls = []
    handles = [layer.mlp.register_forward_hook(lambda *_: calls.append(1)) for layer in llama.model.layers]
    try:
        hidden_states(llama.model, pad([[1, 2]]), layers)
    finally:
        for handle in handles:
            handle.remove()
    assert len(calls) == computed


def test_the_models_hooks_are_left_as_they_were(llama):
    def hooks():
        return [(list(layer._forward_hooks), list(layer._forward_pre_hooks)) for layer in llama.model.layers]

    before = hooks()
    hidden_states(llama.model, pad([[1, 2]]), [0, 2])
    assert hooks() == before


def test_another_thread_can_use_the_model_meanwhile(llama):
    batch = pad([[1, 2, 3]])
    outputs = []

    def other(*_):
        thread = threading.Thread(target=lambda: outputs.append(llama(batch.input_ids_BT).logits))
        thread.start()
        thread.join()

    handle = llama.model.layers[0].register_forward_pre_hook(lambda *_: None if outputs or entered else enter())
    entered = []

    def enter():
        entered.append(True)
        other()

    try:
        hidden_states(llama.model, batch, [0, 1])
    finally:
        handle.remove()
    torch.testing.assert_close(outputs[0], llama(batch.input_ids_BT).logits)


@pytest.mark.parametrize("layers", [[4], [-1], []])
def test_layers_that_do_not_exist_are_refused(llama, layers):
    with pytest.raises(ConfigError, match="layers 0 to 3"):
        hidden_states(llama.model, pad([[1]]), layers)


def test_a_model_without_a_list_of_layers_is_refused():
    with pytest.raises(ConfigError, match="no list of layers"):
        hidden_states(nn.Linear(2, 2), pad([[1]]), [0])


def test_positions_are_chosen_from_either_end():
    states = torch.arange(8.0).view(4, 2)
    assert torch.equal(select_positions(states, "all"), states)
    assert torch.equal(select_positions(states, "last"), states[3:])
    assert torch.equal(select_positions(states, [-2, 0]), states[[2, 0]])
    with pytest.raises(ConfigError, match="outside a prompt of 4"):
        select_positions(states, [4])
