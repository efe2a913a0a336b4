"""The default guard's speed and memory, and plain transformers under the same load."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from corral.bench.requests import benign_requests
from corral.core.errors import CorralError, GuardError
from corral.data.messages import Conversation

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from corral.guards.base import Guard

Batch = list[str]
# How many texts to cut messages from: some are no longer of the wanted number of tokens once they are cut.
_SPARE: Final = 2
_PRODUCT: Final = 2048
_PRODUCTS: Final = 5


def measure_default_guard(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Speed of the default guard in batches, from texts to verdicts, and its latency at one message.

    Args:
        settings: ``weights`` (folder of one trained guard, or null for the default guard), ``dtype``, ``threads``,
            ``batch_size``, ``batches`` a round, ``rounds``, ``singles`` (messages judged one by one), ``seed``, and
            ``loads``: name to the shortest and the longest message, in tokens of the text alone.

    Returns:
        ``round_seconds`` of each load, ``latency_ms`` of each single message of the first load; ``bf16_gflops``, what
        the machine reaches in a large matrix product at the time; ``asked_all``, the share of single messages that
        every network read; and what a peer needs to compute the same: ``networks``, with ``base``, ``layers`` and
        ``dtype`` of each.

    Raises:
        GuardError: the guard gave no verdict on a message.
    """
    from corral.models.loading import load_fast_tokenizer

    guard, folders = _guard(settings), _folders(settings)
    networks = [_network(folder, guard) for folder in folders]
    tokenizer = load_fast_tokenizer(networks[0]["base"])
    first, *_ = settings["loads"].values()
    judge = partial(_classify, guard)
    singles = messages(tokenizer, settings["singles"], first, seed=settings["seed"] - 1)
    return {
        "networks": networks,
        "round_seconds": _each_load(tokenizer, settings, judge),
        "latency_ms": [1e3 * _seconds(judge, [[text]]) for text in singles],
        "asked_all": _asked_all(guard, singles, len(networks)),
        "bf16_gflops": [_product_speed()],
    }


def score_by_default_guard(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the default guard makes of prompts.

    Args:
        settings: ``weights``, ``dtype``, ``threads``, ``batch_size`` and ``prompts``.

    Returns:
        ``p_harm`` of each prompt.

    Raises:
        GuardError: the guard gave no verdict on a prompt.
    """
    guard, prompts, size = _guard(settings), settings["prompts"], settings["batch_size"]
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    return {"p_harm": [p_harm for batch in batches for p_harm in _classify(guard, batch)]}


def int8_possible(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Whether this processor has the products that the default guard needs in its 8-bit mode: ``possible``."""
    from corral.models.packed.int8 import int8_is_exact

    return {"possible": int8_is_exact()}


def measure_plain_transformers(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Speed of transformers with one network of the guard, its layers and dtype; token ids are made beforehand.

    Args:
        settings: those of ``measure_default_guard``, and ``base``, ``layers`` and ``dtype`` of one of its networks;
            ``tokenizer``, the base whose tokens messages are counted in.

    Returns:
        ``round_seconds`` of each load.
    """
    import torch

    from corral.guards.default.encoding import ConversationEncoder
    from corral.models.batching import pad
    from corral.models.loading import is_encoder, load_backbone, load_fast_tokenizer

    torch.set_num_threads(settings["threads"])
    model = load_backbone(settings["base"], layers=settings["layers"], dtype=getattr(torch, settings["dtype"]))
    encoder = ConversationEncoder.for_base(settings["base"])
    no_cache: dict[str, Any] = {} if is_encoder(settings["base"]) else {"use_cache": False}

    def prepare(batch: Batch) -> list[list[int]]:
        encoded = [encoder.encode_whole(Conversation.user(text), "prompt") for text in batch]
        return [tokens.ids for tokens in encoded if tokens is not None]

    def run(sequences: list[list[int]]) -> None:
        padded = pad(sequences)
        with torch.inference_mode():
            model(input_ids=padded.input_ids_BT, attention_mask=padded.attention_mask_BT, **no_cache)

    tokenizer = load_fast_tokenizer(settings["tokenizer"])
    return {"round_seconds": _each_load(tokenizer, settings, run, prepare=prepare)}


def messages(tokenizer: Tokenizer, count: int, lengths: Sequence[int], *, seed: int) -> list[str]:
    """Distinct texts whose numbers of tokens are drawn evenly from ``lengths`` (shortest, longest).

    Raises:
        CorralError: too few are found, as when tokens are longer than words.
    """
    shortest, longest = lengths
    draw = random.Random(f"messages {seed}")  # noqa: S311 - texts to measure with, not secrets
    found: dict[str, None] = {}
    for text in benign_requests(_SPARE * count, shortest=longest, longest=longest, seed=seed):
        wanted = draw.randint(shortest, longest)
        cut = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids[:wanted])
        if len(tokenizer.encode(cut, add_special_tokens=False).ids) == wanted:
            found[cut] = None
        if len(found) == count:
            return list(found)
    raise CorralError(f"found {len(found)} of {count} messages of {shortest} to {longest} tokens")


def _each_load(
    tokenizer: Tokenizer,
    settings: Mapping[str, Any],
    run: Callable[[Any], object],
    *,
    prepare: Callable[[Batch], Any] = lambda batch: batch,
) -> dict[str, list[float]]:
    """Seconds of the rounds of each load; the first batch of a load is not timed, nor is ``prepare``."""
    size, rounds = settings["batch_size"], settings["rounds"]
    seconds = {}
    for number, (name, lengths) in enumerate(settings["loads"].items()):
        per_round = settings["batches"] * size
        texts = messages(tokenizer, size + rounds * per_round, lengths, seed=settings["seed"] + number)
        batches = [prepare(texts[start : start + size]) for start in range(0, len(texts), size)]
        run(batches[0])
        timed = [batches[1 + r * settings["batches"] :][: settings["batches"]] for r in range(rounds)]
        seconds[name] = [_seconds(run, group) for group in timed]
    return seconds


def _guard(settings: Mapping[str, Any]) -> Guard:
    from corral.guards.default.guard import TrainedGuard
    from corral.guards.default.pair import DefaultGuard

    asked: dict[str, Any] = {"dtype": settings["dtype"], "threads": settings["threads"]}
    if settings["weights"] is None:
        return DefaultGuard.load(**asked)
    return TrainedGuard.load(weights=settings["weights"], **asked)


def _folders(settings: Mapping[str, Any]) -> list[Path]:
    """Folders of the trained guards, the one that counts the tokens of messages first."""
    from corral.guards.default.guard import ENGLISH_WEIGHTS, MULTILINGUAL_WEIGHTS

    return [Path(settings["weights"])] if settings["weights"] else [ENGLISH_WEIGHTS, MULTILINGUAL_WEIGHTS]


def _network(folder: Path, guard: Guard) -> dict[str, Any]:
    from corral.core.files import read_json
    from corral.guards.default.guard import GUARD_FILE
    from corral.models.loading import is_encoder

    made_from = read_json(folder / GUARD_FILE)
    dtypes = guard.revision.split("-")[1:]  # a revision ends with it, or with that of each network in its order
    dtype = dtypes[0] if is_encoder(made_from["base"]) else dtypes[-1]
    return {"base": made_from["base"], "layers": made_from["layers"], "dtype": dtype}


def _asked_all(guard: Guard, texts: Sequence[str], networks: int) -> float:
    """The share of messages that every network read."""
    from corral.guards.composition.verdict import leaves

    verdicts = guard.classify([Conversation.user(text) for text in texts], target="prompt")
    return sum(len({name for name, _ in leaves(verdict)}) == networks for verdict in verdicts) / len(verdicts)


def _classify(guard: Guard, batch: Batch) -> list[float]:
    """``p_harm`` of each text."""
    verdicts = guard.classify([Conversation.user(text) for text in batch], target="prompt")
    if failed := [verdict for verdict in verdicts if verdict.flagged is None]:
        raise GuardError(f"no verdict on {len(failed)} of {len(batch)} messages: {failed[0].detail}")
    return [verdict.p_harm for verdict in verdicts if verdict.p_harm is not None]


def _product_speed() -> float:
    """GFLOP/s of a large bfloat16 matrix product, the fastest of some: what a latency is to be read by."""
    import torch

    square = torch.ones(_PRODUCT, _PRODUCT, dtype=torch.bfloat16)
    product = torch.empty_like(square)
    seconds = []
    for _ in range(_PRODUCTS):
        started = time.perf_counter()
        torch.mm(square, square, out=product)
        seconds.append(time.perf_counter() - started)
    return 2 * _PRODUCT**3 / min(seconds) / 1e9


def _seconds(run: Callable[[Any], object], batches: Sequence[Any]) -> float:
    started = time.perf_counter()
    for batch in batches:
        run(batch)
    return time.perf_counter() - started
