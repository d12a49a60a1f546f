"""Who does the steps of upkeep: a write at once what costs no more than itself, a thread in the background the rest."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import chain

from fastlane_rag.errors import FastLaneError, IndexClosedError
from fastlane_rag.storage.lock import FolderLock
from fastlane_rag.storage.transactions import Storage
from fastlane_rag.upkeep.pace import Pace, Stopped
from fastlane_rag.upkeep.steps import TRAINING, Step, compact, due

__all__ = ["Upkeep"]

_logger = logging.getLogger(__name__)

# What a write may have rewritten at once, in bytes of half precision, even if it brought less.
FOREGROUND_BYTES = 4 << 20
# After a failure the next write starts no thread for this long, because a full disk would make each write train anew.
RETRY_SECONDS = 60.0
_PAUSE_SECONDS = 0.01
# Who closes an index waits this long for a thread that has been told to stop, or that waits for other processes.
_PATIENCE_SECONDS = 5.0


class Upkeep:
    """The upkeep of one open index, by any of its threads and by one in the background.

    Args:
        storage: the index.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._start_over()

    def after_fork(self) -> None:
        """In a forked child, which has no thread in the background: start over."""
        for lock in self._locks:
            lock.give_back()
        self._start_over()

    def _start_over(self) -> None:
        # An index may be collected, and so be closed, in a thread that holds this.
        self._guard = threading.RLock()
        self._thread: threading.Thread | None = None
        self._wanted = False
        self._pace = Pace()
        self._stop = threading.Event()
        self._claims: dict[int, tuple[int, ...]] = {}  # what each thread works on
        self._error: Exception | None = None
        self._not_before = 0.0
        self._abandoned = False
        self._locks: set[FolderLock] = set()

    def after_write(self, tokens: int) -> None:
        """Do what costs no more than the write that brought so many tokens; leave the rest to the background.

        The write is stored: what goes wrong here must not look like its failure, and is logged.
        """
        try:
            while self._do_one(max(tokens, FOREGROUND_BYTES // (2 * self._storage.dim)), Pace()):
                pass
            with self._storage.view() as view:
                left = next(due(self._storage, view), None) is not None
            if left:
                self._start()
            else:
                self._error = None
        except FastLaneError as error:
            self._tell(error)

    def after_build(self) -> None:
        """As `finish`, but what goes wrong is logged: what was built is stored."""
        try:
            self.finish()
        except FastLaneError as error:
            self._tell(error)

    def finish(self) -> None:
        """Do everything that is due, after what others are doing."""
        with self._storage.turn():
            pass
        with self._alone(Pace()):
            while self._do_one(None, Pace()) or self._others_work():
                pass
        self._error = None

    def compact(self, *, retrain: bool) -> None:
        """As `steps.compact`. What the thread in the background does would be done again, so it stops."""
        self._end_thread()
        thread = threading.get_ident()
        try:
            with self._storage.view() as view:
                self._claims[thread] = (TRAINING, *view.reader.segments())
            compact(self._storage, Pace(), retrain=retrain)
        finally:
            self._claims.pop(thread, None)
        self._error = None

    def state(self) -> str:
        """What there is to say of it: "done", "due", "running" or "failed: " and why."""
        if self._claims:
            return "running"
        if self._error is not None:
            return f"failed: {self._error}"
        with self._storage.view() as view:
            return "done" if next(due(self._storage, view), None) is None else "due"

    def wait(self) -> None:
        """Wait for the thread in the background, but not long for those that it waits for itself."""
        while (thread := self._thread) is not None and thread.is_alive():
            thread.join(_PAUSE_SECONDS)
            since = self._pace.waiting_since
            if since is not None and time.monotonic() - since > _PATIENCE_SECONDS:
                return

    def close(self) -> None:
        """Stop the thread in the background, and close the index."""
        self._abandoned = True  # a thread that does not end now closes it when it ends
        if self._end_thread():
            self._storage.close()

    def _end_thread(self) -> bool:
        """Stop the thread in the background. Returns false where it is this one, or does not end."""
        thread, stop = self._thread, self._stop
        stop.set()
        if thread is threading.current_thread():
            return False
        if thread is not None and thread.is_alive():
            thread.join(_PATIENCE_SECONDS)
        ended = thread is None or not thread.is_alive()
        if ended:
            self._stop = threading.Event()
        return ended

    def _start(self) -> None:
        # Imported before the thread starts: torch cannot be imported while the program ends.
        from fastlane_rag.scoring.threads import own_threads

        with self._guard:
            self._wanted = True
            alive = self._thread is not None and self._thread.is_alive()
            if not alive and time.monotonic() >= self._not_before:
                self._pace = Pace(self._stop)
                work = partial(self._work, self._pace, own_threads(1))
                self._thread = threading.Thread(target=work, name="fastlane-upkeep", daemon=True)
                self._thread.start()

    def _work(self, pace: Pace, alone: AbstractContextManager[None]) -> None:
        """What the thread in the background does, with one thread of the processor."""
        try:
            with alone:
                while self._go_on():
                    with self._alone(pace):
                        while self._do_one(None, pace):
                            pass
        except (Stopped, IndexClosedError):
            pass
        except Exception as error:  # of any kind: nobody else would see it
            self._not_before = time.monotonic() + RETRY_SECONDS
            self._tell(error)
        finally:
            with self._guard:
                if self._thread is threading.current_thread():
                    self._thread = None
            if self._abandoned:
                self._storage.close()

    def _go_on(self) -> bool:
        """Whether something was asked for since the last look; else the thread ends."""
        with self._guard:
            go_on, self._wanted = self._wanted, False
            if not go_on:
                self._thread, self._error = None, None
            return go_on

    def _tell(self, error: Exception) -> None:
        """Keep an error for `state`, and log it."""
        self._error = error
        _logger.warning(
            "the write is stored, but segments could not be merged after it: %s. optimize() tries again", error
        )

    def _do_one(self, most: int | None, pace: Pace) -> bool:
        """Do a step of at most so many tokens. Returns whether there was one."""
        with self._claimed(most) as step:
            if step is not None:
                step.carry_out(self._storage, pace)
        return step is not None

    @contextmanager
    def _claimed(self, most: int | None) -> Iterator[Step | None]:
        """A step of at most so many tokens, which no other thread of this object takes meanwhile."""
        thread = threading.get_ident()
        try:
            with self._guard, self._storage.view() as view:
                busy = set(chain.from_iterable(self._claims.values()))
                fits = (step for step in due(self._storage, view, busy) if most is None or step.tokens <= most)
                step = next(fits, None)
                if step is not None:
                    self._claims[thread] = step.uses
            yield step
        finally:
            self._claims.pop(thread, None)

    @contextmanager
    def _alone(self, pace: Pace) -> Iterator[None]:
        """Wait until no other object, and no other thread of this one, does large steps of this index."""
        lock = self._storage.upkeep_lock()
        try:
            if lock is not None:
                self._locks.add(lock)
                with pace.waiting():
                    while not lock.take():
                        pace()
                        time.sleep(_PAUSE_SECONDS)
            yield
        finally:
            if lock is not None:
                lock.give_back()
                self._locks.discard(lock)

    def _others_work(self) -> bool:
        """Whether another thread of this object is at a step; waits a moment if so."""
        at_work = bool(self._claims)
        if at_work:
            time.sleep(_PAUSE_SECONDS)
        return at_work
