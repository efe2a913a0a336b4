"""Rows written for training share no text, and no run of ten words, with the prompts of sets that only measure."""

from __future__ import annotations

from pathlib import Path

from corral.data.decontamination import EvaluationIndex
from corral.data.self_written import self_written_rows
from corral.data.sources import SOURCES, load_source

WRITTEN = ("contrasts", "statements", "replies", "everyday", "injections")
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
