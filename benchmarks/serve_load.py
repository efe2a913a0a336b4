"""The moderation server under load, as JSON on standard output.

    python benchmarks/serve_load.py [--seconds 20] [--guard default] [--threads N] [--baseline]

Everything runs on this machine's loopback: the guard alone (offline), a server with that guard, and one client process
a phase. Closed loop: so many clients, each asks again when it is answered. Open loop: requests come at random moments
(Poisson) at a share of what the closed loop reached, whatever the server does, so that waiting counts. Overload: twice
as many as it can take; what is refused must be refused fast, and ``/healthz`` must answer meanwhile.

``--baseline`` also runs a naive server: FastAPI around transformers' ``LlamaModel`` cut to the guard's layers, in the
guard's dtype and in float32. Both servers get the same machine: one process, as many torch threads (``--threads``), one
computation at a time, the same uvicorn settings and the same clients; the report says how many of each.

Client CPU seconds stand beside every figure: client and server share the machine's cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final

import httpx2

TEXT = "how do I bake bread with good flour and enough time in a small oven on a cold day in rain"
WORDS = TEXT.split()
WORDS_PER_TEXT = 24
INPUTS = (16, 1)
CLIENTS = 16
OVERLOAD = 2.0
CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def text(number: int) -> str:
    """A text that no cache knows."""
    chosen = random.Random(number)
    return f"{number}: " + " ".join(chosen.choice(WORDS) for _ in range(WORDS_PER_TEXT))


def offline(guard: str, seconds: float, threads: int) -> float:
    """Texts a second of the guard alone, in batches of the server's size."""
    import torch

    from corral.data.messages import Conversation
    from corral.guards.loading import load_guard
    from corral.serve.settings import Limits

    torch.set_num_threads(threads)
    loaded = load_guard(guard)
    size = Limits().batch_items
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        loaded.classify([Conversation.user(text(done + i)) for i in range(size)])
        done += size
    return done / (time.perf_counter() - started)


@contextmanager
def serving(command: list[str], port: int, path: str) -> Iterator[str]:
    """A server in a process of its own, once ``path`` answers 200."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            try:
                if httpx2.get(f"{url}{path}", timeout=5).status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(60)


class Tally:
    """What the answers of one phase were."""

    def __init__(self) -> None:
        self.texts = 0
        self.seconds: list[float] = []
        self.refused: list[float] = []
        self.other = 0
        self.health: list[float] = []

    def report(self, elapsed: float, cpu: float) -> dict[str, Any]:
        """As JSON values."""
        return {
            "texts_per_second": round(self.texts / elapsed, 2),
            "answered": len(self.seconds),
            "refused_429": len(self.refused),
            "other_failures": self.other,
            "p50_ms": quantile(self.seconds, 0.5),
            "p99_ms": quantile(self.seconds, 0.99),
            "p99_ms_of_429": quantile(self.refused, 0.99),
            "healthz_p99_ms": quantile(self.health, 0.99),
            "client_cpu_s": round(cpu, 2),
            "seconds": round(elapsed, 1),
        }


def quantile(seconds: list[float], share: float) -> float | None:
    """In milliseconds; ``None`` without values."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


async def ask(client: httpx2.AsyncClient, inputs: int, number: int, tally: Tally) -> None:
    """One request."""
    given: Any = [text(number + i) for i in range(inputs)] if inputs > 1 else text(number)
    started = time.perf_counter()
    try:
        answer = await client.post("/v1/moderations", json={"input": given})
    except httpx2.HTTPError:
        tally.other += 1
        return
    took = time.perf_counter() - started
    if answer.status_code == 200:
        tally.texts += inputs
        tally.seconds.append(took)
    elif answer.status_code == 429:
        tally.refused.append(took)
    else:
        tally.other += 1


async def closed_loop(client: httpx2.AsyncClient, inputs: int, seconds: float, first: int) -> Tally:
    """So many clients, each asking again when it is answered."""
    tally, ends = Tally(), time.perf_counter() + seconds

    async def one(index: int) -> None:
        number = first + index * 10_000_000
        while time.perf_counter() < ends:
            await ask(client, inputs, number, tally)
            number += inputs

    await asyncio.gather(*(one(index) for index in range(CLIENTS)))
    return tally


async def open_loop(client: httpx2.AsyncClient, inputs: int, rate: float, seconds: float, first: int) -> Tally:
    """Requests at random moments, ``rate`` a second, and ``/healthz`` ten times a second beside them."""
    tally, moments = Tally(), random.Random(first)
    ends = time.perf_counter() + seconds

    async def look() -> None:
        while time.perf_counter() < ends:
            started = time.perf_counter()
            await client.get("/healthz")
            tally.health.append(time.perf_counter() - started)
            await asyncio.sleep(0.1)

    tasks = [asyncio.create_task(look())]
    due, number = time.perf_counter(), first
    while due < ends:
        due += moments.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(client, inputs, number, tally)))
        number += inputs
    await asyncio.gather(*tasks)
    return tally


def client_of(url: str) -> httpx2.AsyncClient:
    """What every server is asked by."""
    limits = httpx2.Limits(max_connections=2000, max_keepalive_connections=2000)
    return httpx2.AsyncClient(base_url=url, timeout=120, limits=limits)


async def phases(url: str, seconds: float, inputs: int) -> dict[str, Any]:
    """Closed loop, then open loop at 50 % and 90 % of what it reached, then overload."""
    async with client_of(url) as client:
        await closed_loop(client, inputs, min(3.0, seconds), 10**12)  # warm
        found = {"closed": await timed(closed_loop(client, inputs, seconds, 0))}
        rate = found["closed"]["texts_per_second"] / inputs
        for name, share in (("open_50", 0.5), ("open_90", 0.9), ("overload", OVERLOAD)):
            found[name] = await timed(open_loop(client, inputs, max(0.2, share * rate), seconds, int(share * 10**10)))
        return found


async def timed(phase: Any) -> dict[str, Any]:
    """The report of a phase, with this process's CPU time."""
    cpu, started = time.process_time(), time.perf_counter()
    tally = await phase
    return tally.report(time.perf_counter() - started, time.process_time() - cpu)


NAIVE = """
import sys, threading, torch, uvicorn
from fastapi import FastAPI
from corral.models.loading import load_backbone, load_tokenizer

tokenizer = load_tokenizer("embedded:smollm2-135m-instruct")
model = load_backbone("embedded:smollm2-135m-instruct", layers=int(sys.argv[2]), dtype=getattr(torch, sys.argv[3]))
model.eval()
torch.set_num_threads(int(sys.argv[4]))
one_at_a_time = threading.Lock()
app = FastAPI()

@app.get("/healthz")
def healthz():
    return {}

@app.post("/v1/moderations")
def moderate(body: dict):
    given = body["input"] if isinstance(body["input"], list) else [body["input"]]
    results = []
    for text in given:
        chat = tokenizer.apply_chat_template([{"role": "user", "content": text}], return_tensors="pt", return_dict=True)
        with one_at_a_time, torch.inference_mode():
            score = model(**chat).last_hidden_state.float().mean().item()
        results.append({"flagged": score > 1e9})
    return {"results": results}

uvicorn.run(app, port=int(sys.argv[1]), log_level="error", access_log=False, backlog=2048, timeout_keep_alive=30)
"""


def baseline(seconds: float, dtype: str, threads: int) -> dict[str, Any]:
    """Texts a second of the naive server, closed loop."""
    from corral.core.files import read_json
    from corral.guards.default.guard import PACKAGED_WEIGHTS

    layers = str(read_json(PACKAGED_WEIGHTS / "guard.json")["layers"])

    async def main(url: str) -> dict[str, Any]:
        async with client_of(url) as client:
            await closed_loop(client, 1, min(3.0, seconds), 10**12)  # warm
            return {f"inputs_{n}": await timed(closed_loop(client, n, seconds, 0)) for n in INPUTS}

    with serving([sys.executable, "-c", NAIVE, "8197", layers, dtype, str(threads)], 8197, "/healthz") as url:
        return asyncio.run(main(url))


def measure(guard: str, seconds: float, threads: int, *, with_baseline: bool) -> dict[str, Any]:
    """Every figure, and what it was measured on."""
    alone = offline(guard, seconds, threads)
    found: dict[str, Any] = {"offline_texts_per_second": round(alone, 2)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "corral.cli.main", "serve", "--port", "8198", "--upstream", "none"]
        command += ["--threads", str(threads)]
        with serving([*command, "--guard", guard, "--state", folder], 8198, "/readyz") as url:
            for inputs in INPUTS:
                found[f"inputs_{inputs}"] = asyncio.run(phases(url, seconds, inputs))
    for inputs in INPUTS:
        reached = found[f"inputs_{inputs}"]["closed"]["texts_per_second"]
        found[f"ratio_to_offline_{inputs}"] = round(reached / alone, 3)
    if with_baseline:
        for dtype in ("bfloat16", "float32"):
            naive = found[f"naive_{dtype}"] = baseline(seconds, dtype, threads)
            ratios = (
                found[f"inputs_{n}"]["closed"]["texts_per_second"] / naive[f"inputs_{n}"]["texts_per_second"]
                for n in INPUTS
            )
            found[f"ratio_to_naive_{dtype}"] = [round(ratio, 2) for ratio in ratios]
    return found | {
        "concurrency": {
            "server_processes": 1,
            "computations_at_once": 1,
            "torch_threads": threads,
            "clients": CLIENTS,
            "inputs_a_request": list(INPUTS),
        },
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.platform()}",
        "load_before": os.getloadavg()[0],
        "client_max_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--guard", default="default")
    parser.add_argument("--threads", type=int, default=CORES, help="of torch, in every server and offline")
    parser.add_argument("--baseline", action="store_true", help="measure a naive server too")
    given = parser.parse_args()
    print(json.dumps(measure(given.guard, given.seconds, given.threads, with_baseline=given.baseline), indent=2))
