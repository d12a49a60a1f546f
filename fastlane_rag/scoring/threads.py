"""How many CPU threads score, and the pool they come from."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise

import torch
from threadpoolctl import threadpool_limits

__all__ = ["get_threads", "run_ranges", "set_threads"]

_threads: int | None = None


def set_threads(count: int | None) -> None:
    """Set how many CPU threads one call may use; None follows `torch.get_num_threads()`, the default.

    Raises:
        ValueError: count is below 1.
    """
    global _threads
    if count is not None and count < 1:
        raise ValueError(f"the number of threads must be at least 1, but is {count}")
    _threads = count


def get_threads() -> int:
    """Return how many CPU threads one call may use."""
    return _threads or torch.get_num_threads()


def run_ranges(work: Callable[[int, int], None], bounds: list[int]) -> None:
    """Call work(bounds[i], bounds[i + 1]) for every i, one range on this thread and the others beside it.

    Everything has finished when this returns; an error in any range is raised.
    """
    if len(bounds) == 2:
        work(*bounds)
        return
    inference = torch.is_inference_mode_enabled()  # of this thread: a tensor made in it is written only by others in it

    def beside(first: int, last: int) -> None:
        with torch.inference_mode(inference):
            work(first, last)

    others = [_pool().submit(beside, a, b) for a, b in pairwise(bounds[1:])]
    try:
        work(bounds[0], bounds[1])
    finally:
        errors = [future.exception() for future in others]
    for error in errors:
        if error is not None:
            raise error


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    # Threads start when work finds no idle one; any number of callers share them.
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fastlane-scoring", initializer=_alone)


def _alone() -> None:
    """Keep torch from starting threads of its own beside this one.

    Once OpenMP has more threads than there are processors its threads sleep between operations instead of waiting,
    for good: encoding a query then takes half as long again.
    """
    torch.get_num_threads()  # torch gives a thread its limit at the first call, which would undo the next line later
    threadpool_limits(1, user_api="openmp")


if hasattr(os, "register_at_fork"):  # a forked child has the pool object but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
