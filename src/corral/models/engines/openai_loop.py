"""An asyncio loop in a thread of its own: many requests at once for callers that are not asynchronous.

The caller may itself run in an asyncio loop (a notebook, a server's worker), in any thread. A caller that is
interrupted while it waits cancels what it waits for, which closes the connection and so frees the server.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from corral.core.errors import EngineError

_T = TypeVar("_T")
_In = TypeVar("_In")
_Out = TypeVar("_Out")
_STOP_SECONDS: Final = 5.0
_END: Final = object()


async def bounded_map(
    items: Sequence[_In], answer: Callable[[int, _In], Awaitable[_Out]], concurrency: int
) -> list[_Out]:
    """Answer all items, so many at a time; the first error cancels the rest."""
    answers: dict[int, _Out] = {}
    pending = iter(enumerate(items))

    async def work() -> None:
        for index, item in pending:
            answers[index] = await answer(index, item)

    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(items))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        failed = errors.exceptions[0]
    if failed is not None:
        raise failed  # outside of the handler, which would make the group its context
    return [answers[index] for index in range(len(items))]


class BackgroundLoop:
    """Runs coroutines in a thread that starts with the first and ends at ``close`` or with this object.

    Args:
        on_stop: awaited in the loop as its last act; must not refer to this object.
    """

    def __init__(self, on_stop: Callable[[], Awaitable[None]]) -> None:
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] | None = None
        self._closed = False

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """The coroutine's result; an exception in the waiting thread cancels it.

        Raises:
            EngineError: closed, before or meanwhile.
        """
        return self._result(self._submit(coroutine))

    def iterate(self, pieces: AsyncGenerator[_T]) -> Iterator[_T]:
        """The generator's items as they come; giving up early cancels it.

        Raises:
            EngineError: closed, before or meanwhile.
        """
        arrived: SimpleQueue[Any] = SimpleQueue()

        async def produce() -> None:
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        arrived.put(piece)
            finally:
                arrived.put(_END)

        future = self._submit(produce())
        try:
            while (piece := arrived.get()) is not _END:
                yield piece
            self._result(future)
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel what runs and end the thread; callers that wait get an EngineError."""
        with self._lock:
            self._closed = True
        if self._stop is not None:
            self._stop()

    def _result(self, future: Future[_T]) -> _T:
        try:
            return future.result()
        except CancelledError as error:
            raise EngineError("the engine was closed before it had answered") from error
        except BaseException:
            future.cancel()
            raise

    def _submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._running())
        except BaseException:
            coroutine.close()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed", hint="Make a new one.")
            if self._loop is None:
                started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
                thread = threading.Thread(
                    target=_serve, args=(started, self._on_stop), name="corral-openai-engine", daemon=True
                )
                thread.start()
                self._loop, stop = started.result()
                # Also at exit: a daemon thread would otherwise be stopped with its sockets open.
                self._stop = weakref.finalize(self, _end, self._loop, stop, thread)
            return self._loop


def _serve(
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]], on_stop: Callable[[], Awaitable[None]]
) -> None:
    async def main() -> None:
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await on_stop()

    asyncio.run(main())


def _end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(stop.set)
    # Garbage may be collected in the loop's own thread.
    if threading.current_thread() is not thread:
        thread.join(_STOP_SECONDS)
