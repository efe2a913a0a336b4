"""Places inside a decoder where the residual stream can be read or edited, and the hooks that reach them.

Site ``residual.l`` is the input of block ``l`` (0 for the embeddings); with L blocks, ``residual.L`` is the raw output
of the last one, before the final norm. ``attention.l`` and ``mlp.l`` are what the two halves of block ``l`` add.

Legend: B sequences, T tokens, D hidden size, L blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from corral.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

SiteKind = Literal["residual", "attention", "mlp"]
_KINDS: Final[tuple[SiteKind, ...]] = get_args(SiteKind)
_MODULES: Final = {"attention": "self_attn", "mlp": "mlp"}

SiteHook: TypeAlias = "Callable[[Tensor], Tensor | None]"
"""Given the states (B, T, D) of a site; what it returns takes their place, ``None`` leaves them."""


@dataclass(frozen=True, slots=True)
class Site:
    """One place; see the module for what the kinds are."""

    kind: SiteKind
    layer: int

    @property
    def name(self) -> str:
        """For example ``residual.12``."""
        return f"{self.kind}.{self.layer}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sites as a forward pass meets them."""
        return self.layer, _KINDS.index(self.kind)


def blocks(decoder: nn.Module) -> nn.ModuleList:
    """The blocks of a decoder stack (``LlamaModel`` and its kin).

    Raises:
        ConfigError: the model has no list of them, so that no hook can reach inside.
    """
    import torch

    stack = getattr(decoder, "layers", None)
    if not isinstance(stack, torch.nn.ModuleList):
        raise ConfigError(
            f"`{type(decoder).__name__}` has no list of layers",
            hint="Activations need a transformers decoder whose layers are ordinary modules.",
        )
    return stack


def residual_sites(decoder: nn.Module) -> tuple[Site, ...]:
    """The L + 1 sites of the residual stream, lowest first."""
    return tuple(Site("residual", layer) for layer in range(len(blocks(decoder)) + 1))


@contextmanager
def hooked(decoder: nn.Module, hooks: Sequence[tuple[Site, SiteHook]]) -> Iterator[None]:
    """Call functions on the states of sites while the block runs; all hooks are removed however it ends.

    They act on forward passes of this thread only, so another may use the model meanwhile. Several on one site run in
    the order given, each on what the one before made.

    Raises:
        ConfigError: a site that the model does not have.
    """
    stack = blocks(decoder)
    for site, _ in hooks:
        if not 0 <= site.layer <= len(stack) - (site.kind != "residual"):
            raise ConfigError(f"`{site.name}`: the model has layers 0 to {len(stack)}", where="layers")
    thread = threading.get_ident()
    with ExitStack() as attached:
        for site, hook in hooks:
            attached.callback(_attach(stack, site, _in_thread(hook, thread)).remove)
        yield


def _in_thread(hook: SiteHook, thread: int) -> SiteHook:
    return lambda states_BTD: hook(states_BTD) if threading.get_ident() == thread else None


def _attach(stack: nn.ModuleList, site: Site, hook: SiteHook) -> Any:
    if site.kind != "residual":
        module = getattr(stack[site.layer], _MODULES[site.kind], None)
        if module is None:
            raise ConfigError(f"a layer of this model has no `{_MODULES[site.kind]}`", where=site.name)
        return module.register_forward_hook(_on_output(hook))
    if site.layer == len(stack):
        return stack[site.layer - 1].register_forward_hook(_on_output(hook))
    return stack[site.layer].register_forward_pre_hook(_on_input(hook), with_kwargs=True)


def _on_input(hook: SiteHook) -> Any:
    def pre_hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = args[0] if args else kwargs["hidden_states"]
        changed = hook(given)
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": changed})

    return pre_hook


def _on_output(hook: SiteHook) -> Any:
    def post_hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        # A Llama block of transformers 5 returns the tensor itself, where `output[0]` would be a batch row; attention,
        # and blocks of some architectures, return a tuple around it.
        changed = hook(output[0] if isinstance(output, tuple) else output)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return post_hook
