"""Calibration text: where it is from, how it is cut, and the manifest that tells two apart."""

from __future__ import annotations

import json

import pytest
import torch

from corral.core.errors import DataError, NotFoundError
from corral.models.chat import ChatTokenizer
from corral.models.loading import load_tokenizer
from corral.quant.calibration import CalibrationSettings, calibration


@pytest.fixture(scope="module")
def chat(tiny):
    return ChatTokenizer(load_tokenizer(tiny))


def test_windows_are_runs_of_the_text_at_seeded_places(chat, tmp_path):
    (tmp_path / "text.txt").write_text("".join(chr(33 + i % 90) for i in range(400)))
    settings = CalibrationSettings(source=str(tmp_path / "text.txt"), windows=5, length=32, seed=3)
    found = calibration(settings, chat, context=512)
    ids = chat.encode_text((tmp_path / "text.txt").read_text())
    runs = {tuple(ids[start : start + 32]) for start in range(len(ids) - 31)}
    assert found.windows_WT.shape == (5, 32)
    assert {tuple(window) for window in found.windows_WT.tolist()} <= runs
    assert torch.equal(calibration(settings, chat, context=512).windows_WT, found.windows_WT)
    other = calibration(settings.model_copy(update={"seed": 4}), chat, context=512)
    assert other.manifest.ids_sha256 != found.manifest.ids_sha256
    assert other.manifest.text_sha256 == found.manifest.text_sha256
    assert found.manifest.to_json()["tokens"] == 160


def test_windows_are_no_longer_than_the_models_context(chat):
    assert calibration(CalibrationSettings(windows=2, length=512), chat, context=64).windows_WT.shape == (2, 64)


def test_tokens_that_several_windows_share_are_counted_once(chat, tmp_path):
    """By brute force: every token of the text is another one."""
    (tmp_path / "text.txt").write_text("".join(chr(33 + i) for i in range(90)))
    settings = CalibrationSettings(source=str(tmp_path / "text.txt"), windows=6, length=20)
    found = calibration(settings, chat, context=512)
    assert found.manifest.tokens == 120
    assert found.manifest.distinct_tokens == len(found.windows_WT.unique())


def test_tables_are_read_row_by_row(chat, tmp_path):
    rows = [{"text": "first row of text"}, {"text": " "}, {"text": "second row"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "same.txt").write_text("first row of text\n\nsecond row")
    hashes = {
        calibration(
            CalibrationSettings(source=str(tmp_path / name), windows=1, length=8), chat, context=64
        ).manifest.text_sha256
        for name in ("rows.jsonl", "same.txt")
    }
    assert len(hashes) == 1


def test_no_text_and_unknown_sources_are_refused(chat, tmp_path):
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(DataError, match="no text to calibrate on"):
        calibration(CalibrationSettings(source=str(tmp_path / "blank.txt")), chat, context=64)
    with pytest.raises(NotFoundError, match=r"no file and no corpus is called `missing\.txt`"):
        calibration(CalibrationSettings(source="missing.txt"), chat, context=64)
    with pytest.raises(NotFoundError, match="no_such_corpus"):
        calibration(CalibrationSettings(source="no_such_corpus"), chat, context=64)
