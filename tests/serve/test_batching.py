"""The queue in front of a guard: batches, bounds, deadlines, and guards that hang."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Sequence
from math import inf

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")

from corral.serve import batching
from corral.serve.batching import Batcher, BatchLimits, OutOfOrderError, QueueFullError


class Gate:
    """A guard that waits until it is let go, and notes its batches."""

    def __init__(self, *, open: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.let_go = threading.Event()
        self.entered = threading.Event()
        if open:
            self.let_go.set()

    def __call__(self, values: Sequence[int]) -> list[int]:
        self.batches.append(list(values))
        self.entered.set()
        self.let_go.wait(10)
        return [2 * value for value in values]


async def entered(gate: Gate) -> None:
    while not gate.entered.is_set():
        await asyncio.sleep(0.005)


def test_answers_come_in_the_order_of_the_questions() -> None:
    async def main() -> list[int]:
        batcher = Batcher("g", Gate(open=True), BatchLimits(batch_items=3, linger_seconds=0))
        return list(await asyncio.gather(*batcher.submit(range(10), [1] * 10, timeout=5)))

    assert asyncio.run(main()) == [2 * i for i in range(10)]


def test_callers_that_ask_again_at_once_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is waited is a share of the call before: made generous, so that a busy machine changes nothing.
    monkeypatch.setattr(batching, "_COMING_BACK_SECONDS", 60.0)
    monkeypatch.setattr(batching, "_LINGER_SHARE", 1e6)
    monkeypatch.setattr(batching, "_LONGEST_LINGER", 60.0)
    gate = Gate()

    async def main() -> float:
        batcher = Batcher("g", gate, BatchLimits(batch_items=64, linger_seconds=0.001))
        first = batcher.submit(range(30), [1] * 30, timeout=90)
        await entered(gate)
        others = batcher.submit([30, 31], [1, 1], timeout=90)
        started = time.monotonic()
        gate.let_go.set()
        await asyncio.gather(*first)
        await asyncio.sleep(0.2)  # long after a linger that knows nothing of callers
        again = batcher.submit(range(40, 70), [1] * 30, timeout=90)
        await asyncio.gather(*others, *again)
        return time.monotonic() - started

    assert asyncio.run(main()) < 30  # and no longer than until they are there
    assert [len(batch) for batch in gate.batches] == [30, 32]


def test_one_caller_is_not_made_to_wait_for_others() -> None:
    async def main() -> float:
        batcher = Batcher("g", Gate(open=True), BatchLimits(batch_items=1, linger_seconds=60))
        await batcher.submit([0], [1], timeout=90)[0]
        batcher._limits = BatchLimits(linger_seconds=60)
        started = time.monotonic()
        await batcher.submit([1], [1], timeout=90)[0]
        return time.monotonic() - started

    assert asyncio.run(main()) < 30


def test_what_waits_becomes_one_batch_within_items_and_tokens() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("g", gate, BatchLimits(batch_items=4, batch_tokens=10, linger_seconds=0))
        first = batcher.submit([0], [1], timeout=5)
        await entered(gate)
        rest = batcher.submit([1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 6, 6, 50], timeout=5)
        gate.let_go.set()
        await asyncio.gather(*first, *rest)

    asyncio.run(main())
    assert gate.batches == [[0], [1, 2, 3, 4], [5], [6], [7]]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("g", gate, BatchLimits(queue_items=4, queue_tokens=100, linger_seconds=0))
        batcher.submit([0], [1], timeout=5)
        await entered(gate)
        waiting = batcher.submit([1, 2, 3], [1, 1, 1], timeout=5)
        began = time.monotonic()
        with pytest.raises(QueueFullError) as refused:
            batcher.submit([4, 5], [1, 1], timeout=5)
        assert time.monotonic() - began < 0.05
        assert refused.value.retry_after >= 1
        with pytest.raises(QueueFullError):
            batcher.submit([4], [98], timeout=5)
        assert batcher.waiting == (3, 3)
        gate.let_go.set()
        await asyncio.gather(*waiting)
        assert batcher.waiting == (0, 0)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="threads have priorities of their own on Linux alone")
def test_what_computes_yields_to_the_event_loop() -> None:
    async def main() -> tuple[int, int]:
        batcher = Batcher("g", lambda values: [own_niceness() for _ in values], BatchLimits(linger_seconds=0))
        (answer,) = batcher.submit([0], [1], timeout=5)
        return own_niceness(), await answer

    loops, computing = asyncio.run(main())
    assert computing == max(loops, batching.NICENESS)


def test_a_system_that_grants_no_priority_is_served_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(batching.os, "setpriority", refuse, raising=False)

    async def main() -> int:
        batcher = Batcher("g", Gate(open=True), BatchLimits(linger_seconds=0))
        return await batcher.submit([3], [1], timeout=5)[0]

    assert asyncio.run(main()) == 6


def own_niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_it_is_quiet_while_nothing_is_computed_or_waits() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("g", gate, BatchLimits(batch_items=1, linger_seconds=0))
        assert batcher.quiet_seconds == inf
        answers = batcher.submit([0, 1], [1, 1], timeout=5)
        await entered(gate)
        assert batcher.quiet_seconds == 0
        gate.let_go.set()
        await asyncio.gather(*answers)
        await asyncio.sleep(0.05)
        assert 0.05 <= batcher.quiet_seconds < 5

    asyncio.run(main())


def test_a_queue_that_moves_too_slowly_takes_no_more() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("g", gate, BatchLimits(queue_seconds=0.05, linger_seconds=0))
        batcher.submit([0], [1], timeout=5)
        await entered(gate)
        (gone,) = batcher.submit([1], [1], timeout=5)
        await asyncio.sleep(0.1)
        gone.cancel()  # it gives its place back in the next turn of the loop, and its age no longer counts
        await asyncio.sleep(0)
        (oldest,) = batcher.submit([2], [1], timeout=5)
        await asyncio.sleep(0.1)
        with pytest.raises(QueueFullError):
            batcher.submit([3], [1], timeout=5)
        gate.let_go.set()
        assert await oldest == 4
        (fine,) = batcher.submit([3], [1], timeout=5)
        assert await fine == 6

    asyncio.run(main())


def test_a_request_larger_than_the_queue_is_let_in_when_nothing_waits() -> None:
    async def main() -> list[int]:
        batcher = Batcher("g", Gate(open=True), BatchLimits(queue_items=2, linger_seconds=0))
        return list(await asyncio.gather(*batcher.submit(range(5), [1] * 5, timeout=5)))

    assert len(asyncio.run(main())) == 5


def test_what_nobody_waits_for_is_not_computed() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("g", gate, BatchLimits(linger_seconds=0))
        first = batcher.submit([0], [1], timeout=5)
        await entered(gate)
        (gone,) = batcher.submit([1], [1], timeout=5)
        (late,) = batcher.submit([2], [1], timeout=0.01)
        (kept,) = batcher.submit([3], [1], timeout=5)
        gone.cancel()
        await asyncio.sleep(0.05)
        assert batcher.waiting == (2, 2)
        gate.let_go.set()
        await asyncio.gather(*first, kept)
        assert not late.done()

    asyncio.run(main())
    assert gate.batches == [[0], [3]]


def test_a_guard_that_raises_fails_its_batch_and_serves_the_next() -> None:
    def run(values: Sequence[int]) -> list[int]:
        if 0 in values:
            raise RuntimeError("no")
        return list(values)

    async def main() -> None:
        batcher = Batcher("g", run, BatchLimits(linger_seconds=0))
        (failed,) = batcher.submit([0], [1], timeout=5)
        with pytest.raises(RuntimeError):
            await failed
        (fine,) = batcher.submit([1], [1], timeout=5)
        assert await fine == 1

    asyncio.run(main())


def test_a_thread_that_hangs_is_replaced_and_too_many_put_the_guard_out_of_order() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("g", gate, BatchLimits(linger_seconds=0, hang_seconds=0.02))
        for number in range(4):
            gate.entered.clear()
            batcher.submit([number], [1], timeout=5)
            await entered(gate)
            await asyncio.sleep(0.05)
        with pytest.raises(OutOfOrderError):
            batcher.submit([9], [1], timeout=5)
        gate.let_go.set()
        while not batcher.in_order:
            await asyncio.sleep(0.01)
        (fine,) = batcher.submit([5], [1], timeout=5)
        assert await fine == 10

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_closed_queue_answers_what_it_took_and_takes_no_more() -> None:
    async def main() -> None:
        batcher = Batcher("g", Gate(open=True), BatchLimits(linger_seconds=0))
        futures = batcher.submit([1, 2], [1, 1], timeout=5)
        await asyncio.to_thread(batcher.close, drain_seconds=5)
        assert await asyncio.gather(*futures) == [2, 4]
        with pytest.raises(OutOfOrderError):
            batcher.submit([3], [1], timeout=5)

    asyncio.run(main())
