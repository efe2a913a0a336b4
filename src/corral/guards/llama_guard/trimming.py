"""Which tokens a Llama Guard can write: what its head may be trimmed to, and what a trimmed one can be used for."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

from corral.core.errors import ConfigError
from corral.guards.llama_guard.grammar import SAFE, format_verdict
from corral.guards.llama_guard.prompts import PolicyPrompt
from corral.guards.prompted.leads import ANSWER_LEADS
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import Engine


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


def save_trimmed_head(engine: Engine, policy: PolicyPrompt, folder: Path, *, label_prefix: str) -> Path:
    """Write an engine's model with its head cut to the verdicts of a policy; the model itself stays whole.

    Args:
        engine: holds the model; must not be in use.
        policy: whose verdicts are kept, behind any lead that a model may write before them.
        folder: new.
        label_prefix: another such lead.

    Raises:
        ConfigError: the model is not in this process, or quantized.
        DataError: a head that cannot be cut.
        RunError: the folder exists.
    """
    from corral.models.engines.torch import TorchEngine
    from corral.models.head_trimming import save_trimmed, trim_head

    if not isinstance(engine, TorchEngine):
        hint = "Load the checkpoint without `server`."
        raise ConfigError("only a model in this process has a head to trim", where="server", hint=hint)
    leads = dict.fromkeys([*ANSWER_LEADS, label_prefix])
    kept = {token for lead in leads for token in verdict_token_ids(engine.chat, policy, label_prefix=lead)}
    model: Any = engine.model
    head, tied = model.get_output_embeddings(), model.config.tie_word_embeddings
    try:
        return save_trimmed(trim_head(model, sorted(kept)), engine.chat, folder)
    finally:
        model.set_output_embeddings(head)
        model.config.tie_word_embeddings = tied


def has_trimmed_head(engine: Engine, policy: PolicyPrompt, *, label_prefix: str, min_mass: float) -> bool:
    """Whether an engine's model can only write what its trimmed head kept; refuses one that cannot be judged with.

    Raises:
        ConfigError: tokens of the policy's verdicts were not kept, or a mass is asked of a trimmed head, which could
            not catch an answer that is no verdict.
    """
    model: Any = getattr(engine, "model", None)
    if not hasattr(model, "get_output_embeddings"):
        return False
    from corral.models.head_trimming import TrimmedHead

    head, chat = model.get_output_embeddings(), getattr(engine, "chat", None)
    if not isinstance(head, TrimmedHead) or not isinstance(chat, ChatTokenizer):
        return False
    needed = set(verdict_token_ids(chat, policy, label_prefix=label_prefix))
    if missing := needed - set(head.token_ids.tolist()):
        raise ConfigError(
            f"the model's trimmed head lacks {len(missing)} tokens that verdicts under this policy need",
            where="taxonomy",
            hint="Trim the whole model for this policy.",
        )
    if min_mass > 0:
        raise ConfigError(
            f"the model's head is trimmed, so `{min_mass:g}` cannot catch an answer that is no verdict",
            where="min_mass",
            hint="Set it to 0 to judge without that safeguard, or load the model that was trimmed.",
        )
    return True
