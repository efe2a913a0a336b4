"""Which tokens a Llama Guard can write: what its head may be trimmed to (see ``models/head_trimming``)."""

from __future__ import annotations

from itertools import permutations

from corral.guards.llama_guard.grammar import SAFE, format_verdict
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.models.chat import ChatTokenizer


def verdict_token_ids(chat: ChatTokenizer, policy: PolicyPrompt, *, label_prefix: str = "") -> tuple[int, ...]:
    """Every token of every verdict in the grammar of a policy, and the token that ends a turn; sorted.

    A byte-pair tokenizer may merge a code with what stands beside it, so codes are looked at alone, in pairs and in
    triples, which is as far as its merges over a comma can reach.

    Args:
        chat: the tokenizer.
        policy: whose codes are to be written.
        label_prefix: what the model writes before a label.
    """
    codes = policy.codes
    verdicts = [SAFE, *(format_verdict(chosen) for n in (1, 2, 3) for chosen in permutations(codes, n))]
    ids = {token for verdict in verdicts for token in chat.encode_text(label_prefix + verdict)}
    end = chat.tokenizer.eos_token_id
    return tuple(sorted(ids | ({end} if end is not None else set())))
