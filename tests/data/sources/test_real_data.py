"""Every source read once from the real files, against the counts of their index. Skipped where the data is absent."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from corral.data.sources import SOURCES, load_source

# source: (target, field, upstream column, what its values mean). The index counts the values of that column.
COUNTED = {
    "openai_moderation": ("prompt", "harmful", "flagged", {"1": True, "0": False}),
    "openai_moderation_es": ("prompt", "harmful", "flagged", {"1": True, "0": False}),
    "toxicchat": ("prompt", "harmful", "toxicity", {"1": True, "0": False}),
    "toxicchat_fr": ("prompt", "harmful", "toxicity", {"1": True, "0": False}),
    "rtp_lx_de": ("prompt", "harmful", "toxic", {"1": True, "0": False}),
    "beavertails": ("response", "harmful", "is_safe", {"false": True, "true": False}),
    "aegis_test": ("prompt", "harmful", "label", {"harmful": True, "unharmful": False}),
    "xstest_prompts": ("prompt", "harmful", "label", {"unsafe": True, "safe": False}),
    "hatecheck_en": ("prompt", "harmful", "label", {"hateful": True, "non-hateful": False}),
    "davidson": ("prompt", "harmful", "label", {"hate_speech": True, "neither": False, "offensive_language": None}),
    "hate_stormfront": ("prompt", "harmful", "label", {"hate": True, "noHate": False}),
    "hate_edos_sexism": ("prompt", "harmful", "label_sexist", {"sexist": True, "not sexist": None}),
    "hate_hatemoji": ("prompt", "harmful", "label", {"1": True, "0": False}),
    "hate_misogyny_reddit": ("prompt", "harmful", "label", {"Misogynistic": True, "Nonmisogynistic": None}),
    "toxic_paradetox": ("prompt", "harmful", "label", {"neutral": False, "toxic": None}),
    "toxic_surge": ("prompt", "harmful", "label", {"Not Toxic": False, "Toxic": None}),
    "germeval2018": ("prompt", "harmful", "label_fine", {"ABUSE": True, "OTHER": False}),
    "mlma": ("prompt", "harmful", "sentiment_main", {"hateful": True, "normal": False, "other abusive": None}),
    "cold_zh": ("prompt", "harmful", "label", {"1": True, "0": False}),
    "told_br": ("prompt", "harmful", "toxic_any", {"0": False}),
    "convabuse": ("prompt", "harmful", "label", {"not abusive": False}),
    "gptfuzz": ("response", "harmful", "label", {"1": True, "0": False}),
    "diasafety": ("response", "harmful", "label", {"Unsafe": True}),
    "latent_jailbreak_responses": ("response", "harmful", "label", {"unsafe": True, "safe": False}),
    "do_not_answer": ("response", "harmful", "harmful", {"1": True, "0": False}),
    "refusal_direction_completions": ("response", "refusal", "not_refused_substring", {"0": True, "1": False}),
    "prompt_injection_train": ("prompt", "attack", "label", {"1": True, "0": False}),
    "prompt_injection_test": ("prompt", "attack", "label", {"1": True, "0": False}),
    "wrapped_prompts": ("prompt", "attack", "wrapper_kind", {"jailbreak": True, "role": False}),
    "benign_phtest": ("prompt", "harmful", "harmfulness", {"harmless": False, "controversial": None}),
}

# Rows whose judged text is null or blank, so that they give one example fewer.
BLANK = {"tweeteval": 1, "past_tense": 60, "diasafety": 3, "jbb_artifacts": 2 * 159}


@dataclass(slots=True)
class Summary:
    examples: int = 0
    labels: Counter = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)


def summarise(name: str, root: Path) -> Summary:
    source, summary, seen = SOURCES.get(name), Summary(), set()
    for example in load_source(name, root):
        summary.examples += 1
        for label in ("harmful", "attack", "refusal"):
            summary.labels[example.target, label, getattr(example, label)] += 1
        sound = (
            example.text.strip()
            and example.group
            and example.id not in seen
            and example.conversation.target() == example.target
            and (not example.language or example.language in source.languages)
            and not (example.harmful is False and any(example.categories.values()))
            and bool(example.categories) == bool(example.taxonomy)
            and (source.trainable or not example.eval_overlap)
        )
        seen.add(example.id)
        if not sound:
            summary.defects.append(example.id)
    return summary


@pytest.fixture(scope="module")
def summaries(data_folder: Path) -> dict[str, Summary]:
    return {name: summarise(name, data_folder) for name in SOURCES}


@pytest.fixture(scope="module")
def files(index: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The files of each source, as the index describes them."""
    files = {file["path"]: file for entry in index for file in entry["files"]}
    return {name: [files[path] for path in SOURCES.get(name).files] for name in SOURCES}


@pytest.mark.slow
def test_every_row_gives_sound_examples(summaries: dict[str, Summary]) -> None:
    defects = {name: summary.defects[:3] for name, summary in summaries.items() if summary.defects}
    assert defects == {}
    assert all(summary.examples for summary in summaries.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(COUNTED))
def test_labels_agree_with_the_counts_of_the_index(name: str, summaries, files) -> None:
    target, label, column, meanings = COUNTED[name]
    own = [file for file in files[name] if SOURCES.get(name).folder in file["path"]]
    counts: Counter = Counter()
    for file in own:
        counts.update(file.get("counts", {}).get(column, {}))
    expected: dict[bool | None, int] = defaultdict(int)
    for value, meaning in meanings.items():
        expected[meaning] += counts[value]
    assert {meaning: summaries[name].labels[target, label, meaning] for meaning in expected} == dict(expected)
    assert sum(expected.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sorted(BLANK), "red_instruct", "benign_xquad", "hatecheck_en"])
def test_only_documented_blank_rows_are_left_out(name: str, summaries, files) -> None:
    per_row = 2 if name in ("past_tense", "jbb_artifacts") else 1
    rows = sum(file["rows"] for file in files[name])
    assert summaries[name].examples == rows * per_row - BLANK.get(name, 0)
