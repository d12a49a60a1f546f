"""Forking while indexes are open: a fork waits until no other thread is inside SQLite.

SQLite has locks of its own for the whole process. One that another thread holds at the instant of a fork
stays locked in the child for ever. So every call of SQLite passes a gate, and a fork first closes it. A call takes
microseconds; in a long one SQLite gives Python the floor every few milliseconds, and there it steps outside.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

__all__ = ["breathe", "guarding", "inside_sqlite", "reset_after_fork"]

P = ParamSpec("P")
T = TypeVar("T")

# A fork waits this long for calls, of which a commit on a slow disk is the longest. What takes longer, or waits for the
# forking thread, is left to its luck.
_PATIENCE_SECONDS = 10.0
# A call waits this long for a fork; then the fork waits for that call.
_HOLD_SECONDS = 0.05
_PAUSE_SECONDS = 0.0005


class _Gate:
    """What every use of SQLite passes, and a fork closes.

    It has no lock, because an interrupt right after entering a Condition would leave it locked for all other threads.
    Instead, a thread first records that it is inside, then checks whether the gate is closed. A fork first closes the
    gate, then checks who is inside. So at least one of the two sees the other.
    """

    def __init__(self) -> None:
        self._inside: dict[int, int] = {}  # uses by thread
        self._closed = False
        self._forking = False

    @contextmanager
    def passing(self) -> Iterator[None]:
        thread = threading.get_ident()
        mine = self._inside.get(thread, 0)
        try:
            self._enter(thread, mine)
            yield
        finally:
            self._leave(thread, mine)

    def guarding(self, call: Callable[P, T]) -> Callable[P, T]:
        """The function, passing the gate at each call."""

        def guarded(*arguments: P.args, **options: P.kwargs) -> T:
            thread = threading.get_ident()
            mine = self._inside.get(thread, 0)
            try:
                self._enter(thread, mine)
                return call(*arguments, **options)
            finally:
                self._leave(thread, mine)

        return guarded

    def breathe(self) -> int:
        """What SQLite calls in mid-call: let a fork go first."""
        thread = threading.get_ident()
        mine = self._inside.get(thread, 0)
        if self._closed and mine:
            try:
                self._enter(thread, 0)
            finally:
                self._inside[thread] = mine
        return 0

    def _enter(self, thread: int, mine: int) -> None:
        self._inside[thread] = mine + 1
        # A thread that was inside already is let through, or the fork would wait for it in vain.
        if self._closed and not mine:
            end = time.monotonic() + _HOLD_SECONDS
            while self._forking or (self._closed and time.monotonic() < end):
                self._inside.pop(thread, None)
                time.sleep(_PAUSE_SECONDS)
                self._inside[thread] = 1

    def _leave(self, thread: int, mine: int) -> None:
        # Set to what it was, not counted down: an interrupt may have come before it was counted up.
        if mine:
            self._inside[thread] = mine
        else:
            self._inside.pop(thread, None)

    def close(self) -> None:
        self._closed = True
        thread, end = threading.get_ident(), time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < end:
            # Who did not wait any longer says that he is inside, and only then looks whether this is set.
            self._forking = True
            if not set(self._inside) - {thread}:
                return
            self._forking = False
            time.sleep(_PAUSE_SECONDS)
        self._forking = True

    def open(self) -> None:
        self._closed = self._forking = False

    def reset(self) -> None:
        """In the child, where only the forking thread exists."""
        thread = threading.get_ident()
        self._inside = {thread: self._inside[thread]} if thread in self._inside else {}
        self._closed = self._forking = False


_gate = _Gate()
inside_sqlite = _gate.passing
guarding = _gate.guarding
breathe = _gate.breathe


def reset_after_fork(reset: Callable[[], None]) -> None:
    """Register a function to be called in every forked child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=reset)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_gate.close, after_in_parent=_gate.open, after_in_child=_gate.reset)
