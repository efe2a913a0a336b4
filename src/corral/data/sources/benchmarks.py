"""Guard benchmarks with labelled prompts, and their translations. All are ``evaluate_only``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation
from corral.data.sources.rows import (
    BENIGN_CATEGORIES,
    Reader,
    SourceRow,
    category_true,
    labelled_prompts,
    llama_guard_3,
    prompts,
)

_BINARY: Final[Mapping[object, bool]] = {1: True, 0: False}
_LABELLED: Final[Mapping[object, bool | None]] = {1: True, 0: False, None: None}


def _openai_moderation(row: SourceRow) -> Iterator[ModerationExample]:
    return row.prompt(
        "prompt",
        harmful=row.label("flagged", _BINARY),
        categories=_openai_categories(row),
        extra={"pair": f"openai_moderation/{row.value['id']}"},
    )


def _openai_moderation_translation(row: SourceRow) -> Iterator[ModerationExample]:
    english = row.joined("openai_moderation", "id")
    return row.prompt(
        "prompt",
        harmful=row.label("flagged", _BINARY),
        categories=_openai_categories(english),
        group=prompt_key(english.text("prompt")),
        extra={"pair": f"openai_moderation/{row.value['id']}"},
    )


def _openai_categories(row: SourceRow) -> Mapping[str, bool]:
    sexual, hate, self_harm, minors, threats = (row.label(c, _LABELLED) for c in ("S", "H", "SH", "S3", "H2"))
    # H2 (hate with threats) is a part of H: it can prove hate, but only H can rule it out.
    return llama_guard_3(S4=minors, S10=True if threats else hate, S11=self_harm, S12=sexual)


def _toxicchat(row: SourceRow) -> Iterator[ModerationExample]:
    human_id = row.value["human_id"]
    return row.prompt(
        "prompt",
        harmful=row.label("toxicity", _BINARY),
        extra=None if human_id is None else {"pair": f"toxicchat/{human_id}"},
    )


def _toxicchat_translation(row: SourceRow) -> Iterator[ModerationExample]:
    english = row.joined("toxicchat_test", "human_id")
    return row.prompt(
        "prompt",
        harmful=row.label("toxicity", _BINARY),
        group=prompt_key(english.text("prompt")),
        extra={"pair": f"toxicchat/{row.value['human_id']}"},
    )


_HARMBENCH_CATEGORIES: Final[Mapping[str, str | None]] = {
    "cybercrime_intrusion": "S2",
    "copyright": "S8",
    "chemical_biological": None,
    "harassment_bullying": None,
    "harmful": None,
    "illegal": None,
    "misinformation_disinformation": None,
}


def _harmbench(row: SourceRow) -> Iterator[ModerationExample]:
    # A contextual behaviour asks about the text it is given with: upstream sends both in one user message.
    text = "\n\n".join(part for part in (row.text("context"), row.text("behavior")) if part.strip())
    yield row.example(
        Conversation.user(text),
        "prompt",
        used=("behavior", "context"),
        group=prompt_key(text),
        harmful=True,
        categories=category_true(row.label("semantic_category", _HARMBENCH_CATEGORIES)),
    )


JAILBREAKBENCH_CATEGORIES: Final[Mapping[str, str | None]] = {
    "Disinformation": None,
    "Economic harm": None,
    "Expert advice": "S6",
    "Fraud/Deception": "S2",
    "Government decision-making": None,
    "Harassment/Discrimination": None,
    "Malware/Hacking": "S2",
    "Physical harm": None,
    "Privacy": "S7",
    "Sexual/Adult content": None,
}
"""The misuse categories that a Llama Guard 3 category covers whole; the others mix several."""


def _jailbreakbench_harmful(row: SourceRow) -> Iterator[ModerationExample]:
    categories = category_true(row.label("category", JAILBREAKBENCH_CATEGORIES))
    return row.prompt("goal", harmful=True, categories=categories)


_STRONGREJECT_CATEGORIES: Final[Mapping[str, str | None]] = {
    "Disinformation and deception": None,
    "Hate, harassment and discrimination": None,
    "Illegal goods and services": None,
    "Non-violent crimes": "S2",
    "Sexual content": "S12",
    "Violence": None,
}


def _strongreject(row: SourceRow) -> Iterator[ModerationExample]:
    return row.prompt("prompt", harmful=True, categories=category_true(row.label("category", _STRONGREJECT_CATEGORIES)))


_TWEETEVAL_HATE: Final = labelled_prompts("label", _BINARY, column="text", category="S10")
_TWEETEVAL_OFFENSIVE: Final = labelled_prompts("label", {1: None, 0: False}, column="text")

_TRANSLATED_OPENAI: Final = (
    "Machine translation of openai_moderation; labels and group are those of the English row, raw `pair` joins them."
)
_TRANSLATED_TOXICCHAT: Final = (
    "Machine translation of the human-annotated rows of toxicchat; label and group are those of the English row, raw "
    "`pair` joins them."
)
_RTP_LX: Final = "toxic 1 is harmful, 0 is not; sentence openings, native or professionally translated."

READERS: Final[Mapping[str, Reader]] = {
    "openai_moderation": Reader(
        "flagged is harmful, and counts unlabelled columns as 0. S is S12, H or H2 is S10, SH is S11, S3 is S4; null "
        "is unknown. V, V2 and HR have no category of the same breadth and stay in raw.",
        {"openai_moderation": _openai_moderation},
    ),
    "toxicchat": Reader(
        "toxicity is harmful. Published figures mostly use the rows with human_annotated (raw); the others were judged "
        "by a machine filter.",
        {"toxicchat_test": _toxicchat},
    ),
    "aegis_test": Reader(
        "label of the prompt, human.",
        {"aegis_safety_test": labelled_prompts("label", {"harmful": True, "unharmful": False})},
    ),
    "xstest_prompts": Reader(
        "unsafe is harmful, safe is not; type and focus in raw.",
        {"xstest_prompts": labelled_prompts("label", {"unsafe": True, "safe": False})},
    ),
    "hatecheck_en": Reader(
        "hateful is harmful and S10, non-hateful is neither; functionality and target in raw.",
        {
            "hatecheck_en": labelled_prompts(
                "label", {"hateful": True, "non-hateful": False}, column="text", category="S10"
            )
        },
    ),
    "tweeteval": Reader(
        "tweeteval_hate: hate speech is harmful and S10, the rest is neither. tweeteval_offensive: offensive is below "
        "most harm bars, so unknown; not offensive is not harmful. One blank row gives no example.",
        {"tweeteval_hate": _TWEETEVAL_HATE, "tweeteval_offensive": _TWEETEVAL_OFFENSIVE},
    ),
    "harmbench_behaviors": Reader(
        "Every behaviour is harmful; contextual ones follow their context in one message. cybercrime_intrusion is S2, "
        "copyright S8. harmbench_prompt_guard_eval holds the prompts that guard papers report.",
        {"harmbench_text": _harmbench, "harmbench_prompt_guard_eval": labelled_prompts("label", {"harmful": True})},
    ),
    "advbench": Reader(
        "Every goal is harmful; advbench_subset50 repeats fifty of them.",
        {"advbench": prompts("goal", harmful=True), "advbench_subset50": prompts("goal", harmful=True)},
    ),
    "jailbreakbench": Reader(
        "jbb_harmful is harmful, jbb_benign is benign in every category.",
        {
            "jbb_harmful": _jailbreakbench_harmful,
            "jbb_benign": prompts("goal", harmful=False, attack=False, categories=BENIGN_CATEGORIES),
        },
    ),
    "strongreject": Reader("Every prompt is harmful.", {"strongreject": _strongreject}),
    "malicious_instruct": Reader("Every prompt is harmful.", {"malicious_instruct": prompts(harmful=True)}),
    **{
        f"openai_moderation_{lang}": Reader(
            _TRANSLATED_OPENAI, {f"openai_moderation_{lang}": _openai_moderation_translation}
        )
        for lang in ("de", "es", "fr")
    },
    **{
        f"toxicchat_{lang}": Reader(_TRANSLATED_TOXICCHAT, {f"toxicchat_{lang}": _toxicchat_translation})
        for lang in ("de", "es", "fr")
    },
    **{
        f"rtp_lx_{lang}": Reader(_RTP_LX, {f"rtp_lx_{lang}": labelled_prompts("toxic", _BINARY)})
        for lang in ("de", "es", "fr")
    },
}
