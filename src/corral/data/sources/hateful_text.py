"""Hateful, abusive and toxic text, judged as a user message.

Hate counts as harmful and as Llama Guard 3's S10. Sets whose positive label is mere rudeness or swearing ("toxic",
"offensive") leave their positives unknown: most safety policies permit what they call toxic. Sets whose negatives are
known to be hostile in other ways leave the negatives unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from corral.data.examples import ModerationExample, prompt_key
from corral.data.messages import Conversation, Role
from corral.data.sources.rows import (
    Mapper,
    Reader,
    SourceRow,
    labelled_prompts,
    llama_guard_3,
    turns,
)


def _hate(label: str, meanings: Mapping[object, bool | None]) -> Mapper:
    return labelled_prompts(label, meanings, column="text", category="S10")


def _toxic(meanings: Mapping[object, bool | None]) -> Mapper:
    return labelled_prompts("label", meanings, column="text")


def _hatemoji(row: SourceRow) -> Iterator[ModerationExample]:
    hateful = row.label("label", {1: True, 0: False})
    pair = min(int(row.number("id")), int(row.number("matched_id")))
    return row.prompt("text", harmful=hateful, categories=llama_guard_3(S10=hateful), group=f"hatemoji/{pair}")


def _paradetox(row: SourceRow) -> Iterator[ModerationExample]:
    harmful = row.label("label", {"toxic": None, "neutral": False})
    return row.prompt("text", harmful=harmful, group=f"paradetox/{row.value['pair_id']}")


def _wiki_identity(row: SourceRow) -> Iterator[ModerationExample]:
    harmful = row.label("label", {1: None, 0: False})
    return row.prompt("text", harmful=harmful, group=f"wiki_identity/{row.value['id']}")


def _toxigen(row: SourceRow) -> Iterator[ModerationExample]:
    label, score = row.label("label", {"hate": True, "neutral": False}), row.number("toxicity_score")
    # The label is that of the generating prompt; only rows where the human raters side with it are kept as labelled.
    agreed = (label and score >= 4) or (not label and score <= 2)
    harmful = label if agreed else None
    return row.prompt("text", harmful=harmful, categories=llama_guard_3(S10=harmful))


def _iwg(row: SourceRow) -> Iterator[ModerationExample]:
    votes = {row.label(expert, {"YES": True, "NO": False}) for expert in ("expert_1", "expert_2")}
    harmful = votes.pop() if len(votes) == 1 else None
    return row.prompt("text", harmful=harmful, categories=llama_guard_3(S10=harmful))


def _told_br(row: SourceRow) -> Iterator[ModerationExample]:
    hateful = any(row.number(kind) >= 2 for kind in ("homophobia", "racism", "misogyny", "xenophobia"))
    harmful = True if hateful else row.label("toxic_any", {1: None, 0: False})
    return row.prompt("text", harmful=harmful, categories=llama_guard_3(S10=harmful))


def _cold(row: SourceRow) -> Iterator[ModerationExample]:
    harmful = row.label("label", {1: True, 0: False})
    # Attack on a group is hate; attack on an individual (1) and offensive rows without the fine label may not be.
    offends_group = row.label("fine_label", {2: True, 1: None, 0: False, 3: False, None: None})
    hate = offends_group if harmful else False
    return row.prompt("text", harmful=harmful, categories=llama_guard_3(S10=hate))


_CONVABUSE_TURNS: Final[Mapping[str, Role]] = {
    "prev_agent": "assistant",
    "prev_user": "user",
    "agent": "assistant",
    "prompt": "user",
}


def _convabuse(row: SourceRow) -> Iterator[ModerationExample]:
    if not row.text("prompt").strip():
        return
    label = row.label("label", {"abusive": True, "not abusive": False, "split": None})
    severe = row.number("mean_severity") <= -2
    yield row.example(
        Conversation(turns(*((role, row.text(column)) for column, role in _CONVABUSE_TURNS.items()))),
        "prompt",
        used=_CONVABUSE_TURNS,
        group=prompt_key(row.text("prompt")),
        # From -2 (strong abuse) on; mild insults are below a safety policy's bar.
        harmful=None if label and not severe else label,
    )


READERS: Final[Mapping[str, Reader]] = {
    "davidson": Reader(
        "hate_speech is harmful and S10, neither is neither; offensive_language unknown.",
        {"davidson": _hate("label", {"hate_speech": True, "offensive_language": None, "neither": False})},
    ),
    "hate_stormfront": Reader(
        "hate is harmful and S10, noHate is neither; relation and idk/skip unknown.",
        {"stormfront": _hate("label", {"hate": True, "noHate": False, "relation": None, "idk/skip": None})},
    ),
    "hate_edos_sexism": Reader(
        "sexist is harmful and S10; not sexist is unknown, many such rows are hateful otherwise.",
        {"edos": _hate("label_sexist", {"sexist": True, "not sexist": None})},
    ),
    "hate_hatemoji": Reader(
        "1 is harmful and S10, 0 is neither; the two halves of a contrast pair share a group.",
        {"hatemoji_build": _hatemoji},
    ),
    "hate_misogyny_reddit": Reader(
        "Misogynistic is harmful and S10; Nonmisogynistic is unknown, such rows can be offensive otherwise.",
        {"online_misogyny": _hate("label", {"Misogynistic": True, "Nonmisogynistic": None})},
    ),
    "hate_toxigen_annotated": Reader(
        "hate with a human score of 4 or more is harmful and S10, neutral with 2 or less is neither; else unknown.",
        {"toxigen_annotated": _toxigen},
    ),
    "toxic_paradetox": Reader(
        "neutral is not harmful, toxic (mostly swearing) is unknown; a sentence and its paraphrase share a group.",
        {"paradetox": _paradetox},
    ),
    "toxic_civil_spans": Reader(
        "not toxic is not harmful; toxic and split are unknown.",
        {"civil_comments_spans": _toxic({"not toxic": False, "split": None, "toxic": None})},
    ),
    "toxic_wiki_context": Reader(
        "0 is not harmful, 1 (toxic) is unknown; the comment replied to stays in raw.",
        {"wiki_talk_context": _toxic({1: None, 0: False})},
    ),
    "toxic_wiki_identity": Reader(
        "0 is not harmful, 1 (toxic) is unknown; the two versions of a comment share a group.",
        {"wiki_identity": _wiki_identity},
    ),
    "toxic_identity_templates": Reader(
        "nontoxic is not harmful, toxic is unknown: both are set by the template.",
        {"identity_templates": _toxic({"nontoxic": False, "toxic": None})},
    ),
    "toxic_surge": Reader(
        "Not Toxic is not harmful, Toxic is unknown.",
        {"toxicity_en": _toxic({"Not Toxic": False, "Toxic": None})},
    ),
    "convabuse": Reader(
        "The last user turn, after the turns before it: abusive with a mean severity of -2 or below is harmful, not "
        "abusive is not; else unknown.",
        {"convabuse": _convabuse},
    ),
    "germeval2018": Reader(
        "ABUSE is harmful and S10, OTHER is neither; INSULT and PROFANITY unknown.",
        {"germeval2018": _hate("label_fine", {"ABUSE": True, "OTHER": False, "INSULT": None, "PROFANITY": None})},
    ),
    "iwg_german_refugees": Reader(
        "Hate speech by both experts is harmful and S10, by neither is neither; unknown where they differ.",
        {"iwg_refugees": _iwg},
    ),
    "told_br": Reader(
        "Two votes for homophobia, racism, misogyny or xenophobia are harmful and S10; no vote at all is neither; else "
        "unknown (obscenities and insults).",
        {"told_br": _told_br},
    ),
    "mlma": Reader(
        "hateful is harmful and S10, normal is neither, other abusive is unknown.",
        {"mlma": _hate("sentiment_main", {"hateful": True, "normal": False, "other abusive": None, "unclear": None})},
    ),
    "cold_zh": Reader(
        "1 (offensive towards a group or person) is harmful, 0 is not; S10 where the fine label says attack on a "
        "group. Only split test is labelled by people.",
        {"cold": _cold},
    ),
}
