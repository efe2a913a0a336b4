"""A tiny random Llama as a subject, a cache, and a progress that counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.evals.sample_cache import SampleCache
from corral.evals.tasks.task import Subject
from corral.models.engines.torch import TorchEngine
from corral.models.tiny import write_tiny_llama


class CountedProgress:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0

    def start(self, total: int) -> None:
        self.total = total

    def advance(self, steps: int = 1) -> None:
        self.done += steps


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory) -> TorchEngine:
    return TorchEngine.load(write_tiny_llama(tmp_path_factory.mktemp("tiny") / "model", context=256))


@pytest.fixture
def tiny_subject(tiny_engine) -> Subject:
    return Subject(tiny_engine, "tiny", "tiny-0")


@pytest.fixture
def cache(tmp_path: Path) -> SampleCache:
    return SampleCache(tmp_path / "samples")


@pytest.fixture
def progress() -> CountedProgress:
    return CountedProgress()
