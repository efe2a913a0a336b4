"""Gated projections: what each setting of the gates computes, padding, recording, and removal without a trace.

Golden values are PEFT's for a single expert, the ungated model, and the formula written out for one layer.
"""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from corral.core.errors import ConfigError
from corral.models.batching import pad, unpad
from corral.models.routing.gated import CollapsedRouter, FaithfulRouter, GateControl, GatedProjection, LoraExpert
from corral.models.routing.installing import (
    RoutingShape,
    collapse_routers,
    install_routing,
    recorded_gates,
    remove_routing,
    routing_of,
)

IDS = torch.tensor([[5, 6, 7, 8, 9, 3], [9, 8, 7, 6, 5, 4]])


def logits(model, **inputs):
    with torch.no_grad():
        return model(**({"input_ids": IDS} | inputs)).logits


def with_peft(model, routing, part):
    """The model under PEFT's LoRA with the weights of one expert."""
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, lora_alpha=4, target_modules=["o_proj"]))
    with torch.no_grad():
        for layer, each in routing.gated.items():
            theirs = adapted.base_model.model.model.layers[layer].self_attn.o_proj
            expert = getattr(each, part)
            theirs.lora_A["default"].weight.copy_(expert.a_RI)
            theirs.lora_B["default"].weight.copy_(expert.b_OR)
    return adapted.eval()


@pytest.mark.parametrize("part", ["unwill", "glad"])
def test_one_gate_open_and_the_other_shut_is_the_model_with_that_adapter(wide_heads, gated, part):
    model, routing = gated
    expected = logits(with_peft(wide_heads, routing, part))
    assert not torch.allclose(expected, logits(wide_heads))
    with routing.control.using(part):
        torch.testing.assert_close(logits(model), expected)


@pytest.mark.parametrize("part", ["unwill", "glad"])
def test_routers_that_say_so_open_one_gate_alone(wide_heads, gated, part):
    """Biases of +-200 give sigmoids of exactly 1 and 0 in float32."""
    model, routing = gated
    collapse_routers(routing)
    with torch.no_grad():
        for each in routing.gated.values():
            for name, router in (("unwill", each.unwill_router), ("glad", each.glad_router)):
                router.weight_I.zero_()
                router.bias.fill_(200.0 if name == part else -200.0)
    torch.testing.assert_close(logits(model), logits(with_peft(wide_heads, routing, part)))


def test_a_fresh_mixture_is_the_model_itself(wide_heads):
    model = copy.deepcopy(wide_heads)
    install_routing(model, RoutingShape((0, 1, 2), rank=2, alpha=4, router_width=8), glad=True)
    assert torch.equal(logits(model), logits(wide_heads))


def test_in_base_mode_no_bit_differs_from_the_model(wide_heads, gated):
    model, routing = gated
    with routing.control.using("base"):
        assert torch.equal(logits(model), logits(wide_heads))


def test_without_an_eager_expert_the_model_takes_its_place(wide_heads, gate_model):
    model, routing = gate_model(wide_heads, glad=False)
    assert not routing.has_glad
    with routing.control.using("glad"):
        assert torch.equal(logits(model), logits(wide_heads))


def test_a_projection_computes_the_formula():
    torch.manual_seed(0)
    h_BTI = torch.randn(2, 3, 5)
    projection = nn.Linear(5, 4)
    experts = [LoraExpert(5, 4, rank=2, alpha=6) for _ in range(2)]
    routers = (CollapsedRouter(5), CollapsedRouter(5))
    for parameter in [p for each in (*experts, *routers) for p in each.parameters()]:
        nn.init.normal_(parameter)
    gated = GatedProjection(projection, 0, GateControl(), unwill=experts[0], glad=experts[1], routers=routers)
    with torch.no_grad():
        found = gated(h_BTI)
        for row in range(2):
            for token in range(3):
                h = h_BTI[row, token]
                a, b = (torch.sigmoid(r.weight_I @ h + r.bias) for r in routers)
                added = [3.0 * (e.b_OR @ (e.a_RI @ h)) for e in experts]
                expected = (a + b) * projection(h) + a * added[0] + b * added[1]
                torch.testing.assert_close(found[row, token], expected)


def test_a_collapsed_router_is_the_faithful_one():
    torch.manual_seed(0)
    router = FaithfulRouter(48, 16)
    for parameter in router.parameters():
        nn.init.normal_(parameter, std=0.3)
    weight_I, bias = router.collapsed()
    h_BTI = torch.randn(3, 4, 48)
    with torch.no_grad():
        torch.testing.assert_close(h_BTI @ weight_I + bias, router(h_BTI), atol=1e-5, rtol=1e-5)


def test_collapsing_the_routers_of_a_model_changes_its_logits_by_rounding_alone(gated):
    model, routing = gated
    before = logits(model)
    collapse_routers(routing)
    assert {type(each) for each in routing.modules("router")} == {CollapsedRouter}
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_neither_logits_nor_gates(gated, side):
    model, _ = gated
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [11]]
    batch = pad(prompts, side=side)
    with recorded_gates(model) as gates:
        padded = logits(model, input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT,
                        position_ids=batch.position_ids_BT)  # fmt: skip
        together = {layer: unpad(each.unwill_BT, [3, 6, 1], side) for layer, each in gates.items()}
    for row, (prompt, ours) in enumerate(zip(prompts, unpad(padded, [3, 6, 1], side), strict=True)):
        with recorded_gates(model) as gates:
            torch.testing.assert_close(ours, logits(model, input_ids=torch.tensor([prompt]))[0])
        for layer, each in gates.items():
            torch.testing.assert_close(together[layer][row], each.unwill_BT[0])


def test_gates_are_recorded_a_token_and_layer_and_only_where_asked_for(wide_heads, gate_model):
    model, routing = gate_model(wide_heads, layers=(0, 2))
    logits(model)
    with recorded_gates(model) as gates:
        assert not gates
        logits(model)
    assert list(gates) == [0, 2]
    assert all(gate.shape == (2, 6) and gate.min() > 0 and gate.max() < 1 for each in gates.values() for gate in each)
    with recorded_gates(model) as gates, routing.control.using("base"):
        logits(model)
    assert not gates
    with pytest.raises(ConfigError, match="no gates"), recorded_gates(wide_heads):
        pass


def test_a_mode_and_a_recording_hold_for_their_own_thread(wide_heads, gated):
    model, routing = gated
    routed = logits(model)
    found = {}
    with routing.control.using("base"), recorded_gates(model) as gates:
        thread = threading.Thread(target=lambda: found.update(logits=logits(model)))
        thread.start()
        thread.join()
        assert not gates
        assert torch.equal(logits(model), logits(wide_heads))
    assert torch.equal(found["logits"], routed)


def test_the_modes_of_nested_blocks_end_with_them(gated):
    _, routing = gated
    with routing.control.using("unwill"):
        with routing.control.using("base"):
            assert routing.control.mode == "base"
        assert routing.control.mode == "unwill"
    assert routing.control.mode == "routed"


def test_removal_leaves_no_trace(wide_heads):
    model = copy.deepcopy(wide_heads)
    names, projection = list(model.state_dict()), model.model.layers[1].self_attn.o_proj
    install_routing(model, RoutingShape((1, 2), rank=2, alpha=4, router_width=8))
    assert list(routing_of(model).gated) == [1, 2]
    remove_routing(model)
    assert routing_of(model) is None
    assert model.model.layers[1].self_attn.o_proj is projection
    assert list(model.state_dict()) == names
    assert torch.equal(logits(model), logits(wide_heads))


@pytest.mark.parametrize("part", ["unwill", "glad", "router"])
def test_only_the_chosen_part_gets_gradients(gated, part):
    model, routing = gated
    routing.train_only(part, model)
    with routing.control.using("routed" if part == "router" else part):
        model(IDS).logits.square().sum().backward()
    chosen = {id(parameter) for parameter in routing.parameters(part)}
    assert chosen
    for parameter in model.parameters():
        trained = id(parameter) in chosen
        assert (parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)) == trained


def test_dropout_acts_on_an_expert_that_trains_and_on_no_other(wide_heads):
    expert = LoraExpert(48, 4, rank=2, alpha=4, dropout=0.5)
    nn.init.normal_(expert.b_OR)
    h = torch.randn(1, 3, 48)
    expert.train()
    assert not torch.equal(expert(h), expert(h))
    expert.requires_grad_(False)
    assert torch.equal(expert(h), expert(h))


def test_what_cannot_be_gated_is_refused_and_nothing_is_changed(wide_heads, gated):
    with pytest.raises(ConfigError, match="gated already"):
        install_routing(gated[0], RoutingShape((0,)))
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        install_routing(copy.deepcopy(wide_heads), RoutingShape((3,)))
    with pytest.raises(ConfigError, match="layers 0 to 2"):
        install_routing(copy.deepcopy(wide_heads), RoutingShape(()))
    adapted = copy.deepcopy(wide_heads)

    class Quantised(nn.Linear):
        pass

    adapted.model.layers[2].self_attn.o_proj = Quantised(48, 32)
    with pytest.raises(ConfigError, match="plain Linear") as refused:
        install_routing(adapted, RoutingShape((0, 2)))
    assert refused.value.where == "layers.2.self_attn.o_proj"
    assert routing_of(adapted) is None


def test_a_part_that_is_not_there_cannot_be_trained(wide_heads, gate_model):
    model, routing = gate_model(wide_heads, glad=False)
    with pytest.raises(ConfigError, match="glad"):
        routing.train_only("glad", model)
