"""The calibration frame: one decoder block in memory's focus at a time.

The inputs of the first block are caught once, with masks and positions; then every block is run over them, its Linears'
inputs counted in the order in which they depend on each other, and its outputs are the inputs of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from corral.core.errors import DataError
from corral.models.quantized import QuantizedLinear
from corral.models.sites import blocks as decoder_blocks
from corral.quant.statistics import InputAccumulator, InputStatistics

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LINEAR_GROUPS: Final = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""The Linears of a Llama block in the order of their dependence; those of a group read the same input."""
LINEARS: Final = tuple(name for group in LINEAR_GROUPS for name in group)
ATTENTION: Final = "self_attn"
FEED_FORWARD: Final = "mlp"
NORMS: Final = {LINEAR_GROUPS[0]: "input_layernorm", LINEAR_GROUPS[2]: "post_attention_layernorm"}
"""Groups that read a norm's output, and that norm."""
BEFORE: Final = {LINEAR_GROUPS[1]: "self_attn.v_proj", LINEAR_GROUPS[3]: "mlp.up_proj"}
"""Groups that read what a Linear's output is a factor of, channel by channel, and that Linear."""

BATCH_TOKENS: Final = 2048
_ATTENTION_TOKENS: Final = 1024


class _StopForwardError(Exception):
    """Ends a forward pass whose rest is not needed."""


@dataclass
class CalibratedBlock:
    """A block and what was seen of it, for methods that look at more than one Linear.

    Attributes:
        name: in the model.
        block: the module; methods may change its parameters.
        inputs: statistics by the Linear's name inside the block. A method that rescales an input replaces them.
        attention_calls: arguments of some calls of the attention module.
    """

    name: str
    block: nn.Module
    inputs: dict[str, InputStatistics]
    attention_calls: list[dict[str, Any]] = field(default_factory=list)

    def linear(self, name: str) -> nn.Linear:
        """A Linear of the block."""
        found = self.block.get_submodule(name)
        assert isinstance(found, nn.Linear)  # noqa: S101 - `llama_blocks` has looked
        return found


class BlockStream:
    """Hidden states of the calibration text on their way through the blocks.

    Args:
        model: whose blocks they pass.
        windows_WT: token ids, all windows of one length.

    Attributes:
        tokens: how many there are.
    """

    def __init__(self, model: PreTrainedModel, windows_WT: Tensor) -> None:
        self.tokens = windows_WT.numel()
        per_batch = max(1, BATCH_TOKENS // windows_WT.shape[1])
        self._batches: list[tuple[Tensor, dict[str, Any]]] = []
        self._running = 0  # number of the batch that a block runs over
        first = decoder_blocks(model.base_model)[0]
        for batch_BT in torch.split(windows_WT, per_batch):
            self._batches.append(_first_call(model, first, batch_BT))

    def outputs(self, block: nn.Module) -> tuple[Tensor, Tensor]:
        """The states of the first batch, and what a block makes of them."""
        states, options = self._batches[0]
        with torch.no_grad():
            return states, _tensor(block(states, **options))

    def advance(self, block: nn.Module) -> None:
        """Let a block take the states to the next."""
        with torch.no_grad():
            self._batches = [(_tensor(block(states, **options)), options) for states, options in self._each()]

    @contextmanager
    def remembering(self, block: nn.Module) -> Iterator[Callable[[], None]]:
        """Meanwhile a Linear that is done runs once over each batch, however often the block does.

        The block runs over the text once for every group of Linears, and once more to go on: most of that is what the
        groups before have said already. Takes memory for the outputs of all of a block's Linears over the text.

        Yields:
            To be called when more Linears are done, which is when they are ``QuantizedLinear``.
        """
        wrapped: list[QuantizedLinear] = []

        def remember() -> None:
            for module in block.modules():
                if isinstance(module, QuantizedLinear) and module not in wrapped:
                    module.forward = self._once(module.forward)  # type: ignore[assignment]
                    wrapped.append(module)

        try:
            yield remember
        finally:
            for module in wrapped:
                del module.forward

    def _once(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        said: dict[int, Tensor] = {}

        def remembered(inputs: Tensor) -> Tensor:
            if self._running not in said:
                said[self._running] = forward(inputs)
            return said[self._running]

        return remembered

    def observe(
        self, block: nn.Module, groups: Sequence[tuple[str, ...]], *, hessian: bool, where: str
    ) -> dict[str, InputStatistics]:
        """Statistics of the inputs of some groups of Linears, by the Linear's name; a pass ends with the last group.

        Raises:
            DataError: inputs that are not finite.
        """
        counters = {
            group: InputAccumulator(_in_features(block, group[0]), self.tokens, hessian=hessian) for group in groups
        }
        for _ in self._passes(block, counters, until=groups[-1][0]):
            pass
        found = {group: counters[group].finish(f"{where}.{group[0]}") for group in groups}
        return {name: statistics for group, statistics in found.items() for name in group}

    def attention_calls(self, block: nn.Module) -> list[dict[str, Any]]:
        """Arguments of the attention module for some thousand tokens."""
        calls: list[dict[str, Any]] = []

        def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append(dict(kwargs) | ({"hidden_states": args[0]} if args else {}))
            raise _StopForwardError

        handle = block.get_submodule(ATTENTION).register_forward_pre_hook(keep, with_kwargs=True)
        try:
            for states, options in self._batches:
                _run(block, states, options)
                if sum(call["hidden_states"].shape[:2].numel() for call in calls) >= _ATTENTION_TOKENS:
                    break
        finally:
            handle.remove()
        return calls

    def _passes(
        self, block: nn.Module, counters: dict[tuple[str, ...], InputAccumulator], *, until: str
    ) -> Iterator[None]:
        with ExitStack() as hooks:
            for group, counter in counters.items():
                hooks.enter_context(_counted(block.get_submodule(group[0]), counter, last=group[0] == until))
            for states, options in self._each():
                _run(block, states, options)
                yield

    def _each(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Every batch, while a block runs over it."""
        for number, batch in enumerate(self._batches):
            self._running = number
            yield batch


@contextmanager
def _counted(linear: nn.Module, counter: InputAccumulator, *, last: bool) -> Iterator[None]:
    def count(_module: nn.Module, args: tuple[Any, ...]) -> None:
        counter.add(args[0])
        if last:
            raise _StopForwardError

    handle = linear.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def llama_blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The decoder blocks by their name in the model.

    Raises:
        DataError: they are not those of a Llama, or a weight is not finite; names the layer.
    """
    found: dict[str, nn.Module] = {}
    prefix = f"{model.base_model_prefix}.layers"
    for number, block in enumerate(decoder_blocks(model.base_model)):
        name = f"{prefix}.{number}"
        for linear in LINEARS:
            module = dict(block.named_modules()).get(linear)
            if not isinstance(module, nn.Linear):
                raise DataError(
                    f"`{name}` has no Linear `{linear}`: only blocks like those of a Llama can be quantized", where=name
                )
            if not module.weight.is_meta and not bool(torch.isfinite(module.weight).all()):
                raise DataError("the weight is not finite", where=f"{name}.{linear}")
        found[name] = block
    return found


def _first_call(model: PreTrainedModel, first: nn.Module, ids_BT: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """The states and other arguments that the first block is called with."""
    caught: list[tuple[Tensor, dict[str, Any]]] = []

    def catch(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = dict(kwargs)
        states = args[0] if args else given.pop("hidden_states")
        caught.append((states, given))
        raise _StopForwardError

    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        with torch.no_grad():
            model.base_model(input_ids=ids_BT, use_cache=False)
    except _StopForwardError:
        pass
    finally:
        handle.remove()
    return caught[0]


def _run(block: nn.Module, states: Tensor, options: dict[str, Any]) -> None:
    try:
        with torch.no_grad():
            block(states, **options)
    except _StopForwardError:
        pass


def _in_features(block: nn.Module, name: str) -> int:
    return int(block.get_submodule(name).in_features)  # type: ignore[arg-type]


def _tensor(output: Any) -> Tensor:
    """A Llama block of transformers 5 returns the states themselves, others a tuple around them."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
