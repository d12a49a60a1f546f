"""Turns at something that many may read at once, and one may write."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turns"]

_PAUSE_SECONDS = 0.0005
# Readers let a waiting writer go first for this long. It may be waiting for a reader that waits for them.
_PATIENCE_SECONDS = 0.2


class Turns:
    """Who reads and who writes, by thread.

    A thread that reads or writes may read and write again within. There is no lock, which an interrupt could leave
    locked: a thread says that it is there, and only then looks for others; of two, one sees the other and steps back.
    """

    def __init__(self) -> None:
        self._reading: dict[int, int] = {}
        self._writing: dict[int, int] = {}
        self._waiting: dict[int, int] = {}

    @property
    def used(self) -> bool:
        """Whether anybody reads or writes."""
        return bool(self._reading or self._writing)

    @property
    def writing_here(self) -> bool:
        """Whether this thread writes."""
        return threading.get_ident() in self._writing

    @property
    def reading_here(self) -> bool:
        """Whether this thread reads."""
        return threading.get_ident() in self._reading

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Wait until nobody else writes."""
        thread, end = threading.get_ident(), time.monotonic() + _PATIENCE_SECONDS
        mine = self._reading.get(thread, 0)
        inside = mine or thread in self._writing
        try:
            self._reading[thread] = mine + 1
            while not inside and (self._writing or (self._waiting and time.monotonic() < end)):
                self._reading.pop(thread, None)
                time.sleep(_PAUSE_SECONDS)
                self._reading[thread] = 1
            yield
        finally:
            _restore(self._reading, thread, mine)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until nobody else reads or writes."""
        thread = threading.get_ident()
        mine = self._writing.get(thread, 0)
        try:
            self._waiting[thread] = 1
            self._writing[thread] = mine + 1
            while not mine and (set(self._writing) | set(self._reading)) - {thread}:
                self._writing.pop(thread, None)
                time.sleep(_PAUSE_SECONDS)
                self._writing[thread] = 1
            self._waiting.pop(thread, None)
            yield
        finally:
            self._waiting.pop(thread, None)
            _restore(self._writing, thread, mine)

    def after_fork(self) -> None:
        """In a forked child, where only this thread lives on."""
        thread = threading.get_ident()
        for uses in (self._reading, self._writing, self._waiting):
            mine = uses.get(thread, 0)
            uses.clear()
            _restore(uses, thread, mine)


def _restore(uses: dict[int, int], thread: int, mine: int) -> None:
    """Set to what it was, not counted down: an interrupt may have come before it was counted up."""
    if mine:
        uses[thread] = mine
    else:
        uses.pop(thread, None)
