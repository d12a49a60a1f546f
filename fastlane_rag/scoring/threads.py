"""The number of CPU threads that score."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fastlane_rag.scoring.quota import cpu_quota

__all__ = ["follow_quota", "get_threads", "own_threads", "set_threads"]

_threads: int | None = None
_followed = False


class _Own(threading.local):
    count: int | None = None


_own = _Own()


def set_threads(count: int | None) -> None:
    """Set how many CPU threads one call may use; None follows `torch.get_num_threads()`, the default.

    Raises:
        ValueError: count is below 1.
    """
    global _threads
    if count is not None and count < 1:
        raise ValueError(f"the number of threads must be at least 1, but is {count}")
    _threads = count


@contextmanager
def own_threads(count: int) -> Iterator[None]:
    """Set how many CPU threads a call of this thread may use, during the block: for work in the background."""
    before, _own.count = _own.count, count
    try:
        yield
    finally:
        _own.count = before


def get_threads() -> int:
    """Return how many CPU threads one call may use."""
    chosen = _own.count or _threads
    if chosen is not None:
        return chosen
    follow_quota()
    return torch.get_num_threads()


def follow_quota() -> None:
    """Let torch start no more threads than the container's CPU quota feeds, unless OMP_NUM_THREADS says how many.

    torch counts cores, and a container sees all of the machine's. Threads beyond the quota wait for each other while
    the system holds them all. Done once a process, so a later `torch.set_num_threads` stands.
    """
    global _followed
    if _followed:
        return
    _followed = True
    quota = cpu_quota()
    if quota is not None and not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(min(torch.get_num_threads(), max(1, math.ceil(quota))))
