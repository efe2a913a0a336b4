"""Rows written for training share no text, and no run of ten words, with the prompts of sets that only measure."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from corral.core.yaml import parse_yaml
from corral.data import self_written
from corral.data.decontamination import EvaluationIndex
from corral.data.self_written import self_written_rows
from corral.data.sources import SOURCES, load_source

WRITTEN = (
    "comments",
    "contrasts",
    "everyday",
    "injections",
    "neighbours",
    "passages",
    "phrases",
    "plain",
    "replies",
    "statements",
    "translations",
    "varied",
)
EVALUATION = (
    "advbench",
    "aegis_test",
    "benign_oktest",
    "coconot_eval",
    "jailbreakbench",
    "malicious_instruct",
    "openai_moderation",
    "openai_moderation_de",
    "openai_moderation_es",
    "openai_moderation_fr",
    "prompt_injection_test",
    "strongreject",
    "toxicchat",
    "xstest_prompts",
)


def test_no_self_written_text_repeats_an_evaluation_text(data_folder: Path) -> None:
    assert not any(SOURCES.get(name).trainable for name in EVALUATION)
    index = EvaluationIndex(
        message.text
        for name in EVALUATION
        for row in load_source(name, data_folder, verify=False)
        for message in row.conversation.messages
    )
    texts = [
        message.text for name in WRITTEN for row in self_written_rows(name) for message in row.conversation.messages
    ]
    assert len(texts) > 3_500
    assert [text for text in texts if index.contaminated(text)] == []


SHORT_SETS = ("xstest_prompts", "benign_oktest", "benign_phtest", "coconot_eval", "advbench", "harmbench_behaviors")
SHORT = 16
STOP_WORDS = (
    "a an the my me i in on at to of for and or with without from into up down out off by it so that is do how what "
    "who where when his her someone one all than he she they not as if be this your our their"
)


def words(text: str) -> frozenset[str]:
    """Words that say something, without a plural's s."""
    found = {word[:-1] if word.endswith("s") and len(word) > 3 else word for word in re.findall("[a-z]+", text.lower())}
    return frozenset(found.difference(STOP_WORDS.split()))


def test_no_phrase_has_most_words_of_a_short_prompt_that_measures(data_folder: Path) -> None:
    measured = {words(row.text) for name in SHORT_SETS for row in load_source(name, data_folder, verify=False)}
    short = [found for found in measured if len(found) <= SHORT]
    read = parse_yaml(resources.files(self_written).joinpath("phrases.yaml").read_text(encoding="utf-8"), where="")
    asked = [f"{one['verb']} {what}" for one in read["actions"] for what in (*one["harmless"], *one["harmful"])]
    asked += [*read["questions"]["harmless"], *read["questions"]["harmful"]]
    assert len(asked) > 800
    close = [
        phrase
        for phrase in asked
        for found in short
        if len(words(phrase) & found) >= 2 and len(words(phrase) & found) >= 0.75 * len(words(phrase))
    ]
    assert close == []
