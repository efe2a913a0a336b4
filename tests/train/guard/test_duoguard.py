"""DuoGuard's classifier in training: its labels, its two losses, and a folder that the guard loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from corral.core.errors import DataError
from corral.data.examples import ModerationExample
from corral.data.messages import Conversation
from corral.guards.base import Status
from corral.guards.duoguard import DuoGuard, duoguard_codes
from corral.train.guard.duoguard import collate, encode_texts, save_duoguard, train_duoguard
from corral.train.guard.duoguard_labels import UNKNOWN, duoguard_labels, is_labelled
from corral.train.guard.duoguard_settings import DuoGuardTrainingConfig

CODES = duoguard_codes()
HATE = CODES.index("duoguard/hate")


def row(text: str, harmful: bool | None, attack: bool | None = False, **categories: bool) -> ModerationExample:
    labels = {f"llama_guard_3/{code}": present for code, present in categories.items()}
    return ModerationExample(Conversation.user(text), "prompt", harmful=harmful, attack=attack, categories=labels)


def settings(base: Path, **changes: Any) -> DuoGuardTrainingConfig:
    defaults: dict[str, Any] = {"first_trained_layer": 0, "max_tokens": 24, "batch_tokens": 256, "precision": "fp32"}
    return DuoGuardTrainingConfig(base=str(base), **{**defaults, "learning_rate": 2e-2, "epochs": 12, **changes})


def test_a_benign_text_has_no_category() -> None:
    assert duoguard_labels(row("a", False)) == [0.0] * 12


def test_a_violated_category_leaves_the_others_absent() -> None:
    labels = duoguard_labels(row("a", True, S10=True))
    assert [i for i, label in enumerate(labels) if label] == [HATE]


def test_harm_without_a_category_is_unknown_and_not_benign() -> None:
    assert duoguard_labels(row("a", True)) == [UNKNOWN] * 11 + [0.0]
    assert not is_labelled(row("a", True, attack=None))
    assert duoguard_labels(row("a", None, attack=True)) == [UNKNOWN] * 11 + [1.0]


def test_categories_without_a_counterpart_say_nothing() -> None:
    assert duoguard_labels(row("a", True, S13=True)) == [UNKNOWN] * 11 + [0.0]


def test_rows_are_padded_on_the_right(tiny_base: Path) -> None:
    encoded = encode_texts(
        [row("abc", False), row("a", True, S10=True), row("b", None, attack=None)], settings(tiny_base)
    )
    assert len(encoded) == 2
    batch = collate(encoded)
    assert batch["attention_mask"].sum(dim=1).tolist() == [len(each.ids) for each in encoded]
    assert batch["labels"].tolist() == [1, 1]
    with pytest.raises(DataError):
        encode_texts([row("b", None, attack=None)], settings(tiny_base))


@pytest.mark.parametrize("loss", ["zlpr", "bce"])
def test_a_trained_classifier_is_a_duoguard(tiny_base: Path, tmp_path: Path, loss: str) -> None:
    texts = [("zzz zzz", True), ("aaa aaa", False), ("zz z zz", True), ("a aa aa", False)]
    rows = [row(text, harmful, **({"S10": True} if harmful else {})) for text, harmful in texts]
    trained = train_duoguard(rows, settings(tiny_base, loss=loss), tmp_path / "out")
    save_duoguard(trained, str(tiny_base), tmp_path / "guard")
    guard = DuoGuard.load(model=tmp_path / "guard")
    verdicts = guard.classify([each.conversation for each in rows])
    assert [verdict.status for verdict in verdicts] == [Status.OK] * 4
    harmful, benign = verdicts[0].categories["duoguard/hate"], verdicts[1].categories["duoguard/hate"]
    assert harmful > benign


def test_the_same_settings_give_the_same_bits(tiny_base: Path, tmp_path: Path) -> None:
    rows = [row("zzz", True, S10=True), row("aaa", False)]
    twice = [train_duoguard(rows, settings(tiny_base, epochs=2), tmp_path / name) for name in ("a", "b")]
    pairs = zip(twice[0].parameters(), twice[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
