"""Memory that a server keeps."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from corral.serve import memory
from corral.serve.memory import KEPT_PRODUCTS, bound_kept_products, give_back_free_memory

GROWTH = """
import ctypes, sys

class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena a b mapped c d e used f g".split()]

try:
    mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
except (OSError, AttributeError):
    sys.exit("glibc does not tell")
mallinfo.restype = Memory

import torch
from corral.serve.memory import bound_kept_products

if sys.argv[1] == "bounded":
    bound_kept_products()
torch.set_num_threads(1)
def multiply(rows):
    torch.bmm(torch.ones(1, rows, 16, dtype=torch.bfloat16), torch.ones(1, 16, 16, dtype=torch.bfloat16))
multiply(1)
before = mallinfo().used
for rows in range(2, 900):
    multiply(rows)
print((mallinfo().used - before) / 1e6)
"""


def grown(kind: str) -> float:
    """Megabytes in use after products of 900 shapes."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_CAPACITY")}
    ended = subprocess.run(
        [sys.executable, "-c", GROWTH, kind], check=False, capture_output=True, text=True, timeout=300, env=environment
    )
    if ended.returncode:
        pytest.skip(ended.stderr.strip().splitlines()[-1])
    return float(ended.stdout)


def test_products_of_ever_new_shapes_take_bounded_memory() -> None:
    unbounded = grown("unbounded")
    if unbounded < 100:
        pytest.skip(f"this torch keeps {unbounded:.0f} MB of compiled products")
    assert grown("bounded") < unbounded / 2


def test_what_the_environment_says_of_kept_products_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that it is taken back afterwards
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")

    bound_kept_products()

    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(KEPT_PRODUCTS)


GIVEN_BACK = """
import sys
from pathlib import Path
from corral.serve.memory import give_back_free_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

pieces = [bytearray(50_000) for _ in range(4_000)]
kept = pieces[::50]  # between what is freed, so that the heap cannot shrink by itself
del pieces
before = resident()
give_back_free_memory()
print(before - resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_that_is_free_goes_back_to_the_system() -> None:
    ended = subprocess.run([sys.executable, "-c", GIVEN_BACK], check=True, capture_output=True, text=True, timeout=300)
    assert float(ended.stdout) > 100


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_a_system_without_glibc_is_left_alone(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    def loaded(name: object) -> object:
        raise AssertionError("looked for glibc")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(memory.ctypes, "CDLL", loaded)
    memory._malloc_trim.cache_clear()
    try:
        give_back_free_memory()
    finally:
        memory._malloc_trim.cache_clear()
