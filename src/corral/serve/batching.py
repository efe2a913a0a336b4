"""Dynamic batching: what many requests ask of one guard becomes few calls of it, in a thread of its own.

The queue is bounded in items, in estimated tokens and in the time that its oldest item waits; what does not fit is
refused at once. A batch is whatever waits when the guard is free, up to its limits; one that is not full lingers for a
few milliseconds, unless as many wait as there were before. An item whose caller went away or whose time is over is not
computed.

A thread cannot be stopped. One whose call takes longer than ``hang_seconds`` is left behind and replaced, a few times;
after that the guard is out of order until a call returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final, Generic, TypeVar

from corral.core.errors import CorralError

In = TypeVar("In")
Out = TypeVar("Out")

_MAX_LEFT_BEHIND: Final = 3
_SMOOTHING: Final = 0.2
_LONGEST_RETRY: Final = 60
# Where callers ask again as soon as they are answered, those of one batch are back a few milliseconds after it: without
# them the next batch would be the other half, and so on by turns, at the cost of small products. They are waited for
# no longer than a tenth of what the batch took.
_COMING_BACK_SECONDS: Final = 0.1
_LINGER_SHARE: Final = 0.1
_LONGEST_LINGER: Final = 0.03

NICENESS: Final = 5
"""Of threads that compute: the event loop, which refuses and answers while they are busy, comes first."""


class QueueFullError(CorralError):
    """The queue has no room; ``retry_after`` is in seconds."""

    def __init__(self, name: str, retry_after: int) -> None:
        super().__init__(f"the queue of `{name}` is full", hint=f"Try again in {retry_after} s.")
        self.retry_after = retry_after


class OutOfOrderError(CorralError):
    """The guard does not come back from its calls, or the server is stopping."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one queue; see ``settings.Limits``."""

    queue_items: int = 512
    queue_tokens: int = 131_072
    queue_seconds: float = 10.0
    batch_items: int = 32
    batch_tokens: int = 4096
    linger_seconds: float = 0.002
    hang_seconds: float = 30.0


@dataclass(slots=True)
class _Item(Generic[In, Out]):
    value: In
    tokens: int
    queued_at: float
    expires_at: float
    future: asyncio.Future[Out]
    queued: bool = True


@dataclass(slots=True)
class _Worker:
    """One thread; ``busy_since`` is ``None`` between calls."""

    busy_since: float | None = None
    left_behind: bool = False


@dataclass(frozen=True, slots=True)
class _Call:
    """A call that ended: how long it took, when, and how many items were computed or waited then."""

    seconds: float = 0.0
    ended: float = -inf
    concurrent: int = 0


Observe = Callable[[int, float, float], None]
"""Told of every call: items, seconds of the call, seconds that the oldest item waited."""


class Batcher(Generic[In, Out]):
    """One guard, or anything else that computes in batches, in a thread behind a queue.

    Args:
        name: of it, for messages.
        run: called in the thread with a batch; gives one result an item, in order.
        limits: of queue and batch.
        observe: told of every call, in the thread.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[In]], Sequence[Out]],
        limits: BatchLimits,
        *,
        observe: Observe | None = None,
    ) -> None:
        self.name = name
        self._run = run
        self._limits = limits
        self._observe = observe
        self._queue: deque[_Item[In, Out]] = deque()
        self._changed = threading.Condition()
        self._items = 0
        self._tokens = 0
        self._closed = False
        self._tokens_per_second = 0.0
        self._left_behind = 0
        self._last = _Call()
        self._worker = self._started()

    @property
    def waiting(self) -> tuple[int, int]:
        """Items and estimated tokens in the queue."""
        return self._items, self._tokens

    @property
    def quiet_seconds(self) -> float:
        """How long nothing has been computed, infinite before the first call; 0 while something is or waits to be."""
        with self._changed:
            if self._items or self._worker.busy_since is not None:
                return 0.0
            return time.monotonic() - self._last.ended

    @property
    def in_order(self) -> bool:
        """Whether submissions are taken."""
        return not self._closed and self._left_behind <= _MAX_LEFT_BEHIND

    def submit(self, values: Sequence[In], tokens: Sequence[int], *, timeout: float) -> list[asyncio.Future[Out]]:
        """Queue values, all or none; called in the event loop.

        Args:
            values: what is asked.
            tokens: estimated size of each.
            timeout: seconds after which the answer is of no use.

        Returns:
            A future for each. Cancelling one takes it out of the queue.

        Raises:
            QueueFullError: no room.
            OutOfOrderError: nobody will answer.
        """
        loop = asyncio.get_running_loop()
        self._replace_if_hung()
        now = time.monotonic()
        total = sum(tokens)
        with self._changed:
            if not self.in_order:
                raise OutOfOrderError(f"`{self.name}` does not answer")
            # A request larger than the whole queue is let in when nothing else waits, or it never could be.
            if self._items and (
                self._items + len(values) > self._limits.queue_items
                or self._tokens + total > self._limits.queue_tokens
                or now - self._oldest().queued_at > self._limits.queue_seconds
            ):
                raise QueueFullError(self.name, self._retry_after())
            items = [
                _Item[In, Out](value, size, now, now + timeout, loop.create_future())
                for value, size in zip(values, tokens, strict=True)
            ]
            self._queue.extend(items)
            self._items += len(items)
            self._tokens += total
            self._changed.notify()
        for item in items:
            item.future.add_done_callback(lambda _, item=item: self._forget(item))  # type: ignore[misc]
        return [item.future for item in items]

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Take no more, answer what waits for at most so long, and end the thread."""
        deadline = time.monotonic() + drain_seconds
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._items and time.monotonic() < deadline:
                self._changed.wait(0.05)

    def _oldest(self) -> _Item[In, Out]:
        """The item that waits longest; there is one."""
        while not self._queue[0].queued:
            self._queue.popleft()
        return self._queue[0]

    def _forget(self, item: _Item[In, Out]) -> None:
        """Give back the room of an item that was cancelled while it waited."""
        with self._changed:
            if item.queued:
                item.queued = False
                self._items -= 1
                self._tokens -= item.tokens

    def _retry_after(self) -> int:
        seconds = self._tokens / self._tokens_per_second if self._tokens_per_second else 1.0
        return min(_LONGEST_RETRY, max(1, ceil(seconds)))

    def _replace_if_hung(self) -> None:
        worker = self._worker
        since = worker.busy_since
        if since is None or worker.left_behind or time.monotonic() - since <= self._limits.hang_seconds:
            return
        with self._changed:
            if worker is self._worker:
                worker.left_behind = True
                self._left_behind += 1
                if self._left_behind <= _MAX_LEFT_BEHIND:
                    self._worker = self._started()

    def _started(self) -> _Worker:
        worker = _Worker()
        # A daemon: a guard that hangs must not keep the process from ending.
        threading.Thread(target=self._work, args=(worker,), name=f"queue-{self.name}", daemon=True).start()
        return worker

    def _work(self, worker: _Worker) -> None:
        _yield_to_others()
        while (batch := self._next_batch(worker)) is not None:
            if batch:
                self._answer(worker, batch)
        if worker.left_behind:  # it came back after all, and another thread took its place
            with self._changed:
                self._left_behind -= 1
                if self._worker.left_behind and not self._closed:
                    self._worker = self._started()

    def _next_batch(self, worker: _Worker) -> list[_Item[In, Out]] | None:
        """What to compute next, ``None`` when this thread is to end."""
        with self._changed:
            while not self._items:
                if worker.left_behind or self._closed:
                    return None
                self._queue.clear()  # only cancelled items are left
                self._changed.wait()
            if worker.left_behind:
                return None
            if self._limits.linger_seconds:
                coming_back = time.monotonic() - self._last.ended < _COMING_BACK_SECONDS
                enough = self._last.concurrent if coming_back else self._limits.batch_items
                linger = min(_LONGEST_LINGER, _LINGER_SHARE * self._last.seconds) if coming_back else 0.0
                self._changed.wait_for(
                    lambda: self._is_full() or self._items >= enough, timeout=max(self._limits.linger_seconds, linger)
                )
            return self._take()

    def _is_full(self) -> bool:
        return self._items >= self._limits.batch_items or self._tokens >= self._limits.batch_tokens

    def _take(self) -> list[_Item[In, Out]]:
        batch: list[_Item[In, Out]] = []
        room = self._limits.batch_tokens
        now = time.monotonic()
        while self._queue and len(batch) < self._limits.batch_items:
            item = self._queue[0]
            if item.queued and batch and item.tokens > room:
                break
            self._queue.popleft()
            if not item.queued:
                continue
            item.queued = False
            self._items -= 1
            self._tokens -= item.tokens
            if item.expires_at > now:
                room -= item.tokens
                batch.append(item)
        self._changed.notify_all()
        return batch

    def _answer(self, worker: _Worker, batch: list[_Item[In, Out]]) -> None:
        worker.busy_since = started = time.monotonic()
        outcome: Sequence[Out] | BaseException
        try:
            outcome = list(self._run([item.value for item in batch]))
            if len(outcome) != len(batch):
                outcome = OutOfOrderError(f"{len(outcome)} results for {len(batch)} items")
        except BaseException as error:  # delivered to those who wait
            outcome = error
        finally:
            worker.busy_since = None
        seconds = max(time.monotonic() - started, 1e-6)
        rate = sum(item.tokens for item in batch) / seconds
        self._tokens_per_second += (rate - self._tokens_per_second) * _SMOOTHING if self._tokens_per_second else rate
        if self._observe is not None:
            self._observe(len(batch), seconds, started - batch[0].queued_at)
        with self._changed:
            self._last = _Call(seconds, time.monotonic(), len(batch) + self._items)
        loop = batch[0].future.get_loop()
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_deliver, batch, outcome)


def _yield_to_others() -> None:
    """Let the other threads of the process run before this one, and before those that it will start to compute with.

    Only Linux has this for a thread.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # not allowed, as in some sandboxes
            os.setpriority(os.PRIO_PROCESS, thread, max(NICENESS, os.getpriority(os.PRIO_PROCESS, thread)))


def _deliver(batch: Sequence[_Item[In, Out]], outcome: Sequence[Out] | BaseException) -> None:
    for index, item in enumerate(batch):
        if item.future.done():
            continue
        if isinstance(outcome, BaseException):
            item.future.set_exception(outcome)
        else:
            item.future.set_result(outcome[index])
