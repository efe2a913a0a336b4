"""What every test runs under: no network, no data from outside the repository, quiet libraries."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Examples are timed by the machine's load as much as by the code. With CI set they are also the same in every run.
settings.register_profile("corral", settings(), deadline=None)
settings.load_profile("corral")

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A test that needs a data set writes its own rows; without this one could pass only where the real sets lie about.
os.environ["CORRAL_DATA"] = str(Path(__file__).parent / "no-data-sets-here")


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse connections that leave this machine, so that a test cannot come to need one."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to reach {address[0]}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield
