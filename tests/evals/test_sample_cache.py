from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from corral.evals.sample_cache import SampleCache, default_cache_folder, item_hash
from corral.evals.tasks.task import Subject
from corral.models.engines.scripted import ScriptedEngine


def subject(name: str = "m", revision: str = "r1") -> Subject:
    return Subject(ScriptedEngine(lambda _: "", name=name), name, revision)


class Lengths:
    """Computes lengths of texts and remembers what it was asked; interrupts after so many batches."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.batches = 0
        self.stop_after = stop_after

    def __call__(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        if self.batches == self.stop_after:
            raise KeyboardInterrupt
        self.batches += 1
        self.asked += texts
        return [{"length": len(text)} for text in texts]


def fill(cache: SampleCache, compute: Lengths, texts: Sequence[str], **changes: Any) -> list[dict[str, Any]]:
    return cache.fill(
        changes.get("subject", subject()),
        changes.get("task", "lengths"),
        changes.get("version", "1"),
        settings=changes.get("settings", {}),
        items=texts,
        keys=[item_hash(text) for text in texts],
        compute=compute,
        batch_size=2,
    )


def test_what_was_computed_is_not_computed_again(tmp_path: Path) -> None:
    first, second = Lengths(), Lengths()
    assert fill(SampleCache(tmp_path), first, ["a", "bb", "ccc"]) == [{"length": 1}, {"length": 2}, {"length": 3}]
    assert fill(SampleCache(tmp_path), second, ["ccc", "dddd", "a"]) == [{"length": 3}, {"length": 4}, {"length": 1}]
    assert second.asked == ["dddd"]


def test_equal_items_are_computed_once(tmp_path: Path) -> None:
    compute = Lengths()
    assert fill(SampleCache(tmp_path), compute, ["a", "a"]) == [{"length": 1}] * 2
    assert compute.asked == ["a"]


@pytest.mark.parametrize(
    "change",
    [{"subject": subject(revision="r2")}, {"task": "other"}, {"version": "2"}, {"settings": {"window": 4}}],
    ids=["revision", "task", "version", "settings"],
)
def test_a_value_is_not_reused_under_another(change: dict[str, Any], tmp_path: Path) -> None:
    fill(SampleCache(tmp_path), Lengths(), ["a"])
    again = Lengths()
    fill(SampleCache(tmp_path), again, ["a"], **change)
    assert again.asked == ["a"]


def test_the_same_weights_under_another_name_share_their_values(tmp_path: Path) -> None:
    fill(SampleCache(tmp_path), Lengths(), ["a"])
    again = Lengths()
    fill(SampleCache(tmp_path), again, ["a"], subject=subject(name="copy"))
    assert again.asked == []


def test_an_interrupted_run_keeps_the_batches_that_it_finished(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fill(SampleCache(tmp_path), Lengths(stop_after=1), ["a", "bb", "ccc"])
    again = Lengths()
    fill(SampleCache(tmp_path), again, ["a", "bb", "ccc"])
    assert again.asked == ["ccc"]


def test_without_reuse_everything_is_computed_again_but_only_once(tmp_path: Path) -> None:
    fill(SampleCache(tmp_path), Lengths(), ["a", "bb"])
    cache, again = SampleCache(tmp_path, reuse=False), Lengths()
    fill(cache, again, ["a"])
    fill(cache, again, ["a", "bb"])
    assert again.asked == ["a", "bb"]


def test_a_process_that_is_killed_loses_only_what_it_had_not_flushed(tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from corral.evals.sample_cache import SampleCache
from corral.evals.tasks.task import Subject
cache = SampleCache(Path({str(tmp_path)!r}))
with cache.open(Subject(None, "m", "r1"), "lengths", "1", {{}}) as values:
    values.put("kept", {{"length": 4}})
    values.flush()
    values.put("lost", {{"length": 4}})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -9
    with SampleCache(tmp_path).open(subject(), "lengths", "1", {}) as values:
        assert values["kept"] == {"length": 4}
        assert "lost" not in values


def test_a_value_takes_little_more_room_than_itself(tmp_path: Path) -> None:
    fill(SampleCache(tmp_path), Lengths(), ["a"])
    [file] = tmp_path.rglob("*[0-9a-f].jsonl")
    [row] = file.read_text().splitlines()
    assert json.loads(row) == {"key": item_hash("a"), "value": {"length": 1}}
    assert len(row) < 80


def test_the_default_folder_is_in_corrals_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_CACHE", str(tmp_path))
    assert default_cache_folder() == tmp_path / "samples"
