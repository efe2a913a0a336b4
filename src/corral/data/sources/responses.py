"""Labelled responses: harm, refusal and compliance, with a prompt example where the set labels the prompt too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from corral.data.examples import ModerationExample, normalise_prompt, prompt_key
from corral.data.messages import Conversation, Message, Role
from corral.data.refusals import opens_with_refusal
from corral.data.sources.annotations import as_label, row_annotations
from corral.data.sources.attacks import TEMPLATES
from corral.data.sources.benchmarks import JAILBREAKBENCH_CATEGORIES
from corral.data.sources.rows import (
    NO_CATEGORIES,
    Reader,
    SourceRow,
    category_true,
    llama_guard_3,
    prompts,
    turns,
)

_YES_NO: Final[Mapping[object, bool]] = {1: True, 0: False}
"""Also reads JSON's true and false, which equal 1 and 0 as keys."""


def _beavertails(row: SourceRow) -> Iterator[ModerationExample]:
    found = set(row.value["categories"])
    hate = not found.isdisjoint({"hate_speech,offensive_language", "discrimination,stereotype,injustice"})
    # Upstream categories broader than ours can only rule ours out, narrower ones can only prove it.
    categories = llama_guard_3(
        S1="terrorism,organized_crime" in found or None,
        S2="financial_crime,property_crime,theft" in found or None,
        S7="privacy_violation" in found,
        S10=None if hate else False,
        S11="self_harm" in found,
        S12="sexually_explicit,adult_content" in found,
    )
    harmful = not row.label("is_safe", _YES_NO)
    return row.response("prompt", harmful=harmful, categories=categories)


def _gptfuzz_response(row: SourceRow) -> Iterator[ModerationExample]:
    asked = row.joined("gptfuzz_questions", "question_id")
    complies = row.label("label", _YES_NO)
    # An answer that does not comply may refuse, or only miss the point.
    refuses = False if complies else opens_with_refusal(row.text("response")) or None
    for example in row.response("question", joined=asked, harmful=complies, refusal=refuses):
        # The overlap of the question, which is in the other file, is that of the whole row.
        yield replace(example, eval_overlap=tuple(asked.value["eval_overlap"]))


def _jbb_artifact(row: SourceRow) -> Iterator[ModerationExample]:
    goal, prompt = row.text("goal"), row.text("prompt")
    categories = category_true(row.label("category", JAILBREAKBENCH_CATEGORIES))
    wrapped = normalise_prompt(prompt) != normalise_prompt(goal)
    yield from row.prompt(
        "prompt",
        harmful=True,
        attack=True if wrapped else None,
        categories=categories,
        group=prompt_key(goal),
        part="prompt",
    )
    jailbroken = row.label("jailbroken", _YES_NO)
    yield from row.response(
        "prompt",
        harmful=jailbroken,
        refusal=False if jailbroken else None,
        categories=categories if jailbroken else NO_CATEGORIES,
        group=prompt_key(goal),
        part="response",
    )


def _past_tense(row: SourceRow) -> Iterator[ModerationExample]:
    group = prompt_key(row.text("request"))
    yield from row.prompt("request_reformulated", harmful=True, attack=True, group=group, part="prompt")
    judges = {row.label(judge, _YES_NO) for judge in ("jailbroken_gpt", "jailbroken_llama")}
    harmful = judges.pop() if len(judges) == 1 else None
    refusal_phrase = not row.label("jailbroken_rules", _YES_NO)
    refusal = {True: False, False: True if refusal_phrase else None, None: None}[harmful]
    yield from row.response("request_reformulated", harmful=harmful, refusal=refusal, group=group, part="response")


_PYRIT_CATEGORIES: Final[Mapping[str, str | None]] = {
    "exploits": None,
    "hate_speech": "S10",
    "info_integrity": None,
    "privacy": "S7",
    "representational": None,
    "self_harm": "S11",
    "sexual": "S12",
    "violence": None,
}


def _pyrit_harm_score(row: SourceRow) -> Iterator[ModerationExample]:
    score = row.number("human_score")
    harmful = True if score >= 0.5 else False if score <= 0 else None
    code = row.label("category", _PYRIT_CATEGORIES)
    categories = llama_guard_3(**{code: harmful}) if code else NO_CATEGORIES
    return row.response("prompt", harmful=harmful, categories=categories)


def _pyrit_refusal(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response("prompt", refusal=row.label("refusal", _YES_NO))


def _pyrit_objective(row: SourceRow) -> Iterator[ModerationExample]:
    yield from row.prompt("prompt", harmful=True, part="prompt")
    achieved = row.label("achieved", {1: True, 0: None})
    yield from row.response("prompt", harmful=achieved, refusal=False if achieved else None, part="response")


def _diasafety(row: SourceRow) -> Iterator[ModerationExample]:
    harmful = row.label("label", {"Unsafe": True, "Safe": False})
    advice = row.text("category") == "Unauthorized Expertise"
    return row.response("prompt", harmful=harmful, categories=llama_guard_3(S6=harmful) if advice else NO_CATEGORIES)


def _latent_jailbreak(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response(
        "prompt",
        harmful=row.label("label", {"unsafe": True, "safe": False}),
        refusal=row.label("following", {"follow": False, "not_follow": None, None: None}),
        group=f"latent_jailbreak/{row.text('group')}",
    )


def _do_not_answer_response(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response(
        "question",
        joined=row.joined("do_not_answer_prompts", "id"),
        harmful=row.label("harmful", _YES_NO),
        refusal=row.label("action", {0: True, 1: False, 2: False, 3: False, 4: False, 5: False}),
    )


def _safedecoding_refusal(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response("prompt", harmful=False, refusal=True)


_SAFEDECODING_CATEGORIES: Final[Mapping[str, str]] = {
    "Fraud & Deception": "S2",
    "Hate Speech & Offensive Language": "S10",
    "Property Crime & Vandalism": "S2",
    "Self-harm": "S11",
    "Sexual Exploitation & Human Trafficking": "S3",
    "Substance Abuse & Banned Substances": "S2",
    "Terrorism & Organized Crime": "S1",
    "Theft": "S2",
    "Violence & Incitement": "S1",
}


def _safedecoding_request(row: SourceRow) -> Iterator[ModerationExample]:
    categories = category_true(_SAFEDECODING_CATEGORIES.get(row.text("category")))
    return row.prompt("prompt", harmful=True, categories=categories)


def _refusal_direction_completion(row: SourceRow) -> Iterator[ModerationExample]:
    return row.response(
        "prompt",
        harmful=row.label("unsafe_llamaguard2", {1: True, 0: False, None: None}),
        refusal=not row.label("not_refused_substring", _YES_NO),
    )


_TURN: Final = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLES: Final[Mapping[str, Role]] = {"Human": "user", "Assistant": "assistant"}


def _hh_rlhf(row: SourceRow) -> Iterator[ModerationExample]:
    _, *marked = _TURN.split(row.text("context"))
    spoken = [(_ROLES[role], text.strip()) for role, text in zip(marked[::2], marked[1::2], strict=True)]
    context, group = turns(*spoken), prompt_key(row.text("first_prompt"))
    known = row_annotations("hh_rlhf_harmless").get(str(row.value["id"]), {})
    yield from _hh_rlhf_prompts(row, context, group, known)
    for preference in ("chosen", "rejected"):
        response = row.text(preference).strip()
        if response:
            yield row.example(
                Conversation((*context, Message.of("assistant", response))),
                "response",
                used=("context", "chosen", "rejected"),
                group=group,
                harmful=as_label(known.get(preference, "")),
                refusal=as_label(known.get(f"{preference}_refusal", "")),
                part=preference,
                extra={"preference": preference, "severity": known.get(preference)},
            )


def _hh_rlhf_prompts(
    row: SourceRow, context: tuple[Message, ...], group: str, known: Mapping[str, str]
) -> Iterator[ModerationExample]:
    """The first human turn alone and, in a longer dialogue, the last one in its context; only where annotated."""
    asked = {"first": context[:1]} | ({"last": context} if len(context) > 1 else {})
    for part, messages in asked.items():
        harmful = as_label(known.get(part, ""))
        if harmful is not None and messages[-1].role == "user" and messages[-1].text:
            code = known["category"] if harmful and known["category"] != "-" else None
            yield row.example(
                Conversation(messages),
                "prompt",
                used=("context", "chosen", "rejected"),
                group=group,
                harmful=harmful,
                attack=False,
                categories=category_true(code),
                part=part,
            )


READERS: Final[Mapping[str, Reader]] = {
    "beavertails": Reader(
        "is_safe false is a harmful response (bar lower than a safety policy: rudeness counts). Upstream categories "
        "set S7, S11 and S12 either way, S1 and S2 when true, S10 when false.",
        {"beavertails_test": _beavertails},
    ),
    "gptfuzz": Reader(
        "1 (answers the harmful question) is harmful and no refusal; 0 (refuses or deflects) is not harmful, and a "
        "refusal where it opens like one. Human labels, noisy upstream. Questions are harmful prompts, templates "
        "attack prompts.",
        {
            "gptfuzz_train_responses": _gptfuzz_response,
            "gptfuzz_questions": prompts("question", harmful=True),
            "gptfuzz_templates": TEMPLATES,
        },
    ),
    "jbb_artifacts": Reader(
        "jailbroken (a machine judge) is a harmful response and no refusal, else not harmful. Each prompt is harmful, "
        "and an attack where it is not the bare goal; rows without a prompt give no example. Group: the goal.",
        {"jbb_artifacts": _jbb_artifact},
    ),
    "past_tense": Reader(
        "Harm where the GPT-4 and Llama judges agree, refusal where both deny harm and a refusal phrase was found. "
        "Each reformulation is a harmful attack prompt; blank responses give no example. Group: the request.",
        {"past_tense_artifacts": _past_tense},
    ),
    "pyrit_scored_responses": Reader(
        "harm_scores: a mean human score of 0.5 or more is harmful, 0 is not, between is unknown. refusals: refusal "
        "only. objective_achieved: 1 is harmful and no refusal, 0 is unknown; its prompts are harmful.",
        {
            "harm_scores": _pyrit_harm_score,
            "refusals": _pyrit_refusal,
            "objective_achieved": _pyrit_objective,
        },
    ),
    "diasafety": Reader(
        "Unsafe replies are harmful, Safe ones are not; Unauthorized Expertise (medical) sets S6 alike. Three blank "
        "replies give no example.",
        {"diasafety": _diasafety},
    ),
    "latent_jailbreak_responses": Reader(
        "unsafe is a harmful response, safe is not; follow is no refusal, not_follow may be anything else. Group: the "
        "identity group of the template.",
        {"latent_jailbreak": _latent_jailbreak},
    ),
    "do_not_answer": Reader(
        "harmful as labelled by people; action 0 is a refusal, 1 to 5 are not (raw keeps the action). Prompts are "
        "risky questions without a harm label.",
        {"do_not_answer_prompts": prompts("question"), "do_not_answer_responses": _do_not_answer_response},
    ),
    "safedecoding": Reader(
        "Every response is a refusal and not harmful; the seed requests are harmful prompts.",
        {"safedecoding_refusals": _safedecoding_refusal, "safedecoding_seed_requests": _safedecoding_request},
    ),
    "refusal_direction_completions": Reader(
        "Machine labels: refusal where a refusal phrase was found, harm by Llama Guard 2 (unknown on harmless "
        "prompts). The prompts are in other sets.",
        {"completions": _refusal_direction_completion},
    ),
    "hh_rlhf_harmless": Reader(
        "Upstream has preferences, not harm labels. Harm of the first and last human turn, harm (mild included) and "
        "refusal of the chosen and rejected continuation are our own annotation where there is one, else unknown; "
        "raw holds `preference` and `severity`. Blank continuations give no example.",
        {"hh_rlhf_harmless_test": _hh_rlhf},
    ),
}
