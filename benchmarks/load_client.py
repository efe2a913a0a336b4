"""Clients of a moderation server, and what they saw: closed loops, open loops, and a watch on the server beside them.

Three rules keep the figures honest. No text is sent twice, so no cache answers. An answer counts only for the texts in
it that were judged. Latency counts from the moment a request was due, so a client that falls behind hides nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2

ROUTE: Final = "/v1/moderations"
_SENTENCE: Final = "how do i bake bread with good flour and enough time in a small oven on a cold day in rain"
_WORDS: Final = tuple(_SENTENCE.split())
_SHORTEST, _LONGEST = 8, 40
_TIMEOUT_SECONDS: Final = 120.0
_AFTER_REFUSAL_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.05
_LOOKS_A_SCRAPE: Final = 5
_CLIENTS: Final = 64
"""httpx looks through all connections of a client at every request: milliseconds, where hundreds wait for answers."""
_QUEUE: Final = re.compile(r"^corral_queue_items\{.*\} ([0-9.e+]+)$", re.MULTILINE)

_numbers = itertools.count()
_draw = random.Random(0)


def new_text() -> str:
    """A text of 8 to 40 words that this process has not made before."""
    words = _draw.choices(_WORDS, k=_draw.randint(_SHORTEST, _LONGEST))
    return f"{next(_numbers)}: {' '.join(words)}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: when it was due, begun and there, and what it was (``status`` 0 where the connection failed)."""

    due: float
    begun: float
    there: float
    status: int
    body: bytes


@dataclass(slots=True)
class Phase:
    """The answers of one phase, asked for by clients in turn."""

    inputs: int
    clients: Iterator[httpx2.AsyncClient] = field(default_factory=lambda: iter(()))
    answers: list[Answer] = field(default_factory=list)

    async def ask(self, route: str, due: float) -> int:
        """Send one request, and note what came of it; returns its status."""
        given: Any = [new_text() for _ in range(self.inputs)] if self.inputs > 1 else new_text()
        begun = time.perf_counter()
        try:
            answer = await next(self.clients).post(route, json={"input": given})
        except httpx2.HTTPError:
            self.answers.append(Answer(due, begun, time.perf_counter(), 0, b""))
            return 0
        self.answers.append(Answer(due, begun, time.perf_counter(), answer.status_code, answer.content))
        return int(answer.status_code)

    def report(self, elapsed: float, client_cpu: float) -> dict[str, Any]:
        """As JSON values. ``failed`` counts requests that were neither answered whole nor refused with 429."""
        answered = [answer for answer in self.answers if answer.status == 200]
        judged = [judged_texts(answer.body) for answer in answered]
        refused = [answer.there - answer.due for answer in self.answers if answer.status == 429]
        taken = [answer.there - answer.due for answer in answered]
        return {
            "texts": sum(judged),
            "texts_per_second": round(sum(judged) / elapsed, 3),
            "requests": len(self.answers),
            "answered": len(answered),
            "refused_429": len(refused),
            "failed": len(self.answers) - len(refused) - sum(count == self.inputs for count in judged),
            "p50_ms": quantile_ms(taken, 0.5),
            "p99_ms": quantile_ms(taken, 0.99),
            "p99_ms_of_429": quantile_ms(refused, 0.99),
            "client_late_p99_ms": quantile_ms([answer.begun - answer.due for answer in self.answers], 0.99),
            "client_cpu_s": round(client_cpu, 2),
            "seconds": round(elapsed, 2),
        }


def judged_texts(body: bytes) -> int:
    """Texts in an answer that were judged: a guard's failure is an answer too, and no verdict."""
    answer = json.loads(body)
    if "corral" in answer:
        return sum(decision["status"] == "ok" for decision in answer["corral"]["decisions"])
    return len(answer["results"])


def quantile_ms(seconds: list[float], share: float) -> float | None:
    """The smallest value that at least this share does not exceed, in milliseconds; ``None`` without values."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return round(1e3 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1)


def closed_loop(url: str, inputs: int, *, clients: int, seconds: float, route: str = ROUTE) -> dict[str, Any]:
    """So many clients, each asking again when it is answered, and a little later when it is refused."""

    async def main(phase: Phase) -> None:
        ends = time.perf_counter() + seconds

        async def one() -> None:
            while (now := time.perf_counter()) < ends:
                if await phase.ask(route, now) != 200:
                    await asyncio.sleep(_AFTER_REFUSAL_SECONDS)

        await asyncio.gather(*(one() for _ in range(clients)))

    return _timed(url, inputs, main)


def open_loop(url: str, inputs: int, *, rate: float, seconds: float) -> dict[str, Any]:
    """``rate`` requests a second at random moments (Poisson), whatever the server does."""

    async def main(phase: Phase) -> None:
        moments = random.Random(0)
        due = time.perf_counter()
        ends = due + seconds
        asking = []
        while (due := due + moments.expovariate(rate)) < ends:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            asking.append(asyncio.create_task(phase.ask(ROUTE, due)))
        await asyncio.gather(*asking)

    return _timed(url, inputs, main)


def _client(url: str) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=4000, max_keepalive_connections=4000)
    return httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT_SECONDS, limits=limits, verify=False)


def _timed(url: str, inputs: int, main: Any) -> dict[str, Any]:
    async def run() -> tuple[Phase, float]:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(_client(url)) for _ in range(_CLIENTS)]
            phase, started = Phase(inputs, itertools.cycle(clients)), time.perf_counter()
            await main(phase)
            return phase, time.perf_counter() - started

    cpu = time.process_time()
    phase, elapsed = asyncio.run(run())
    return phase.report(elapsed, time.process_time() - cpu)


def watch(url: str, seconds: float) -> dict[str, Any]:
    """Ask ``/healthz`` twenty times a second, and now and then how many wait; run in a process of its own.

    A look that fails or takes long counts with all the time that it took. However short the time, there is one look,
    and how many wait is asked with it.
    """
    looks: list[float] = []
    queued: list[float] = []
    ends = time.perf_counter() + seconds
    with httpx2.Client(base_url=url, timeout=_TIMEOUT_SECONDS) as client:
        while (started := time.perf_counter()) < ends or not looks:
            healthy = _is_fine(client, "/healthz")
            looks.append(time.perf_counter() - started if healthy else _TIMEOUT_SECONDS)
            if len(looks) % _LOOKS_A_SCRAPE == 1:
                queued += [float(value) for value in _QUEUE.findall(client.get("/metrics").text)]
            time.sleep(max(0.0, _LOOK_SECONDS - (time.perf_counter() - started)))
    return {
        "healthz_looks": len(looks),
        "healthz_p99_ms": quantile_ms(looks, 0.99),
        "most_queued": max(queued, default=None),
    }


def _is_fine(client: httpx2.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx2.HTTPError:
        return False


def sample(url: str, name: str) -> float:
    """The sum of a metric of the server over its labels."""
    text = httpx2.get(f"{url}/metrics", timeout=_TIMEOUT_SECONDS).text
    return sum(float(found) for found in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


def median_and_range(values: list[float]) -> dict[str, float]:
    """Of the rounds."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }
