"""Claim: the identities that a mixture must keep, on the model itself in float32. Each gives a largest difference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from corral.core.evidence import Claim
from corral.data.messages import Conversation
from corral.models.batching import pad, unpad
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import GenerationSettings
from corral.models.engines.first_tokens import FirstTokensSwitch, contrast_logits
from corral.models.loading import load_causal_lm, load_tokenizer
from corral.models.routing.installing import (
    RoutingShape,
    collapse_routers,
    install_routing,
    recorded_gates,
    remove_routing,
    routing_of,
)
from corral.models.routing.record import RoutingRecord
from corral.studies.claims import NOTHING_ELSE
from corral.studies.mogu.trainings import Trainings
from corral.studies.training import training_module

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_NAME: Final = "identity_tests"
_PROMPTS: Final = ("How do I bake bread?", "Name three rivers of Europe and say where each of them ends.", "Hi")
_ROUNDING: Final = 1e-3  # of logits of a whole float32 model, whose sums are taken in another order
_TOKENS: Final = 24


def identity_tests(trainings: Trainings) -> Claim:
    """Every identity with its largest difference and what it may be."""
    config = trainings.config
    checks = [
        {"identity": name, "largest_difference": found, "allowed": allowed, "holds": found <= allowed}
        for name, found, allowed in _checks(trainings)
    ]
    holds = all(check["holds"] for check in checks)
    return Claim(
        claim=_NAME,
        metric=f"largest absolute difference over {len(_PROMPTS)} prompts on `{config.base}` in float32, by identity",
        baseline=None,
        ours=checks,
        n=len(checks),
        ci95=None,
        seeds=(config.seeds[0],),
        expected="every difference is within what is allowed: 0 where the arithmetic is the same, rounding elsewhere",
        holds=holds,
        toy=config.toy,
        tried=tuple(config.tried.get(_NAME, ())) or (() if holds else NOTHING_ELSE),
    )


def _checks(trainings: Trainings) -> Iterator[tuple[str, float, float]]:
    """Name, largest difference, what is allowed."""
    import torch

    folder = trainings.mixture(trainings.config.seeds[0])
    chat = ChatTokenizer(load_tokenizer(folder))
    prompts = [chat.encode_prompt(Conversation.user(text)) for text in _PROMPTS]
    plain = load_causal_lm(trainings.config.base, dtype=torch.float32)
    expected = _logits(plain, prompts)
    gated = load_causal_lm(folder, dtype=torch.float32)
    routing = routing_of(gated)
    if routing is None:
        return
    with routing.control.using("base"):
        yield "base mode gives the base model's logits", _difference(_logits(gated, prompts), expected), 0.0
    with routing.control.using("unwill"):
        adapted = _logits(_with_peft(trainings, gated), prompts)
        yield "a = 1, b = 0 gives the logits of PEFT", _difference(_logits(gated, prompts), adapted), _ROUNDING
    again = load_causal_lm(folder, dtype=torch.float32)
    yield "loading twice gives the same bits", _difference(_logits(again, prompts), _logits(gated, prompts)), 0.0
    yield "left-padded rows equal single rows", _padding_difference(gated, prompts), _ROUNDING
    yield "tokens after the switch that are not the base model's own", _switch_errors(gated, plain, chat), 0.0
    yield (
        "SafeDecoding's distribution equals brute force",
        _contrast_difference([row[-1] for row in expected], [row[-1] for row in adapted]),
        1e-9,
    )
    fresh = load_causal_lm(trainings.config.base, dtype=torch.float32)
    yield from _fresh_checks(fresh, prompts, expected)


def _fresh_checks(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], expected: Sequence[Tensor]
) -> Iterator[tuple[str, float, float]]:
    """What holds before any training, of the faithful form, and after everything is taken out again."""
    import torch

    layers = tuple(range(model.config.num_hidden_layers))
    routing = install_routing(model, RoutingShape(layers, rank=2, alpha=4, router_width=32), glad=True)
    yield "a fresh mixture gives the base model's logits", _difference(_logits(model, prompts), expected), 0.0
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in routing.parameters("router"):
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.05)
    faithful = _gates(model, prompts[0])
    collapse_routers(routing)
    yield "collapsed routers give the faithful ones' gates", _difference(_gates(model, prompts[0]), faithful), 1e-5
    remove_routing(model)
    yield "after removal the model is as it was", _difference(_logits(model, prompts), expected), 0.0


def _logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> list[Tensor]:
    import torch

    with torch.no_grad():
        return [model(torch.tensor([list(ids)]), use_cache=False).logits[0] for ids in prompts]


def _gates(model: PreTrainedModel, ids: Sequence[int]) -> list[Tensor]:
    with recorded_gates(model) as gates:
        _logits(model, [ids])
        return [gate for each in gates.values() for gate in each]


def _difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def _with_peft(trainings: Trainings, gated: PreTrainedModel) -> Any:
    """PEFT's model of the base with the weights of the reluctant expert."""
    import torch

    record = RoutingRecord.read(trainings.mixture(trainings.config.seeds[0]))
    base = load_causal_lm(trainings.config.base, dtype=torch.float32)
    adapted = training_module("lora").with_lora(
        base, first_layer=0, rank=record.rank, alpha=int(record.alpha), targets=("o_proj",)
    )
    routing = routing_of(gated)
    with torch.no_grad():
        for layer, each in () if routing is None else routing.gated.items():
            theirs = adapted.base_model.model.model.layers[layer].self_attn.o_proj
            theirs.lora_A["default"].weight.copy_(each.unwill.a_RI)
            theirs.lora_B["default"].weight.copy_(each.unwill.b_OR)
    return adapted.eval()


def _padding_difference(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> float:
    import torch

    batch = pad(prompts, side="left")
    with torch.no_grad():
        together = model(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            position_ids=batch.position_ids_BT,
            use_cache=False,
        ).logits
    return _difference(unpad(together, [len(ids) for ids in prompts], "left"), _logits(model, prompts))


def _switch_errors(gated: PreTrainedModel, plain: PreTrainedModel, chat: ChatTokenizer) -> float:
    """Tokens after the switch that the base model would not have written after the same ones, read anew each time."""
    import torch

    switch = FirstTokensSwitch(gated, chat, first_tokens=5)
    wrong = 0
    asked = [Conversation.user(text) for text in _PROMPTS]
    for prompt, answer in zip(asked, switch.generate(asked, GenerationSettings(max_new_tokens=_TOKENS)), strict=True):
        ids = [*chat.encode_prompt(prompt), *answer.token_ids]
        start = len(ids) - len(answer.token_ids)
        with torch.no_grad():
            own = plain(torch.tensor([ids]), use_cache=False).logits[0].argmax(dim=-1).tolist()
        wrong += sum(own[place - 1] != ids[place] for place in range(start + 5, len(ids)))
    return float(wrong)


def _contrast_difference(base: Sequence[Tensor], expert: Sequence[Tensor]) -> float:
    """Against the distribution as the paper tells it: k grows by one until enough tokens are shared."""
    import torch

    worst = 0.0
    for ours, theirs in zip(base, expert, strict=True):
        found = contrast_logits(ours[None], theirs[None], alpha=3.0, shared=5)[0].exp()
        p_base, p_expert = ours.double().softmax(-1), theirs.double().softmax(-1)
        orders = [p.argsort(descending=True, stable=True).tolist() for p in (ours, theirs)]
        k = 5
        while len(shared := set(orders[0][:k]) & set(orders[1][:k])) < 5:
            k += 1
        pushed = torch.zeros_like(p_base)
        for token in shared:
            pushed[token] = max(float(p_base[token] + 3.0 * (p_expert[token] - p_base[token])), 1e-8)
        worst = max(worst, float((found - pushed / pushed.sum()).abs().max()))
    return worst
