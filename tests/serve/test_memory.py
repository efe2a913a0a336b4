"""Memory that a server keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from corral.serve import memory
from corral.serve.memory import KEPT_PRODUCTS, bound_kept_products, give_back_free_memory

MEMORY = """
import ctypes, sys

class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena a b mappings c d e used f g".split()]

try:
    mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
except (OSError, AttributeError):
    sys.exit("glibc does not tell")
mallinfo.restype = Memory
"""

GROWTH = """
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


def figure(code: str, *arguments: str) -> float:
    """The number that a program prints; it can read `mallinfo()`."""
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_CACHE_CAPACITY")}
    command = [sys.executable, "-c", MEMORY + code, *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, env=environment)
    if ended.stderr.startswith("glibc does not tell"):
        pytest.skip("glibc does not tell")
    assert ended.returncode == 0, ended.stderr
    return float(ended.stdout)


def test_products_of_ever_new_shapes_take_bounded_memory() -> None:
    unbounded = figure(GROWTH, "unbounded")
    if unbounded < 100:
        pytest.skip(f"this torch keeps {unbounded:.0f} MB of compiled products")
    assert figure(GROWTH, "bounded") < unbounded / 2


def test_what_the_environment_says_of_kept_products_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that it is taken back afterwards
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")

    bound_kept_products()

    assert os.environ["LRU_CACHE_CAPACITY"] == "7"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == str(KEPT_PRODUCTS)


MAPPED = """
from corral.serve.memory import large_blocks_apart

malloc = ctypes.CDLL("libc.so.6").malloc
before = mallinfo().mappings
with large_blocks_apart():
    malloc(2 * 2**20)
    if sys.argv[1] == "meanwhile":
        print(mallinfo().mappings - before)
if sys.argv[1] == "afterwards":
    before = mallinfo().mappings
    malloc(2 * 2**20)
    print(mallinfo().mappings - before)
"""


@pytest.mark.parametrize(("when", "mappings"), [("meanwhile", 1), ("afterwards", 0)])
def test_weights_lie_apart_and_what_batches_take_does_not(when: str, mappings: int) -> None:
    assert figure(MAPPED, when) == mappings


def test_the_bounds_are_put_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int]] = []
    monkeypatch.setattr(memory, "_glibc", lambda: SimpleNamespace(mallopt=lambda *option: told.append(option)))

    with pytest.raises(RuntimeError, match="no such guard"), memory.large_blocks_apart():
        raise RuntimeError("no such guard")

    assert told == [(-3, 2**20), (-3, 2**25), (-1, 2**26)]


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
    memory._glibc.cache_clear()
    try:
        give_back_free_memory()
    finally:
        memory._glibc.cache_clear()
