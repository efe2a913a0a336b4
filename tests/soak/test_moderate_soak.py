"""A large file through `corral moderate`: bounded memory, broken rows listed, nothing lost or doubled by a kill.

`make soak` runs it on 200,000 rows; without ``CORRAL_SOAK_ROWS``, as in `make test`, on a hundredth of that. The fewer
the rows, the longer each: a job that kept its texts would show at any size.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROWS = int(os.environ.get("CORRAL_SOAK_ROWS", "2000"))
BROKEN_EVERY = 100
TRIGGER_EVERY = 1000
FEW_ROWS = 128  # two batches
TEXT_CHARS = max(500, 100_000_000 // ROWS)
# What more rows may cost beyond a run over few: allocator slack. Keeping the texts would cost 90 MB or more.
SLACK_MB = 32
WORDS = "the quick brown fox jumps over the lazy dog while nobody looks "
TEXT = WORDS * (TEXT_CHARS // len(WORDS))
# Together two seconds: long enough that a signal after the first batch finds the job at work.
SLOWLY = f"scripted.delay={2 / ROWS:.7f}"

PROGRAM = """
import resource, sys
from corral.cli.main import main
code = main(sys.argv[1:])
print("max-rss-kib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def write_conversations(path: Path, rows: int) -> Path:
    """A JSONL file in which one row in a hundred is broken, in one of three ways."""
    broken = (b'{"messages": [{"role": "user"', b'{"messages": []}', b'{"messages": "\xff\xfe"}')
    with path.open("wb") as stream:
        for number in range(rows):
            if number % BROKEN_EVERY == BROKEN_EVERY - 1:
                stream.write(broken[number // BROKEN_EVERY % len(broken)] + b"\n")
                continue
            text = f"{number} " + TEXT + ("TRIGGER" if number % TRIGGER_EVERY == 0 else "")
            row = {"id": str(number), "messages": [{"role": "user", "content": text}]}
            stream.write(json.dumps(row).encode() + b"\n")
    return path


def command(source: Path, out: Path, *more: str) -> list[str]:
    options = ["--guard", "scripted", "--target", "prompt", "--out", str(out), *more]
    return [sys.executable, "-c", PROGRAM, "moderate", str(source), *options]


def moderated(source: Path, out: Path, *more: str) -> float:
    """Moderate a file to the end; returns the largest resident memory of the process in MB."""
    done = subprocess.run(command(source, out, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr  # rows were rejected
    return int(done.stderr.split("max-rss-kib ")[1]) / 1024


def ids(out: Path) -> Iterator[int]:
    with out.open(encoding="utf-8") as stream:
        for line in stream:
            yield int(json.loads(line)["id"])


def assert_complete(out: Path, rows: int) -> None:
    """Every readable row once and in order, every broken row in the reject file."""
    readable = (number for number in range(rows) if number % BROKEN_EVERY != BROKEN_EVERY - 1)
    assert all(found == expected for found, expected in zip(ids(out), readable, strict=True))
    with Path(f"{out}.rejects.jsonl").open(encoding="utf-8") as stream:
        lines = [json.loads(line)["line"] for line in stream]
    assert lines == list(range(BROKEN_EVERY, rows + 1, BROKEN_EVERY))


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conversations(tmp_path_factory.mktemp("soak") / "conversations.jsonl", ROWS)


def test_memory_does_not_grow_with_the_file(conversations: Path, tmp_path: Path) -> None:
    few = moderated(write_conversations(tmp_path / "few.jsonl", FEW_ROWS), tmp_path / "few-out.jsonl")
    many = moderated(conversations, tmp_path / "out.jsonl")
    print(f"\n{ROWS:,} rows, {conversations.stat().st_size / 1e6:.0f} MB: {many:.0f} MB resident, {few:.0f} MB for few")
    assert many < few + SLACK_MB
    assert_complete(tmp_path / "out.jsonl", ROWS)


@pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["ctrl-c", "kill"])
def test_stopped_job_continues_without_losing_or_doubling_a_row(
    stop: signal.Signals, code: int, conversations: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with subprocess.Popen(command(conversations, out, "--set", SLOWLY), stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and not (out.exists() and out.stat().st_size > 0):
            time.sleep(0.005)
        running.send_signal(stop)
    assert running.returncode == code
    with out.open("rb") as stream:
        before = sum(1 for _ in stream)
    assert 0 < before < ROWS * (BROKEN_EVERY - 1) // BROKEN_EVERY
    moderated(conversations, out, "--set", SLOWLY)
    assert_complete(out, ROWS)
