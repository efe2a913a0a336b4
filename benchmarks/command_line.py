"""What a user waits for at the command line, as JSON on standard output: ``make bench``.

Start-up is the median of several fresh processes; streaming is rows a second of the scripted guard, that is of
everything but a model; the default guard is timed on the example conversations, warm.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples" / "conversations.jsonl"
CORRAL = [sys.executable, "-m", "corral.cli.main"]
REPEATS = 5
STREAMED_ROWS = 20_000


def seconds(*arguments: str) -> float:
    """Wall time of one fresh process.

    Raises:
        RuntimeError: the command failed.
    """
    started = time.perf_counter()
    done = subprocess.run([*CORRAL, *arguments], capture_output=True, text=True, check=False)
    elapsed = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"corral {' '.join(arguments)} exited with {done.returncode}: {done.stderr}")
    return elapsed


def median_seconds(*arguments: str) -> float:
    """Median wall time over fresh processes, after one that warms the caches."""
    seconds(*arguments)
    return round(statistics.median(seconds(*arguments) for _ in range(REPEATS)), 3)


def streamed_rows_per_second(folder: Path) -> float:
    """Rows a second through the scripted guard, start-up taken off."""
    one, many = folder / "one.jsonl", folder / "many.jsonl"
    row = json.dumps({"messages": [{"role": "user", "content": "How do I bake bread? " * 10}]}) + "\n"
    one.write_text(row)
    many.write_text(row * STREAMED_ROWS)
    start = seconds("moderate", str(one), "--guard", "scripted", "--out", str(folder / "one.out.jsonl"))
    total = seconds("moderate", str(many), "--guard", "scripted", "--out", str(folder / "many.out.jsonl"))
    return round((STREAMED_ROWS - 1) / (total - start), 1)


def measure() -> dict[str, object]:
    """Every figure, and what it was measured on."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            "help_s": median_seconds("--help"),
            "moderate_text_s": median_seconds("moderate", "How do I bake bread?"),
            "moderate_examples_s": median_seconds("moderate", str(EXAMPLES), "--target", "both"),
            "scripted_rows_per_s": streamed_rows_per_second(Path(folder)),
            "repeats": REPEATS,
            "machine": f"{platform.platform()}, {platform.processor() or platform.machine()}",
            "date": datetime.now(UTC).date().isoformat(),
        }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
