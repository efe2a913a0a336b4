"""A tiny random Llama: a base model that trains in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from corral.models.tiny import write_tiny_llama


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny")
