"""The reference way: transformers in float32, the whole prompt of every request, one by one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from corral.bench.guard_throughput.policy_guard import LABEL_PREFIX, policy_prompt
from corral.core.files import atomic_directory
from corral.guards.llama_guard.grammar import LABELS
from corral.models.embedded import cache_root

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from corral.models.chat import ChatTokenizer


def measure_generate(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Speed of ``generate`` (greedy), and ``p_unsafe`` of whole prompts from plain forward passes.

    Args:
        settings: ``model``, ``threads``, ``max_new_tokens``, ``requests`` (the first one warms up) and ``prompts``.

    Returns:
        ``request_seconds`` of each request but the first, and ``p_unsafe`` of each prompt.
    """
    import torch

    from corral.models.chat import ChatTokenizer
    from corral.models.loading import load_causal_lm, load_tokenizer

    torch.set_num_threads(settings["threads"])
    chat = ChatTokenizer(load_tokenizer(settings["model"]))
    model = load_causal_lm(settings["model"], dtype=torch.float32)
    seconds = [_generate_seconds(model, chat, text, settings["max_new_tokens"]) for text in settings["requests"]]
    return {
        "request_seconds": seconds[1:],
        "p_unsafe": [_p_unsafe(model, chat, text) for text in settings["prompts"]],
    }


def served_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A model as an ordinary directory in bfloat16, for a server to load.

    It is written into the cache once: vLLM compiles a model anew for every path.

    Args:
        settings: ``model``.

    Returns:
        ``folder``.
    """
    import torch

    from corral.models.loading import load_causal_lm, load_tokenizer, weights_revision

    ref = settings["model"]
    folder = cache_root() / "served" / f"{weights_revision(ref).replace('/', '-')}-bfloat16"
    if not folder.is_dir():
        with atomic_directory(folder) as staged:
            load_causal_lm(ref, dtype=torch.bfloat16).save_pretrained(staged)
            load_tokenizer(ref).save_pretrained(staged)
    return {"folder": str(folder)}


def _generate_seconds(model: PreTrainedModel, chat: ChatTokenizer, text: str, max_new_tokens: int) -> float:
    import torch

    started = time.perf_counter()
    ids_1T = torch.tensor([chat.encode_prompt(policy_prompt(text))])
    with torch.inference_mode():
        generate: Any = model.generate
        generate(
            ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=chat.tokenizer.eos_token_id,
        )
    return time.perf_counter() - started


def _p_unsafe(model: PreTrainedModel, chat: ChatTokenizer, text: str) -> float:
    """Share of ``unsafe`` in the two labels, each scored as a completion of the whole prompt."""
    log_safe, log_unsafe = (_completion_logprob(model, chat, text, LABEL_PREFIX + label) for label in LABELS)
    return 1 / (1 + math.exp(log_safe - log_unsafe))


def _completion_logprob(model: PreTrainedModel, chat: ChatTokenizer, text: str, completion: str) -> float:
    import torch

    prompt_ids, completion_ids = chat.encode_completion(policy_prompt(text), completion)
    with torch.inference_mode():
        logits_TV = model(torch.tensor([prompt_ids + completion_ids])).logits[0].float()
    scores_TV = logits_TV[len(prompt_ids) - 1 : -1].log_softmax(dim=-1)
    return float(scores_TV.gather(1, torch.tensor(completion_ids)[:, None]).sum())
