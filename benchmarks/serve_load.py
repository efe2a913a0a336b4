"""The moderation server under load, beside the guard alone and a naive server: JSON on standard output.

    python benchmarks/serve_load.py            (about 13 minutes; exits with 1 where a requirement is not met)

Everything runs on this machine's loopback: the server with its guard, the guard alone (offline, in batches, in a
process of its own), a naive server around transformers (``naive_server.py``) in the guard's dtype and in float32, and
one client process. All get the same threads, and compute one thing at a time.

- Closed loop: so many clients, each asks again when it is answered. In each of several rounds the server, the guard
  alone and the naive servers take turns, so that what else happens to the machine happens to all; a ratio is of two
  figures of the same round, and the median over the rounds counts.
- Open loop: requests come at random moments (Poisson) at half and at nine tenths of what the closed loop reached.
- Overload: twice as many as it can take, for as long as the queue needs to fill and then some. What is refused must be
  refused fast, and ``/healthz``, asked by another process, must answer meanwhile.

``requirements`` says of each whether it is met, with the figure and what is needed. Client and server share the
machine's cores: CPU seconds of both stand beside every phase, and ``others_cpu_share`` says what the rest of the
machine took, so that a figure from a busy machine can be told from one of an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import httpx2
from load_client import closed_loop, median_and_range, new_text, open_loop, sample, watch

INPUTS: Final = (16, 1)
OFFLINE_BATCHES: Final = (32, 64)
SHARES: Final = {"open_50": 0.5, "open_90": 0.9}
OVERLOAD: Final = 2.0
PADDED_ROUTE: Final = "/padded"
START_SECONDS: Final = 300.0

# What issue and guide promise.
LEAST_OF_OFFLINE: Final = {16: 0.85, 1: 0.65}
LEAST_OF_NAIVE: Final = {"same_dtype": 1.8, "float32": 4.0}
MOST_MS_OF_429: Final = 50.0
MOST_MS_OF_HEALTHZ: Final = 50.0
MOST_MB_GROWN: Final = 64.0
SETTLING_SECONDS: Final = 45.0
"""After a load and before memory is read: a server that nothing is asked of gives free memory back within it."""

CORES: Final = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_alone: Final[list[Any]] = []
"""The guard, in the process that judges offline."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    guard: str
    seconds: float
    rounds: int
    clients: int
    threads: int
    naive: bool


@dataclass(frozen=True, slots=True)
class Served:
    """A server in a process of its own."""

    url: str
    pid: int


def load_alone(guard: str, threads: int) -> None:
    """Make this process the one that judges offline."""
    import torch

    from corral.guards.loading import load_guard

    torch.set_num_threads(threads)
    _alone.append(load_guard(guard))


def dtype_alone() -> str:
    """What the guard computes in: its revision ends with it; "" for one that is no model."""
    found: str = _alone[0].revision.rpartition("-")[2]
    return found if found in ("bfloat16", "float32", "int8") else ""


def rate_alone(seconds: float) -> float:
    """Texts a second of the guard alone, in batches of the better of two sizes.

    Raises:
        RuntimeError: it gave no verdict on a text.
    """
    from corral.data.messages import Conversation

    rates = []
    for size in OFFLINE_BATCHES:
        done, started = 0, time.perf_counter()
        while done == 0 or time.perf_counter() - started < seconds / len(OFFLINE_BATCHES):
            verdicts = _alone[0].classify([Conversation.user(new_text()) for _ in range(size)])
            if any(verdict.status.value != "ok" for verdict in verdicts):
                raise RuntimeError("the guard gave no verdict on a text")
            done += size
        rates.append(done / (time.perf_counter() - started))
    return max(rates)


@contextmanager
def process_of_its_own(*load: Any) -> Iterator[ProcessPoolExecutor]:
    """One fresh process that calls functions of this file, after ``load_alone`` with what is given."""
    initializer = load_alone if load else None
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=initializer, initargs=load) as executor:
        yield executor


@contextmanager
def serving(command: list[str], port: int, ready: str) -> Iterator[Served]:
    """A server, once ``ready`` answers 200.

    Raises:
        RuntimeError: it ends before, or takes too long.
    """
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url + ready):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not start: {' '.join(command)}")
            time.sleep(0.1)
        yield Served(url, process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5).status_code == 200
    except httpx2.HTTPError:
        return False


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def cpu_seconds(pid: int) -> float | None:
    """Of a process that runs; ``None`` where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def busy_seconds() -> float | None:
    """CPU time of the whole machine, idle and waiting aside; ``None`` where the system does not tell."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _waiting, irq, soft, steal = map(int, fields)
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float | None:
    """Of a process that runs, in 10^6 bytes; ``None`` where the system does not tell."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return None
    return round(int(pages) * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


class Measuring:
    """One run.

    Args:
        options: what to measure.
        alone: the process that judges offline.
        corral: the server.
        naive: the naive servers by dtype.
    """

    def __init__(
        self, options: Options, alone: ProcessPoolExecutor, corral: Served, naive: Mapping[str, Served]
    ) -> None:
        self._options = options
        self._alone = alone
        self._corral = corral
        self._naive = naive
        self.texts = 0
        """Texts that the server was given verdicts on."""

    def round(self) -> dict[str, Any]:
        """Everybody once, in turn."""
        seconds = self._options.seconds
        found: dict[str, Any] = {"offline_texts_per_second": self._alone.submit(rate_alone, seconds).result()}
        for inputs in INPUTS:
            found[f"inputs_{inputs}"] = self._closed(inputs)
        for dtype, server in self._naive.items():
            for inputs in INPUTS:
                loop = closed_loop(server.url, inputs, clients=self._options.clients, seconds=seconds)
                found[f"naive_{dtype}_inputs_{inputs}"] = loop
            padded = closed_loop(
                server.url, max(INPUTS), clients=self._options.clients, seconds=seconds, route=PADDED_ROUTE
            )
            found[f"naive_{dtype}_padded"] = padded
        return found

    def under_load(self, inputs: int, texts_per_second: float) -> dict[str, Any]:
        """Open loops at a share of what the closed loop reached, and overload."""
        from corral.serve.settings import Limits

        rate, seconds = texts_per_second / inputs, 2 * self._options.seconds
        found = {
            name: self._open(inputs, rate=max(0.2, share * rate), seconds=seconds) for name, share in SHARES.items()
        }
        limits = Limits()
        filling = min(limits.queue_items / (texts_per_second * (OVERLOAD - 1)), limits.queue_seconds)
        found["overload"] = self._open(inputs, rate=max(0.2, OVERLOAD * rate), seconds=filling + seconds)
        return found

    def warm_up(self) -> None:
        """One short loop of everything that is measured."""
        for inputs in INPUTS:
            for server in (self._corral, *self._naive.values()):
                loop = closed_loop(server.url, inputs, clients=self._options.clients, seconds=1.0)
                self.texts += loop["texts"] if server is self._corral else 0
        self._alone.submit(rate_alone, 0.0).result()

    def _closed(self, inputs: int) -> dict[str, Any]:
        before = cpu_seconds(self._corral.pid)
        loop = closed_loop(self._corral.url, inputs, clients=self._options.clients, seconds=self._options.seconds)
        return self._counted(loop, before)

    def _open(self, inputs: int, *, rate: float, seconds: float) -> dict[str, Any]:
        before = cpu_seconds(self._corral.pid)
        with process_of_its_own() as beside:
            watched = beside.submit(watch, self._corral.url, seconds)
            loop = open_loop(self._corral.url, inputs, rate=rate, seconds=seconds)
            return self._counted(loop, before) | watched.result() | {"asked_per_second": round(rate, 3)}

    def _counted(self, loop: dict[str, Any], before: float | None) -> dict[str, Any]:
        self.texts += loop["texts"]
        after = cpu_seconds(self._corral.pid)
        used = None if before is None or after is None else round(after - before, 2)
        return loop | {"server_cpu_s": used}


def measure(options: Options) -> dict[str, Any]:
    """Every figure, and what it was measured on."""
    # In every process, the client's too: a setting in the caller's shell must not favour one of them.
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    started, busy, load = time.monotonic(), busy_seconds(), os.getloadavg()[0]
    with ExitStack() as stack:
        alone = stack.enter_context(process_of_its_own(options.guard, options.threads))
        dtype = alone.submit(dtype_alone).result()
        _say("starting the servers")
        corral = stack.enter_context(_corral(options, stack.enter_context(tempfile.TemporaryDirectory())))
        dtypes = dict.fromkeys(["float32" if dtype == "float32" else "bfloat16", "float32"]) if options.naive else {}
        naive = {each: stack.enter_context(_naive(each, options.threads)) for each in dtypes}
        measuring = Measuring(options, alone, corral, naive)
        measuring.warm_up()
        rounds, memory = [], []
        for number in range(options.rounds):
            _say(f"round {number + 1} of {options.rounds}")
            rounds.append(measuring.round())
            memory.append(resident_mb(corral.pid))
        loads = {}
        for inputs in INPUTS:
            _say(f"open loops and overload, {inputs} inputs a request")
            reached = median_and_range([each[f"inputs_{inputs}"]["texts_per_second"] for each in rounds])["median"]
            loads[f"inputs_{inputs}"] = measuring.under_load(inputs, reached)
            time.sleep(SETTLING_SECONDS)
            memory.append(resident_mb(corral.pid))
        judged = sample(corral.url, "corral_batch_items_sum")
    found = {
        "guard": options.guard,
        "guard_dtype": dtype,
        "rounds": rounds,
        "under_load": loads,
        "ratio_to_offline": {str(inputs): _ratios_to_offline(rounds, inputs) for inputs in INPUTS},
        "ratio_to_naive": _ratios_to_naive(rounds, list(naive)),
        "server_rss_mb": memory,
        "texts_answered": measuring.texts,
        "texts_judged_by_the_guard": judged,
    }
    return {"requirements": requirements(found)} | found | _machine(options, load, started, busy)


def _corral(options: Options, folder: str) -> Any:
    port = free_port()
    command = ["-m", "corral.cli.main", "serve", "--port", str(port), "--upstream", "none", "--state", folder]
    return serving([*command, "--guard", options.guard, "--threads", str(options.threads)], port, "/readyz")


def _naive(dtype: str, threads: int) -> Any:
    port, file = free_port(), Path(__file__).with_name("naive_server.py")
    return serving([str(file), str(port), dtype, str(threads)], port, "/healthz")


def _ratios_to_offline(rounds: list[dict[str, Any]], inputs: int) -> dict[str, float]:
    return median_and_range(
        [each[f"inputs_{inputs}"]["texts_per_second"] / each["offline_texts_per_second"] for each in rounds]
    )


def _ratios_to_naive(rounds: list[dict[str, Any]], dtypes: list[str]) -> dict[str, dict[str, float]]:
    """By naive server and inputs a request; the first dtype is the guard's."""

    def ratios(inputs: int, naive: str) -> dict[str, float]:
        ours = (each[f"inputs_{inputs}"]["texts_per_second"] for each in rounds)
        theirs = (each[naive]["texts_per_second"] for each in rounds)
        return median_and_range([mine / other for mine, other in zip(ours, theirs, strict=True)])

    found = {}
    for name, dtype in zip(LEAST_OF_NAIVE, [dtypes[0], dtypes[-1]] if dtypes else [], strict=False):
        for inputs in INPUTS:
            found[f"{name}_inputs_{inputs}"] = ratios(inputs, f"naive_{dtype}_inputs_{inputs}")
        found[f"{name}_padded"] = ratios(max(INPUTS), f"naive_{dtype}_padded")
    return found


def requirements(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By name: whether it is met, the figure, and what is needed. A figure that is missing does not meet anything."""
    met: dict[str, dict[str, Any]] = {}

    def require(name: str, value: float | None, *, at_least: float | None = None, at_most: float | None = None) -> None:
        needed = f"at least {at_least:g}" if at_least is not None else f"at most {at_most:g}"
        fits = value is not None and (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        met[name] = {"met": fits, "value": value, "needed": needed}

    for inputs, least in LEAST_OF_OFFLINE.items():
        ratio = found["ratio_to_offline"][str(inputs)]["median"]
        require(f"throughput_of_offline_at_{inputs}_inputs", ratio, at_least=least)
    for name, least in LEAST_OF_NAIVE.items():
        ratios = [found["ratio_to_naive"].get(f"{name}_inputs_{inputs}", {}).get("median") for inputs in INPUTS]
        require(f"times_naive_{name}", None if None in ratios else min(ratios), at_least=least)
    most_waiting = _queue_items()
    for inputs in INPUTS:
        loads = found["under_load"][f"inputs_{inputs}"]
        over = loads["overload"]
        refusals = sum(loads[name]["refused_429"] for name in SHARES)
        require(f"refused_below_capacity_at_{inputs}_inputs", refusals, at_most=0)
        require(f"refused_in_overload_at_{inputs}_inputs", over["refused_429"], at_least=1)
        require(f"p99_ms_of_429_at_{inputs}_inputs", over["p99_ms_of_429"], at_most=MOST_MS_OF_429)
        require(f"p99_ms_of_healthz_in_overload_at_{inputs}_inputs", over["healthz_p99_ms"], at_most=MOST_MS_OF_HEALTHZ)
        require(f"most_queued_in_overload_at_{inputs}_inputs", over["most_queued"], at_most=most_waiting)
    phases = [each[f"inputs_{inputs}"] for each in found["rounds"] for inputs in INPUTS]
    phases += [phase for loads in found["under_load"].values() for phase in loads.values()]
    require("requests_that_failed", sum(phase["failed"] for phase in phases), at_most=0)
    # Were answers from a cache, the guard would have judged fewer texts than were answered.
    share = found["texts_judged_by_the_guard"] / found["texts_answered"] if found["texts_answered"] else None
    require("texts_judged_for_each_answered", share, at_least=1)
    memory = found["server_rss_mb"]
    for when, before in (("round", memory[0]), ("overload", memory[-2])):
        grown = None if None in (before, memory[-1]) else round(memory[-1] - before, 1)
        require(f"mb_grown_after_the_first_{when}", grown, at_most=MOST_MB_GROWN)
    return met


def _queue_items() -> int:
    from corral.serve.settings import Limits

    return Limits().queue_items


def _machine(options: Options, load: float, started: float, busy: float | None) -> dict[str, Any]:
    """What the figures were measured on; to be called when every server has ended."""
    elapsed, now, times = time.monotonic() - started, busy_seconds(), os.times()
    ours = times.user + times.system + times.children_user + times.children_system
    others = None if busy is None or now is None else max(0.0, now - busy - ours) / (elapsed * (os.cpu_count() or 1))
    return {
        "concurrency": {
            "server_processes": 1,
            "computations_at_once": 1,
            "torch_threads": options.threads,
            "clients": options.clients,
            "inputs_a_request": list(INPUTS),
        },
        "others_cpu_share": None if others is None else round(others, 3),
        "load_before": round(load, 2),
        "machine": f"{platform.machine()}, {CORES} CPUs, {platform.platform()}",
        "seconds": round(elapsed, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; 1 where a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a closed loop; open loops take twice as long")
    parser.add_argument("--rounds", type=int, default=3, help="in which everybody takes turns")
    parser.add_argument("--clients", type=int, default=16, help="of closed loops")
    parser.add_argument("--guard", default="default")
    parser.add_argument("--threads", type=int, default=CORES, help="of torch, in every server and offline")
    parser.add_argument("--without-naive", action="store_true", help="leave the naive servers out, and unmet")
    given = parser.parse_args(arguments)
    naive = given.guard == "default" and not given.without_naive  # the English half, of every text
    found = measure(Options(given.guard, given.seconds, given.rounds, given.clients, given.threads, naive))
    print(json.dumps(found, indent=2))
    unmet = [name for name, each in found["requirements"].items() if not each["met"]]
    _say(f"not met: {', '.join(unmet)}" if unmet else "every requirement is met")
    return 1 if unmet else 0


if __name__ == "__main__":
    sys.exit(main())
