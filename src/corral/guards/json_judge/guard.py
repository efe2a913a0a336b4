"""A guard of text that asks a general model for a JSON verdict, or for the likelihood of one.

Two ways of asking the same question:

- ``write``: the model writes the JSON object, which is read strictly; five outcomes, one retry.
- ``score``: the answer is begun for the model (``{"flagged": ``) and it says how likely ``true`` and ``false`` are, so
  that every answer can be read. A small model seldom writes the object; its preference can be measured all the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal

from corral.core.errors import CorralError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Target, TargetChoice
from corral.guards.asking import present_targets
from corral.guards.base import Status, Verdict
from corral.guards.failures import failure_detail
from corral.guards.json_judge.asking import Asked, ask_judge
from corral.guards.json_judge.prompts import TAXONOMY, categories_of, prompt_revision, text_prompt
from corral.guards.limits import MAX_CHARS, unreadable
from corral.models.engines.base import Engine
from corral.models.engines.labels import label_logprobs

Mode = Literal["write", "score"]

_OPENING: Final = '{"flagged": '
_LABELS: Final = ("true", "false")
_ANSWER_TOKENS: Final = 96


class JsonJudgeGuard:
    """Judges text by a general model.

    Args:
        engine: the model.
        revision: of the model, for example ``models.loading.weights_revision``.
        mode: see the module.
        categories: codes of the taxonomy ``content_moderation``; all by default.
        max_chars: longest judged message.
        name: of the guard.
    """

    taxonomy = TAXONOMY

    def __init__(
        self,
        engine: Engine,
        *,
        revision: str,
        mode: Mode = "write",
        categories: Sequence[str] = (),
        max_chars: int = MAX_CHARS,
        name: str = "json-judge",
    ) -> None:
        self.name = name
        self._engine = engine
        self._mode = mode
        self._categories = categories_of(categories)
        self._codes = [category.code for category in self._categories]
        self._max_chars = max_chars
        self.revision = sha256_json([engine.name, revision, mode, prompt_revision(self._categories), _OPENING])[:16]

    def classify(self, conversations: Sequence[Conversation], *, target: TargetChoice = "auto") -> list[Verdict]:
        """Judge each conversation; see ``Guard.classify``. Earlier turns are not shown to the model."""
        targets = [conversation.target(target) for conversation in conversations]
        return self._judge(list(zip(conversations, targets, strict=True)))

    def classify_both(self, conversations: Sequence[Conversation]) -> list[dict[Target, Verdict]]:
        """Judge prompt and response of each conversation; see ``Guard.classify_both``."""
        present = [(i, target) for i, each in enumerate(conversations) for target in present_targets(each)]
        found: list[dict[Target, Verdict]] = [{} for _ in conversations]
        for (index, target), verdict in zip(
            present, self._judge([(conversations[i], t) for i, t in present]), strict=True
        ):
            found[index][target] = verdict
        return found

    def _judge(self, asked: Sequence[tuple[Conversation, Target]]) -> list[Verdict]:
        reasons = [unreadable(conversation, target, max_chars=self._max_chars) for conversation, target in asked]
        readable = [pair for pair, reason in zip(asked, reasons, strict=True) if reason is None]
        texts = [_judged_text(conversation, target) for conversation, target in readable]
        judged = iter(self._written(texts, readable) if self._mode == "write" else self._scored(texts, readable))
        return [
            next(judged) if reason is None else self._failed(target, Status.ERROR, reason)
            for (_, target), reason in zip(asked, reasons, strict=True)
        ]

    def _written(self, texts: Sequence[str], asked: Sequence[tuple[Conversation, Target]]) -> list[Verdict]:
        def question(text: str, reminded: bool) -> Conversation:
            return text_prompt(text, self._categories, reminded=reminded)

        prompts: list[Callable[[bool], Conversation]] = [partial(question, text) for text in texts]
        results = ask_judge(self._engine, prompts, self._codes, max_new_tokens=_ANSWER_TOKENS)
        return [self._verdict(target, result) for (_, target), result in zip(asked, results, strict=True)]

    def _verdict(self, target: Target, result: Asked) -> Verdict:
        p_harm = result.answer.p_harm
        if p_harm is None:
            failed = self._failed(target, result.status, result.detail or result.status.value)
            return replace(failed, latency_ms=result.latency_ms)
        return Verdict(
            target,
            self.name,
            self.revision,
            flagged=p_harm >= 0.5,
            p_harm=p_harm,
            categories={f"{TAXONOMY}/{code}": p_harm for code in result.answer.categories},
            latency_ms=result.latency_ms,
            detail=result.detail,
        )

    def _scored(self, texts: Sequence[str], asked: Sequence[tuple[Conversation, Target]]) -> list[Verdict]:
        started = time.perf_counter()
        scores = self._preferences([text_prompt(text, self._categories) for text in texts])
        each_ms = 1e3 * (time.perf_counter() - started) / max(len(texts), 1)
        return [
            self._failed(target, Status.ERROR, failure_detail("the model gave no answer", score))
            if isinstance(score, CorralError)
            else Verdict(target, self.name, self.revision, flagged=score >= 0.5, p_harm=score, latency_ms=each_ms)
            for (_, target), score in zip(asked, scores, strict=True)
        ]

    def _preferences(self, prompts: Sequence[Conversation]) -> list[float | CorralError]:
        """Probability of ``true`` against ``false`` for each question; one by one when the engine fails on some."""
        if not prompts:
            return []
        try:
            pairs = label_logprobs(self._engine, prompts, _LABELS, answer_prefixes=[_OPENING] * len(prompts))
        except CorralError as error:
            if len(prompts) == 1:
                return [error]
            return [score for prompt in prompts for score in self._preferences([prompt])]
        return [1 / (1 + math.exp(min(no - yes, 700.0))) for yes, no in pairs]

    def _failed(self, target: Target, status: Status, detail: str) -> Verdict:
        return Verdict.failed(target, self.name, self.revision, status, detail)


def _judged_text(conversation: Conversation, target: Target) -> str:
    index = conversation.judged_index(target)
    return "" if index is None else conversation.messages[index].text
