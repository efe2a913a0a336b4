"""How likely a model behind a server finds given text.

There are two ways. A server that echoes a prompt with log-probabilities scores a completion in one request, but may
compute all of the prompt anew for it. Walking looks up each token among the likeliest after those before it: a request
a token, served from the prefix cache, and possible with every server, but only for tokens that it lists. vLLM can be
held to one that it does not list, and then tells the probability that the token had before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from corral.core.errors import DataError, EngineError
from corral.models.engines.base import CompletionLogprobs, Prompt
from corral.models.engines.openai_client import ModelClient, ModelRequest, ServerPrompt, ids_request
from corral.models.engines.openai_replies import TokenLogprob, echoed_logprobs, first_choice, next_tokens

# vLLM's limit unless it is started with another.
TOP_LOGPROBS: Final = 20

_TIE: Final = 1e-3  # the likeliest that is not listed may be as likely as the last that is, up to rounding
_IDS_AS_TOKENS: Final[Mapping[str, Any]] = {"return_tokens_as_token_ids": True}


async def score_completion(
    client: ModelClient, prompt: ServerPrompt, completion: str, *, echo: bool
) -> CompletionLogprobs:
    """Score all tokens of a completion, in one request with ``echo`` or else walking.

    Raises:
        ConfigError: the client has no tokenizer.
        DataError: a side without tokens, or a prompt that cannot be rendered or does not fit the context.
        EngineError: a request failed for good, or a token is out of reach.
    """
    chat = client.require_chat()
    if isinstance(prompt, Prompt):
        ids, target = chat.encode_completion(prompt, completion)
    else:
        ids, target = list(prompt), chat.encode_text(completion)
    if not ids or not target:
        raise DataError("a score needs at least one token before and one to score")
    return await (_echo(client, ids, target) if echo else _walk(client, ids, target))


async def score_labels(
    client: ModelClient, prompt: ServerPrompt, labels: Sequence[str], *, answer_prefix: str = "", echo: bool
) -> tuple[float, ...]:
    """Log-probability of each label at the answer's beginning or after its prefix; see ``OpenAIEngine.label_logprobs``.

    Raises:
        ConfigError: a prefix, and the client has no tokenizer.
        DataError: an empty label, or a prompt that cannot be rendered or does not fit the context.
        EngineError: a request failed for good, or a label is out of reach.
    """
    if "" in labels:
        raise DataError("a label is empty")
    request = client.request(prompt)
    if answer_prefix:
        request = ids_request([*(request.ids or ()), *client.require_chat().encode_text(answer_prefix)])
    listed = await _next_tokens(client, request)
    if client.chat is None or request.ids is None:
        return _label_texts(listed, labels)
    return tuple([await _score_label(client, request.ids, client.chat.encode_text(x), listed, echo) for x in labels])


def _label_texts(listed: Sequence[TokenLogprob], labels: Sequence[str]) -> tuple[float, ...]:
    texts = {candidate.text: candidate.logprob for candidate in listed}
    if missing := [label for label in labels if label not in texts]:
        raise EngineError(
            f"the server does not list `{missing[0]}` among the {len(listed)} likeliest first tokens",
            hint="Give the engine the model's tokenizer: labels may be longer than a token.",
        )
    return tuple(texts[label] for label in labels)


async def _score_label(
    client: ModelClient, ids: list[int], target: list[int], listed: Sequence[TokenLogprob], echo: bool
) -> float:
    # Walking first: the labels share the first step, and prefix caches serve the others.
    try:
        return (await _walk(client, ids, target, listed)).total
    except _OutOfReachError:
        if not echo:
            raise
    return (await _echo(client, ids, target)).total


async def _echo(client: ModelClient, ids: list[int], target: list[int]) -> CompletionLogprobs:
    # One token more than is needed: not every server takes 0.
    options = {"max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": 1}
    whole = [*ids, *target]
    reply = await client.post(ids_request(whole), options, _IDS_AS_TOKENS)
    scores, greedy = echoed_logprobs(first_choice(reply), whole, len(ids))
    return CompletionLogprobs(tuple(target), scores, greedy, len(ids))


async def _walk(
    client: ModelClient, ids: list[int], target: list[int], first: Sequence[TokenLogprob] | None = None
) -> CompletionLogprobs:
    """``first`` holds the likeliest after ``ids`` where they are known."""
    scores = []
    greedy = True
    for i, token in enumerate(target):
        known = first if i == 0 else None
        listed = await _next_tokens(client, ids_request([*ids, *target[:i]])) if known is None else known
        score = _look_up(client, listed, token)
        if score is None:
            score = await _forced(client, [*ids, *target[:i]], token, below=min(one.logprob for one in listed))
        if score is None:
            raise _OutOfReachError(
                f"the server does not list token {i} of the completion among the {len(listed)} likeliest",
                hint="Score with a server that supports `echo`, and prompt_logprobs=True.",
            )
        scores.append(score)
        greedy = greedy and score >= max(candidate.logprob for candidate in listed)
    return CompletionLogprobs(tuple(target), tuple(scores), greedy, len(ids))


async def _forced(client: ModelClient, ids: list[int], token: int, *, below: float) -> float | None:
    """Log-probability of a token that is less likely than those listed, from a server that is held to it.

    ``None`` where the server does not know the field, or gives the probability among what is allowed, which is 1. It is
    not asked again.
    """
    if not client.can_force:
        return None
    listed = await _next_tokens(client, ids_request(ids), {"allowed_token_ids": [token]})
    score = _look_up(client, listed, token)
    client.can_force = score is not None and score <= below + _TIE
    return score if client.can_force else None


async def _next_tokens(
    client: ModelClient, request: ModelRequest, further: Mapping[str, Any] | None = None
) -> tuple[TokenLogprob, ...]:
    options: dict[str, Any] = {"max_tokens": 1, "temperature": 0.0}
    if request.path == "completions":
        options["logprobs"] = TOP_LOGPROBS
    else:
        options |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    extensions = {"n_probs": TOP_LOGPROBS, **(_IDS_AS_TOKENS if request.ids is not None else {}), **(further or {})}
    return next_tokens(first_choice(await client.post(request, options, extensions)))


def _look_up(client: ModelClient, listed: Sequence[TokenLogprob], token: int) -> float | None:
    for candidate in listed:
        # A text that several tokens share says nothing about which of them is meant.
        known = client.ids_by_text.get(candidate.text) if candidate.id is None else candidate.id
        if known == token:
            return candidate.logprob
    return None


class _OutOfReachError(EngineError):
    """A token is not among those that the server lists."""
