"""What a search works with: the target that it asks, the judge that scores, a second model, and a journal.

A search gives the prompt that did best; the run then sends that prompt like any other. The same goal, seed,
parameters, target, judge and attacker give the same prompt. A finished search is kept in the run's journals and not
done again; a killed one starts over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from corral.core.errors import CorralError, EngineError
from corral.core.files import sha256_json
from corral.models.engines.base import Engine, GenerationSettings
from corral.models.engines.each import generate_each
from corral.redteam.judges.base import Judge, Judgement
from corral.redteam.judges.decoding import judge_decoded
from corral.redteam.store import KEY, Row, Store
from corral.redteam.styles.base import RuleStyle, Style
from corral.redteam.styles.prompt import Draft, Needs, NotApplicable, StyleContext, prompt_of
from corral.redteam.styles.rewriting import as_opening
from corral.redteam.styles.templates import read_packaged
from corral.synth.templates import fill

_NO_TOOLS: Final = "searches against a target, which was not given"
_KEY_DIGITS: Final = 24


@dataclass(frozen=True, slots=True)
class Attacker:
    """The model that writes prompts for a search.

    Attributes:
        engine: follows instructions.
        revision: of its weights, "" when unknown.
    """

    engine: Engine
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Where a search ended.

    Attributes:
        text: of the user's turn, the best that was met.
        succeeded: the search's own aim was reached, so it ended before its limit.
        score: of ``text``, as the search counts.
        steps: rounds that were done.
        queries: prompts that the target answered or scored.
        remarks: what else is to be known of it.
    """

    text: str
    succeeded: bool
    score: float
    steps: int
    queries: int
    remarks: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What the target answered, and what the judge said of it."""

    text: str
    judgement: Judgement

    @property
    def score(self) -> float:
        """How far it complies, in [0, 1]: the judge's own figure where it gives one."""
        return self.judgement.p if self.judgement.p is not None else float(self.judgement.complies)


@dataclass(frozen=True)
class SearchTools:
    """What searches against one target share.

    Attributes:
        engine: the target.
        judge: scores its answers; the run's first, so a search aims at what the run counts.
        store: of the run's journals.
        depends_on: names and revisions of target, judge and attacker, and how the target answers.
        attacker: writes prompts, ``None`` for no such model.
        generation: how the target answers.
        wrappers: the user's templates with ``{goal}``, for searches that start from some; packaged ones if none.
        retries: times that a search is begun again after an error of an engine.
        until: ``time.monotonic()`` after which no search begins; ``None`` for no such time.
    """

    engine: Engine
    judge: Judge
    store: Store
    depends_on: Row
    attacker: Attacker | None = None
    generation: GenerationSettings = field(default_factory=lambda: GenerationSettings(max_new_tokens=64))
    wrappers: tuple[str, ...] = ()
    retries: int = 0
    until: float | None = None

    def ask(self, draft: Draft, texts: Sequence[str]) -> list[Reply]:
        """The target's judged answers to a draft with each of some texts.

        Raises:
            EngineError: the target could not answer one.
            DataError: a prompt that it cannot read.
        """
        prompts = [prompt_of(draft.with_text(text)) for text in texts]
        answers = [_required(each) for each in generate_each(self.engine, prompts, self.generation)]
        code = draft.answer_code
        decoded = [answer.text if code is None else code.decode(answer.text) for answer in answers]
        judged = judge_decoded(self.judge, [(draft.goal, text) for text in decoded])
        return [Reply(answer.text, judgement) for answer, judgement in zip(answers, judged, strict=True)]

    def found(self, style: Style, draft: Draft, rng: random.Random, search: Search) -> Draft | NotApplicable:
        """What a search makes of a draft, from the journal where it is there."""
        fingerprint = {**self.depends_on, "style": style.id, "wrappers": sha256_json(list(self.wrappers))}
        key = sha256_json([draft.goal, draft.text, repr(rng.getstate())])[:_KEY_DIGITS]
        failed: list[str] = []

        def compute(keys: Sequence[str]) -> Iterable[Row]:
            found = self._searched(draft, rng, search)
            if isinstance(found, _Failure):
                failed.append(found.reason)
                return []
            return [{KEY: each, **_to_json(found)} for each in keys]

        rows = self.store.rows(f"searches-{style.name}", fingerprint, [key], compute)
        if failed:
            return NotApplicable(failed[0])
        row = rows[key]
        if row["text"] is None:
            return NotApplicable(row["reason"])
        notes = {name: str(row[name]) for name in ("succeeded", "score", "steps", "queries")}
        return draft.with_text(row["text"]).noting(**notes, **row["remarks"])

    def _searched(self, draft: Draft, rng: random.Random, search: Search) -> Found | NotApplicable | _Failure:
        """A search to its end; one that an engine's error ended is no result and is left to the next session."""
        if self.until is not None and time.monotonic() > self.until:
            return _Failure("not searched for: the budget of seconds is spent")
        state = rng.getstate()
        reason = ""
        for _ in range(self.retries + 1):
            rng.setstate(state)
            try:
                return search(draft, self, rng)
            except EngineError as error:
                reason = f"the search failed: {type(error).__name__}"
            except CorralError as error:
                return NotApplicable(error.message)
        return _Failure(reason)


Search = Callable[[Draft, SearchTools, random.Random], Found | NotApplicable]
"""Looks for a text of the draft's user turn."""


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str


def searching(
    name: str, mechanism: str, search: Search, *, version: int, defaults: Row, chosen: Row, content: Any, needs: Needs
) -> RuleStyle:
    """A style that gives the prompt that a search ends with.

    Args:
        name: of the search.
        mechanism: what it does, in a line.
        search: does it.
        version: raised when other prompts would be found.
        defaults: parameters as they are where nobody chose.
        chosen: parameters of this style.
        content: wordings that it uses.
        needs: of target and tester.
    """
    settings = [f"{key}={value}" for key, value in chosen.items() if value != defaults[key]]

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        if context.search is None:
            return NotApplicable(_NO_TOOLS)
        if needs.attacker and context.search.attacker is None:
            return NotApplicable("needs a model that writes prompts")
        return context.search.found(style, draft, rng, search)

    style = RuleStyle(
        ":".join([name, *settings]),
        "search",
        mechanism,
        rule,
        version=version,
        content=[content, dict(chosen)],
        needs=needs,
    )
    return style


def affirmative_opening(goal: str) -> str:
    """How an answer that complies would begin: what likelihood is searched for."""
    return fill(str(read_packaged("search")["opening"]), opening=as_opening(goal))


def _required(answer: Any) -> Any:
    if isinstance(answer, CorralError):
        raise answer
    return answer


def _to_json(found: Found | NotApplicable) -> dict[str, Any]:
    if isinstance(found, NotApplicable):
        return {"text": None, "reason": found.reason}
    return asdict(found)
