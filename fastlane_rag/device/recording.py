"""Searches for one query, recorded as CUDA graphs: one launch instead of a hundred."""

from __future__ import annotations

import threading
import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import torch

from fastlane_rag.device.memory import Device
from fastlane_rag.errors import FastLaneWarning

__all__ = ["Recorder", "Recordings"]

_KEPT = 8  # recordings of a commit; each keeps what its search computes on the way, some bytes a document
_COUNTED = 256  # shapes

Work = Callable[[torch.Tensor, "torch.Tensor | None"], torch.Tensor]
"""Searches on the device: takes queries and a mask of documents, gives what is found."""


@dataclass(frozen=True)
class _Recording:
    """A recorded search. It reads these two tensors, and writes the third.

    Attributes:
        queries: as `sending` lays them out.
        allowed: (N,) bool; None where all documents may be found.
        replay: searches again, and returns the same tensor each time.
    """

    queries: torch.Tensor
    allowed: torch.Tensor | None
    replay: Callable[[], torch.Tensor]


@dataclass(eq=False)
class Recordings:
    """The recorded searches of one commit. What they read must stay where it is as long as they live.

    Attributes:
        kept: by shape.
        pool: the memory that they share, since no two run at once.
        searched: how often each shape was searched for.
    """

    kept: dict[Hashable, _Recording] = field(default_factory=dict)
    pool: Any = None
    searched: Counter[Hashable] = field(default_factory=Counter)

    def drop(self) -> None:
        """Free all. Memory that nothing uses any more cannot be recorded into: the next ones get other memory."""
        self.kept, self.pool = {}, None
        self.searched.clear()


class Recorder:
    """Records the searches of an index, and repeats them. Safe to use from many threads: one is searched for at a time.

    Args:
        device: where they run.
    """

    def __init__(self, device: Device) -> None:
        self._device, self._lock = device, threading.Lock()
        self._failed = False

    def run(
        self,
        recordings: Recordings,
        shape: Hashable,
        queries: torch.Tensor,
        allowed: torch.Tensor | None,
        work: Work,
        after: int,
    ) -> torch.Tensor | None:
        """What is found, on the host; None where this search is not recorded, and the caller does it.

        Args:
            recordings: of the commit.
            shape: what `work` depends on besides its arguments, and the shapes of these.
            queries: on the host.
            allowed: on the device, or None.
            work: what to record. It only launches kernels.
            after: searches of a shape that are not worth recording.
        """
        if self._failed:
            return None
        with self._lock:
            found = recordings.kept.get(shape)
            if found is None:
                if len(recordings.searched) >= _COUNTED:
                    recordings.searched.clear()
                recordings.searched[shape] += 1
                if recordings.searched[shape] <= after:
                    return None
                found = self._recorded(recordings, queries, allowed, work)
                if found is None:
                    return None
                recordings.kept[shape] = found
            self._device.send(queries, found.queries)
            if found.allowed is not None and allowed is not None:
                found.allowed.copy_(allowed, non_blocking=True)
            return found.replay().to("cpu", copy=True)  # waits: the next search writes to the same tensors

    def _recorded(
        self, recordings: Recordings, queries: torch.Tensor, allowed: torch.Tensor | None, work: Work
    ) -> _Recording | None:
        """A new recording. Where that fails, nothing is recorded any more, and one warning says so."""
        if len(recordings.kept) >= _KEPT:
            recordings.drop()
        try:
            there, mask = self._device.send(queries).clone(), None if allowed is None else allowed.clone()
            if recordings.pool is None:
                recordings.pool = self._device.pool()
            return _Recording(there, mask, self._device.record(lambda: work(there, mask), recordings.pool))
        except Exception as error:  # of CUDA, its driver, memory: the search goes on without a recording
            self._failed = True
            recordings.drop()
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(
                f"{self._device} cannot record searches as CUDA graphs: {reason}; they go on without",
                FastLaneWarning,
                stacklevel=2,
            )
            return None
