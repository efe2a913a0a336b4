"""Attempts: every goal in every style, so many times, as prompts for one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from corral.core.files import sha256_json
from corral.data.messages import Conversation
from corral.guards.prompted.meters import meter_for, window_for
from corral.models.chat import ChatTokenizer
from corral.models.engines.base import Engine
from corral.models.engines.scripted import ScriptedEngine
from corral.redteam.goals import Goal
from corral.redteam.styles import AttackPrompt, NotApplicable, Style, StyleContext, seeded
from corral.redteam.styles.prompt import CachedTemplate
from corral.redteam.styles.search import SearchTools

_KEY_DIGITS: Final = 24
_PROBE: Final = "corral probe"


@dataclass(frozen=True)
class Target:
    """A model under attack.

    Attributes:
        engine: answers.
        name: as reports print it.
        revision: of weights, tokenizer and settings; answers of another revision are not reused. "" when unknown.
    """

    engine: Engine
    name: str
    revision: str = ""

    @property
    def raw_access(self) -> bool:
        """Whether it takes prompts beyond the chat template; an endpoint for chats alone does not."""
        return isinstance(self.engine, ScriptedEngine) or isinstance(getattr(self.engine, "chat", None), ChatTokenizer)


@dataclass(frozen=True)
class UserTexts:
    """What styles may draw on beside their own wording.

    Attributes:
        demonstrations: (request, reply) pairs; see ``StyleContext``.
        translations: see ``StyleContext``.
        templates: of public corpora; see ``styles/cached``.
        wrappers: templates with ``{goal}`` that searches start from; packaged ones if none.
    """

    demonstrations: tuple[tuple[str, str], ...] = ()
    translations: Mapping[tuple[str, str], str] = field(default_factory=dict)
    templates: tuple[CachedTemplate, ...] = ()
    wrappers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One goal in one style, for one target.

    Attributes:
        goal: the plain request.
        style_id: the style with version and hash.
        style: its name.
        restart: number of the try.
        prompt: what is sent, or why nothing is.
    """

    goal: Goal
    style: str
    style_id: str
    restart: int
    prompt: AttackPrompt | NotApplicable

    @cached_property
    def key(self) -> str:
        """Name of the attempt in journals: changes with wording, goal, seed and everything else that is sent."""
        sent = self.prompt.sha256 if isinstance(self.prompt, AttackPrompt) else ""
        return sha256_json([self.goal.kind, self.goal.text, self.style_id, self.restart, sent])[:_KEY_DIGITS]

    @cached_property
    def pair_key(self) -> str:
        """What is the same for every target: two systems are compared on it."""
        return sha256_json([self.goal.kind, self.goal.text, self.style_id, self.restart])[:_KEY_DIGITS]


def attempts_on(
    target: Target,
    goals: Sequence[Goal],
    styles: Sequence[Style],
    *,
    restarts: int,
    seed: int,
    answer_tokens: int,
    texts: UserTexts | None = None,
    search: SearchTools | None = None,
) -> list[Attempt]:
    """All attempts, in an order in which a run that stops early has seen the same goals in every style.

    Questions of capability are tried once. Styles that search ask the target here. Styles that need raw access are
    not applicable to a target without it.
    """
    context = context_of(target.engine, answer_tokens=answer_tokens, texts=texts or UserTexts())
    context = replace(context, search=search)
    tries = ((restart, goal) for restart in range(restarts) for goal in goals if not restart or _is_retried(goal))
    return [
        Attempt(goal, style.name, style.id, restart, _prompt(target, context, goal, style, seeds=(seed, restart)))
        for restart, goal in tries
        for style in styles
    ]


def context_of(engine: Engine, *, answer_tokens: int, texts: UserTexts) -> StyleContext:
    """What styles may know about a target: how it counts, how much it reads, how its template turns."""
    context = StyleContext(
        meter=meter_for(engine),
        window=window_for(engine, None),
        answer_tokens=answer_tokens,
        demonstrations=texts.demonstrations,
        translations=texts.translations,
        templates=texts.templates,
    )
    turn_break = _turn_break(engine)
    return context if turn_break is None else replace(context, turn_break=turn_break)


def _is_retried(goal: Goal) -> bool:
    return goal.kind != "capability"


def _prompt(
    target: Target, context: StyleContext, goal: Goal, style: Style, *, seeds: tuple[int, int]
) -> AttackPrompt | NotApplicable:
    if style.needs.raw_access and not target.raw_access:
        return NotApplicable("needs the model's tokenizer, which an endpoint for chats does not give")
    rng = seeded(*seeds, style.id, goal.text)
    return style.apply(goal.text, rng=rng, context=replace(context, language=goal.language))


def _turn_break(engine: Engine) -> str | None:
    """What stands between a user's words and the assistant's in the model's template, ``None`` when unknown."""
    chat = getattr(engine, "chat", None)
    if not isinstance(chat, ChatTokenizer):
        return None
    _, found, after = chat.render(Conversation.user(_PROBE)).rpartition(_PROBE)
    return after if found else None
