"""The threads of a server. Searching is work for the processor, so there are as many as there are cores."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from fastlane_rag.serve.problems import Refused

__all__ = ["Lane", "Workers"]

T = TypeVar("T")


class Lane:
    """Threads for one kind of work. What does not fit waits in turn, up to a number.

    Args:
        name: what the work is called in refusals.
        threads: how many.
        most_waiting: calls that may wait.
        seconds: how long a call may take, waiting included.
        late: what a client is told when it takes longer.
    """

    def __init__(self, name: str, threads: int, most_waiting: int, seconds: float, late: str) -> None:
        self._name, self._seconds, self._late = name, seconds, late
        self._most = threads + most_waiting
        self._pool = ThreadPoolExecutor(threads, f"fastlane-{name.split()[0]}")
        self._unfinished = 0

    async def run(self, call: Callable[[], T]) -> T:
        """What a call returns, that runs in a thread.

        Raises:
            Refused: too many wait already (503), or it took too long (504).
        """
        return await self.within(self.submit(call))

    def submit(self, call: Callable[[], T]) -> asyncio.Future[T]:
        """Have a call run in a thread.

        Raises:
            Refused: too many wait already (503).
        """
        if self._unfinished >= self._most:
            raise Refused(
                503,
                "Busy",
                f"{self._unfinished} requests that {self._name} are at work or waiting; ask again later",
                {"Retry-After": "1"},
            )
        self._unfinished += 1
        loop = asyncio.get_running_loop()
        work = self._pool.submit(partial(contextvars.copy_context().run, call))
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finished))
        return asyncio.wrap_future(work)

    async def within(self, work: Awaitable[T]) -> T:
        """The outcome of what was submitted, within the time that a call may take.

        A call that takes longer goes on in its thread, because nothing can stop it, and keeps the thread until it is
        done. One that still waits is dropped.

        Raises:
            Refused: it took too long (504).
        """
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError:
            raise Refused(504, "Too slow", f"not done within {self._seconds:g} s. {self._late}") from None

    def _finished(self) -> None:
        self._unfinished -= 1

    def close(self) -> None:
        """Wait for what is at work, and drop what waits."""
        self._pool.shutdown(cancel_futures=True)


class Workers:
    """A lane for each kind of work, so that neither a long write nor a check keeps readers waiting.

    Args:
        cores: searches at once.
        most_waiting: calls of each kind that may wait.
        read_seconds: for a call that reads.
        write_seconds: for a call that writes, or checks.
    """

    def __init__(self, cores: int, most_waiting: int, read_seconds: float, write_seconds: float) -> None:
        smaller = "Ask for less: fewer queries, a smaller k or depth."
        goes_on = "It goes on and may still be stored; documents that are sent again are replaced, not doubled."
        self.read = Lane("read", cores, most_waiting, read_seconds, smaller)
        # Writes of one index take turns anyway, and here they wait without a thread.
        self.write = Lane("write", 1, most_waiting, write_seconds, goes_on)
        self.check = Lane("check", 1, 1, write_seconds, "It goes on; the command line has no limit.")
        self.status = Lane("ask for the state", 1, most_waiting, read_seconds, "The disk is slow.")

    def close(self) -> None:
        """Wait for what is at work, and drop what waits."""
        for lane in (self.read, self.write, self.check, self.status):
            lane.close()
