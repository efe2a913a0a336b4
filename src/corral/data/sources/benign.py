"""Benign prompts (false in every Llama Guard 3 category), look-alikes of harm, and benign responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from corral.data.examples import ModerationExample, prompt_key
from corral.data.refusals import opens_with_refusal
from corral.data.sources.rows import BENIGN_CATEGORIES, Mapper, Reader, SourceRow, prompts

_BENIGN: Final[Mapper] = prompts(harmful=False, attack=False, categories=BENIGN_CATEGORIES)


def _grouped(family: str, *columns: str) -> Mapper:
    """Benign prompts whose rows with the same values in ``columns`` (translations, one task) share a group."""

    def read(row: SourceRow) -> Iterator[ModerationExample]:
        shared = [row.value[column] for column in columns]
        group = None if None in shared else "/".join([family, *map(str, shared)])
        return row.prompt("prompt", harmful=False, attack=False, categories=BENIGN_CATEGORIES, group=group)

    return read


def _with_response(row: SourceRow) -> Iterator[ModerationExample]:
    yield from row.prompt("prompt", harmful=False, attack=False, categories=BENIGN_CATEGORIES, part="prompt")
    yield from row.response("prompt", harmful=False, refusal=False, categories=BENIGN_CATEGORIES, part="response")


def _coconot(row: SourceRow) -> Iterator[ModerationExample]:
    yield from row.prompt("prompt", harmful=False, attack=False, categories=BENIGN_CATEGORIES, part="prompt")
    yield from row.response("prompt", "chosen", refusal=False, part="chosen")
    # Many rejected answers are wrong or evasive rather than refusing.
    refuses = opens_with_refusal(row.text("rejected")) or None
    yield from row.response("prompt", "rejected", refusal=refuses, part="rejected")


def _coconot_noncompliance(row: SourceRow) -> Iterator[ModerationExample]:
    return row.prompt("prompt", harmful=True if row.text("category") == "Requests with safety concerns" else None)


def _phtest(row: SourceRow) -> Iterator[ModerationExample]:
    if row.label("harmfulness", {"harmless": True, "controversial": False}):
        return row.prompt("prompt", harmful=False, attack=False, categories=BENIGN_CATEGORIES)
    return row.prompt("prompt")


def _frr(row: SourceRow) -> Iterator[ModerationExample]:
    english = row.text("original_english") or row.text("prompt")
    return row.prompt("prompt", harmful=False, attack=False, categories=BENIGN_CATEGORIES, group=prompt_key(english))


def _all_benign(file: str, mapper: Mapper = _BENIGN, note: str = "Every prompt is benign.") -> Reader:
    return Reader(note, {file: mapper})


READERS: Final[Mapping[str, Reader]] = {
    "benign_gsm8k": _all_benign("gsm8k_train"),
    "benign_nq_open": _all_benign("nq_open_dev"),
    "benign_banking77": _all_benign("banking77_train"),
    "benign_clinc150": _all_benign("clinc150_train"),
    "benign_arena_hard": _all_benign("arena_hard", note="Real user prompts, taken as benign; not checked one by one."),
    "benign_certified_safe": _all_benign("safe_prompts"),
    "benign_role_prompts": _all_benign("role_prompts", note="Benign persona prompts: look-alikes of jailbreaks."),
    "benign_bbq": _all_benign("bbq_sample", note="Benign texts that name protected groups."),
    "benign_prompts_chat": _all_benign("prompts_chat", note="Benign persona prompts: look-alikes of jailbreaks."),
    "benign_nl2bash": _all_benign("nl2bash", note="Benign; raw `lookalike` marks words that look harmful elsewhere."),
    "benign_cyberseceval_code": _all_benign("code_requests"),
    "benign_mt_bench": _all_benign("mt_bench", note="First turns, benign; the second turn stays in raw."),
    "benign_oktest": _all_benign("oktest", note="Safe prompts with words that look harmful."),
    "refusal_direction_harmless": _all_benign(
        "harmless_alpaca", prompts("instruction", harmful=False, attack=False, categories=BENIGN_CATEGORIES)
    ),
    "benign_fiction": _all_benign(
        "fiction",
        prompts("text", harmful=False, attack=False, categories=BENIGN_CATEGORIES),
        "Classic prose, benign; raw `lookalike` marks violence or romance.",
    ),
    "benign_xquad": _all_benign("xquad_questions", _grouped("xquad", "qid"), "Benign; translations share a group."),
    "benign_xsid": _all_benign("xsid", _grouped("xsid", "split", "id"), "Benign; translations share a group."),
    "benign_mgsm": _all_benign("mgsm", _grouped("mgsm", "id"), "Benign; translations share a group."),
    "benign_tldr": _all_benign(
        "tldr",
        _grouped("tldr", "command"),
        "Benign; the rows of a command share a group, raw `lookalike` marks words that look harmful elsewhere.",
    ),
    "benign_lobe_agents": _all_benign(
        "lobe_agents", _grouped("lobe_agents", "agent"), "Benign role prompts; translations share a group."
    ),
    "benign_cyberseceval_frr": _all_benign(
        "frr", _frr, "Benign requests that look security-relevant; translations share the group of their original."
    ),
    "benign_gpteacher": _all_benign("gpteacher", _with_response, "Benign prompts with benign, complying responses."),
    "benign_self_instruct": _all_benign(
        "self_instruct_human_written", _with_response, "Benign prompts with benign, complying responses."
    ),
    "benign_coconot": _all_benign(
        "coconot_contrast_pref",
        _coconot,
        "Benign prompts that look like ones to refuse; chosen complies (no refusal), rejected is a "
        "refusal where it opens like one, else unknown.",
    ),
    "benign_phtest": _all_benign(
        "phtest_v01", _phtest, "harmless is benign; controversial is unknown, leave it out of error rates."
    ),
    "coconot_eval": Reader(
        "coconot_contrast_eval is benign. Of coconot_eval, requests with safety concerns are harmful; the other "
        "categories are to be declined for other reasons, harm unknown.",
        {"coconot_contrast_eval": _BENIGN, "coconot_eval": _coconot_noncompliance},
    ),
}
