"""What an attack is made of: the goal, the prompt that carries it, and what is known about where it goes."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from corral.core.errors import ConfigError
from corral.core.files import sha256_json
from corral.data.messages import Conversation, Message
from corral.guards.prompted.meters import ByteMeter, Meter
from corral.models.engines.base import Prompt
from corral.models.prompts import PlainText, Prefilled, Unescaped

if TYPE_CHECKING:
    from corral.redteam.styles.search.tools import SearchTools

Family = Literal[
    "plain", "competing", "encoding", "noise", "payload", "code", "scenario", "context", "format", "search"
]

DEFAULT_WINDOW: Final = 2048


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """Why a style gives no prompt here: neither a success nor a failure of the defence."""

    reason: str


@dataclass(frozen=True, slots=True)
class AnswerCode:
    """A code that the prompt asks the answer to be in.

    Attributes:
        name: as the cipher is called.
        decode: from an answer to its text; ``None`` when it is not in the code.
    """

    name: str
    decode: Callable[[str], str | None] = field(compare=False)


@dataclass(frozen=True, slots=True)
class StyleContext:
    """What a style may know about where its prompt goes.

    Attributes:
        language: of the goal, ISO 639-1.
        meter: counts what the target reads; by default bytes, which no byte-level tokenizer exceeds.
        window: tokens that a prompt and its answer may have.
        answer_tokens: of these, tokens that stay free for the answer.
        demonstrations: (request, reply) pairs of the user's, for styles that show some; harmless packaged ones if none.
        translations: ``(goal, language)`` to the goal in that language.
        turn_break: what ends the user's turn and opens the assistant's in the target's template; ChatML's if unknown.
        templates: attack templates of a public corpus with their slot filled by ``{goal}``; see ``styles/cached``.
        search: what styles that search work with; without it they give no prompt.
    """

    language: str = "en"
    meter: Meter = field(default_factory=ByteMeter)
    window: int = DEFAULT_WINDOW
    answer_tokens: int = 64
    demonstrations: tuple[tuple[str, str], ...] = ()
    translations: Mapping[tuple[str, str], str] = field(default_factory=dict)
    turn_break: str = "<|im_end|>\n<|im_start|>assistant\n"
    templates: tuple[CachedTemplate, ...] = ()
    search: SearchTools | None = None


@dataclass(frozen=True, slots=True)
class CachedTemplate:
    """A template of a public corpus, read from the user's data folder and never packaged."""

    id: str
    template: str
    source: str
    licence: str


@dataclass(frozen=True, slots=True)
class Draft:
    """A prompt as far as it is built.

    Attributes:
        goal: the plain request, for the judge.
        text: the last user turn, or all of a prompt without a template.
        system: a system message, "" for none.
        turns: messages between the system message and the last user turn.
        follow_ups: user turns that are sent after the answer to what is before them; the last answer counts.
        prefill: what the answer begins with.
        raw: leave the chat template.
        unescaped: control tokens in messages count as such.
        answer_code: what the answer is to be decoded by.
        notes: for ``meta``, such as the source and licence of a cached template.
    """

    goal: str
    text: str
    system: str = ""
    turns: tuple[Message, ...] = ()
    follow_ups: tuple[str, ...] = ()
    prefill: str | None = None
    raw: bool = False
    unescaped: bool = False
    answer_code: AnswerCode | None = None
    notes: tuple[tuple[str, str], ...] = ()

    def with_text(self, text: str) -> Draft:
        """The draft with another text."""
        return replace(self, text=text)

    def noting(self, **notes: str) -> Draft:
        """The draft with notes added."""
        return replace(self, notes=(*self.notes, *notes.items()))

    @property
    def conversation(self) -> Conversation:
        """System message, turns and text as messages."""
        system = (Message.of("system", self.system),) if self.system else ()
        return Conversation((*system, *self.turns, Message.of("user", self.text)))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a style asks of a target and of the tester.

    Attributes:
        raw_access: prompts beyond the chat template, so the model's tokenizer.
        multi_turn: several answers of the target.
        user_data: translations, demonstrations or templates that are not packaged.
        attacker: a second model, which writes prompts.
        likelihoods: how likely the target finds given answers.
        gradients: the target's weights, here.
    """

    raw_access: bool = False
    multi_turn: bool = False
    user_data: bool = False
    attacker: bool = False
    likelihoods: bool = False
    gradients: bool = False

    @property
    def search(self) -> bool:
        """Whether the prompt is searched for against the target."""
        return self.attacker or self.likelihoods or self.gradients


@dataclass(frozen=True, slots=True)
class StyleMeta:
    """Where a prompt comes from."""

    style: str
    style_id: str
    family: Family
    needs: Needs
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class AttackPrompt:
    """A goal in the form of a style.

    Attributes:
        goal: the plain request; what a judge reads, never the wrapped prompt.
        prompt: what an engine is given first.
        follow_ups: user turns for the rest of a conversation, each sent after an answer.
        meta: the style.
        answer_code: how to decode the answer, where the prompt asks for a code.
    """

    goal: str
    prompt: Prompt
    follow_ups: tuple[str, ...]
    meta: StyleMeta
    answer_code: AnswerCode | None = None

    def decode(self, answer: str) -> str | None:
        """The answer as text; ``None`` when it was asked for in a code and is not in it."""
        return answer if self.answer_code is None else self.answer_code.decode(answer)

    @property
    def shown(self) -> Conversation:
        """What a guard in front of the target sees: the conversation, or text without a template as a user's message.

        An opening of the assistant's turn is the assistant's, so a guard of prompts does not see it.
        """
        match self.prompt:
            case Conversation():
                return self.prompt
            case Prefilled(conversation) | Unescaped(conversation):
                return conversation
            case PlainText(text) | str(text):
                return Conversation.user(text)

    @property
    def sha256(self) -> str:
        """Hash of everything that is sent."""
        return sha256_json([_prompt_json(self.prompt), list(self.follow_ups)])


def built(draft: Draft, meta: StyleMeta) -> AttackPrompt:
    """The finished prompt of a draft.

    Raises:
        ConfigError: the draft leaves the chat template or its escaping, and holds what only goes with them.
    """
    if draft.raw and (draft.system or draft.turns or draft.follow_ups or draft.prefill is not None):
        raise ConfigError(f"`{meta.style}` leaves the chat template, which its turns and openings need")
    if draft.unescaped and draft.prefill is not None:
        raise ConfigError(f"`{meta.style}` opens the answer twice")
    return AttackPrompt(draft.goal, prompt_of(draft), draft.follow_ups, meta, draft.answer_code)


def seeded(*key: str | int) -> random.Random:
    """The random numbers of one prompt, from the seed and what else names it."""
    return random.Random("/".join(map(str, key)))  # noqa: S311  not for secrets


def prompt_of(draft: Draft) -> Prompt:
    """What an engine is given first."""
    if draft.raw:
        return PlainText(draft.text)
    if draft.unescaped:
        return Unescaped(draft.conversation)
    return draft.conversation if draft.prefill is None else Prefilled(draft.conversation, draft.prefill)


def _prompt_json(prompt: Prompt) -> list[Any]:
    match prompt:
        case Conversation():
            return ["chat", prompt.to_openai()]
        case Prefilled(conversation, prefix):
            return ["prefilled", conversation.to_openai(), prefix]
        case Unescaped(conversation):
            return ["unescaped", conversation.to_openai()]
        case PlainText(text):
            return ["plain", text]
        case str():
            return ["raw", prompt]
