"""``POST /v1/moderations``: OpenAI's request and response, and one ``corral`` object with the decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from corral.core.errors import NotFoundError
from corral.data.messages import Conversation, ImagePart, Message, Part, Role, TextPart
from corral.guards.policy import Action
from corral.serve.categories import openai_categories, openai_scores
from corral.serve.errors import RequestError, json_response
from corral.serve.moderation import Moderation, Outcome, Question, status_of
from corral.serve.pictures import RemotePictures, check_count
from corral.serve.policies import ServePolicy
from corral.serve.schemas import ImageInput, ModerationRequest, TextInput, parse_request
from corral.serve.settings import Limits

ROUTE: Final = "/v1/moderations"
MODEL: Final = "corral-moderation"


async def moderate(
    request: Request, body: bytes, moderation: Moderation, limits: Limits, pictures: RemotePictures | None = None
) -> Response:
    """Answer one request; ``pictures`` as in ``ChatGateway``."""
    asked = parse_request(ModerationRequest, body, request.headers.get("content-type", ""))
    messages, types = _inputs(asked, limits)
    if pictures is not None:
        messages = await pictures.inlined(messages, param="input")
    question = _question(request, moderation, asked)
    outcomes = await moderation.decide_each(question, [[Conversation((message,))] for message in messages], "input")
    return json_response(
        {
            "id": f"modr-{question.request_id}",
            "model": asked.model or MODEL,
            "results": [
                _result(outcome, question.policy, applied) for outcome, applied in zip(outcomes, types, strict=True)
            ],
            "corral": {
                "request_id": question.request_id,
                "guards": list(question.guards),
                "mode": question.policy.mode,
                "policy": question.policy.id,
                "policy_hash": question.policy.hash,
                "decisions": [decision_json(outcome) for outcome in outcomes],
            },
        }
    )


def decision_json(outcome: Outcome) -> dict[str, Any]:
    """What clients are told of a decision."""
    verdicts = outcome.decision.verdicts
    scores = [openai_scores(verdicts)] if verdicts else []
    return {
        "id": outcome.id,
        "action": outcome.decision.action.value,
        "taken": outcome.taken.value,
        "flagged": outcome.decision.flagged,
        "status": status_of(verdicts).value,
        "p_harm": max((v.p_harm for v in verdicts if v.p_harm is not None), default=None),
        "p_attack": max((v.p_attack for v in verdicts if v.p_attack is not None), default=None),
        "p_refusal": max((v.p_refusal for v in verdicts if v.p_refusal is not None), default=None),
        "reasons": list(outcome.decision.reasons),
        "unscored": [name for found in scores for name, score in found.items() if score is None],
        "verdicts": [verdict.to_json() for verdict in verdicts],
    }


def _question(request: Request, moderation: Moderation, asked: ModerationRequest) -> Question:
    state = request.state
    try:
        return moderation.question(state.caller, state.request_id, ROUTE, asked.corral.guards)
    except NotFoundError as error:
        raise RequestError(400, error.message, code="unknown_guard", param="corral.guards") from None


def _inputs(asked: ModerationRequest, limits: Limits) -> tuple[Sequence[Message], list[list[str]]]:
    """A message for each result, and the types of input it holds."""
    role: Role = "user" if asked.corral.target == "prompt" else "assistant"
    if isinstance(asked.input, str):
        groups: list[list[Any]] = [[asked.input]]
    elif isinstance(asked.input[0], str):
        groups = [[text] for text in asked.input]
    else:
        groups = [list(asked.input)]
    if len(groups) > limits.inputs or any(len(group) > limits.inputs for group in groups):
        raise RequestError(400, f"More than {limits.inputs} inputs.", code="too_many_inputs", param="input")
    messages: list[Message] = []
    types: list[list[str]] = []
    for index, group in enumerate(groups):
        parts = tuple(_part(item) for item in group)
        message = Message(role, parts)
        pictures = any(isinstance(part, ImagePart) for part in parts)
        field = f"input[{index}]" if len(groups) > 1 else "input"
        if not message.text.strip() and not pictures:
            raise RequestError(400, "There is nothing to judge.", code="empty_input", param=field)
        if len(message.text) > limits.text_chars:
            raise RequestError(
                400,
                f"The text has more than {limits.text_chars} characters. Split it: nothing is cut silently.",
                code="text_too_long",
                param=field,
            )
        messages.append(message)
        types.append([*(["text"] if message.text.strip() else []), *(["image"] if pictures else [])])
    check_count(messages, limits.images, param="input")
    return messages, types


def _part(item: str | TextInput | ImageInput) -> Part:
    if isinstance(item, str):
        return TextPart(item)
    return TextPart(item.text) if isinstance(item, TextInput) else ImagePart(item.image_url.url)


def _result(outcome: Outcome, policy: ServePolicy, types: list[str]) -> dict[str, Any]:
    """One result; ``flagged`` whenever the message is not simply let through, a guard's failure included."""
    decision = outcome.decision
    scores = openai_scores(decision.verdicts)
    target = decision.verdicts[0].target if decision.verdicts else "prompt"
    threshold = (policy.prompt if target == "prompt" else policy.response).threshold
    flagged = outcome.taken is not Action.ALLOW
    return {
        "flagged": flagged,
        "categories": {name: (scores[name] or 0.0) >= threshold and flagged for name in openai_categories()},
        "category_scores": {name: scores[name] or 0.0 for name in openai_categories()},
        "category_applied_input_types": {
            name: types if scores[name] is not None else [] for name in openai_categories()
        },
    }
