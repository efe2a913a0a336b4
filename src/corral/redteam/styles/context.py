"""What comes before the request: examples, talks of several turns, a system message.

Examples are the user's (published attacks show harmful ones), or harmless packaged ones.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import cycle, islice
from typing import Final

from corral.core.errors import ConfigError
from corral.data.messages import Conversation
from corral.redteam.styles.base import Rule, RuleStyle, Style
from corral.redteam.styles.payload import key_words
from corral.redteam.styles.prompt import Draft, Needs, NotApplicable, StyleContext
from corral.redteam.styles.templates import StyleFactory, read_packaged, templated, wording

_KEY_WORDS: Final = 3
Pair = tuple[str, str]


def many_shot(shots: int = 64) -> Style:
    """A written-out talk before the request, as much of it as the context holds (many-shot jailbreaking, 2024).

    Raises:
        ConfigError: fewer than one shot.
    """
    _require_one(shots, "many_shot.shots")
    entry = wording("context", "many_shot")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        pairs = examples(context, shots, rng)

        def with_first(count: int) -> Draft:
            talk = "\n\n".join(f"Human: {asked}\nAssistant: {said}" for asked, said in pairs[:count])
            return draft.with_text(entry.fill(rng, examples=talk, text=draft.text))

        fitting = _most(shots, lambda count: fits(with_first(count), context))
        if not fitting:
            return NotApplicable("not even one example fits the context beside the goal")
        return with_first(fitting).noting(shots=str(fitting))

    return _style("many_shot", entry.mechanism, rule, f"shots={shots}" if shots != 64 else "", [entry.template, shots])


def in_context(shots: int = 5) -> Style:
    """Earlier turns in which the assistant answered everything (in-context attack, arXiv 2310.06387).

    Raises:
        ConfigError: fewer than one shot.
    """
    _require_one(shots, "in_context.shots")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        pairs = examples(context, shots, rng)
        said = tuple(message for pair in pairs for message in Conversation.exchange(*pair).messages)
        longer = replace(draft, turns=(*draft.turns, *said))
        return longer if fits(longer, context) else NotApplicable("the examples do not fit the context")

    mechanism = "shows earlier turns in which every request was answered"
    return _style("in_context", mechanism, rule, f"shots={shots}" if shots != 5 else "", shots)


def self_cipher(shots: int = 3) -> Style:
    """A code that is none, with examples of it (SelfCipher, arXiv 2308.06463).

    Raises:
        ConfigError: fewer than one shot.
    """
    _require_one(shots, "self_cipher.shots")
    entry = wording("context", "self_cipher")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft:
        pairs = examples(context, shots, rng)
        talk = "\n\n".join(f"Message: {asked}\nReply: {said}" for asked, said in pairs)
        text = entry.fill(rng, examples=talk, text=draft.text)
        return replace(draft, system=entry.system, text=text)

    content = [entry.template, entry.system, shots]
    return _style("self_cipher", entry.mechanism, rule, f"shots={shots}" if shots != 3 else "", content)


def crescendo() -> Style:
    """Background first, the request last, in three turns (arXiv 2404.01833), scripted."""
    entry = wording("context", "crescendo")

    def rule(draft: Draft, rng: random.Random, context: StyleContext) -> Draft | NotApplicable:
        del context
        words = key_words(draft.text, _KEY_WORDS)
        if not words:
            return NotApplicable("the text has no words to begin with")
        first = entry.fill(rng, keywords=", ".join(words))
        later = tuple(each.replace("{goal}", draft.text) for each in entry.follow_ups)
        return replace(draft, text=first, follow_ups=later)

    style = _style("crescendo", entry.mechanism, rule, "", entry.model_dump(mode="json"))
    return replace(style, version=entry.version, needs=Needs(multi_turn=True))


def examples(context: StyleContext, count: int, rng: random.Random) -> list[Pair]:
    """So many demonstrations in random order, the same ones again when there are fewer."""
    packaged = [(asked, said) for asked, said in read_packaged("demonstrations")["demonstrations"]]
    pool = list(context.demonstrations) or packaged
    return list(islice(cycle(rng.sample(pool, len(pool))), count))


def fits(draft: Draft, context: StyleContext) -> bool:
    """Whether the prompt leaves room for an answer."""
    return context.meter.length(draft.conversation) + context.answer_tokens <= context.window


def _most(limit: int, possible: Callable[[int], bool]) -> int:
    """The largest count up to ``limit`` that is possible, 0 when none is; what is possible stays so for less."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if possible(middle) else (low, middle - 1)
    return low


def _style(name: str, mechanism: str, rule: Rule, parameters: str, content: object) -> RuleStyle:
    return RuleStyle(f"{name}:{parameters}" if parameters else name, "context", mechanism, rule, content=content)


def _require_one(count: int, where: str) -> None:
    if count < 1:
        raise ConfigError(f"`{count}` is below 1", where=where)


STYLES: Final[Mapping[str, StyleFactory]] = {
    "many_shot": many_shot,
    "in_context": in_context,
    "self_cipher": self_cipher,
    "crescendo": crescendo,
    **templated("context", ["system_override", "foot_in_door"]),
}
