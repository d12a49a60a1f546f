"""The engine of a CUDA device, where the documents are resident. What goes wrong there is done on the host."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.device import Asked, Collection, Device, Resident, ResidentVectors, search
from fastlane_rag.errors import FastLaneWarning
from fastlane_rag.search.engines.base import Engine, Scan, Scanned
from fastlane_rag.search.engines.host import HostEngine
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.state import SearchState
from fastlane_rag.search.vectors import products
from fastlane_rag.storage.snapshot import Mask
from fastlane_rag.types import DeviceStats

if TYPE_CHECKING:
    from fastlane_rag.vectors.documents import DocumentVectors

__all__ = ["DeviceEngine"]

_T = TypeVar("_T")


@dataclass(eq=False)
class _Commit:
    """One commit on the device.

    Attributes:
        collection: its documents.
        masks: filters on the device by the address of the host's, which they keep alive, and the tokens that pass.
    """

    collection: Collection
    masks: dict[int, tuple[Mask, torch.Tensor, int]] = field(default_factory=dict)


class DeviceEngine:
    """Scans documents on a CUDA device; see `Engine`.

    Where the device's memory is full for one batch, the host does this batch. After any other failure, such as a lost
    device, it does all that follow. One warning says so.

    Args:
        device: the device.
        share: how much of the memory that is free there the documents may take.
    """

    def __init__(self, device: Device, share: float) -> None:
        self._device, self._share = device, share
        self._host: Engine = HostEngine()
        self._start()

    def _start(self) -> None:
        self._resident = Resident(self._device, int(self._share * self._device.free()))
        self._commits: WeakKeyDictionary[SearchState, _Commit] = WeakKeyDictionary()
        self._vectors: WeakKeyDictionary[DocumentVectors, ResidentVectors | None] = WeakKeyDictionary()
        self._lock = threading.Lock()
        self._lost: str | None = None  # why the host does everything
        self._warned = False

    @property
    def scans_all(self) -> bool:
        """Whether the device does its work."""
        return self._lost is None

    def together(self, policy: SearchPolicy, documents: int) -> int:
        """More than on the host: the device keeps the scores of the best documents alone."""
        return policy.device_queries if self._lost is None else self._host.together(policy, documents)

    def after_fork(self) -> None:
        """In a forked child, CUDA does not work: the host does everything."""
        self._lock = threading.Lock()
        if self._device.is_cuda:
            self._lost = "cannot be used in a forked process: open the index in it, or start processes by spawn"

    def scan(self, state: SearchState, asked: Scan) -> list[Scanned]:
        """All queries together, gathered and refined without the host between."""
        if self._lost is None:
            try:
                return self._scanned(state, asked)
            except torch.OutOfMemoryError as error:
                self._warn(f"has too little memory for a batch of {len(asked.gathering)} queries: {error}")
            except Exception as error:  # of CUDA, its driver, the compiler: the host answers whatever it was
                self._lose(error)
        else:
            self._warn(self._lost)
        return self._host.scan(state, asked)

    def products(
        self, vectors: DocumentVectors, query: NDArray[np.float32], numbers: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """Products of vectors that are resident on the device; the host's where they do not fit, or it is lost."""
        found = self._with_vectors(vectors, lambda there: there.products(query, numbers))
        return products(vectors, query, numbers) if found is None else found

    def nearest(
        self, vectors: DocumentVectors, query: NDArray[np.float32], allowed: Mask | None, count: int
    ) -> NDArray[np.int64] | None:
        """Chosen on the device, where the vectors are resident."""
        return self._with_vectors(vectors, lambda there: there.nearest(query, allowed, count))

    def _with_vectors(self, vectors: DocumentVectors, work: Callable[[ResidentVectors], _T | None]) -> _T | None:
        """What the device makes of vectors; None where they do not fit, or it is lost."""
        if self._lost is None:
            try:
                there = self._there(vectors)
                return None if there is None else work(there)
            except torch.OutOfMemoryError as error:
                self._warn(f"has too little memory for vectors: {error}")
            except Exception as error:
                self._lose(error)
        return None

    def _there(self, vectors: DocumentVectors) -> ResidentVectors | None:
        """The vectors on the device, copied there on first use; None where the budget does not reach."""
        with self._lock:
            if vectors not in self._vectors:
                resident, newest = self._resident, self._resident.newest
                tokens = 0 if newest is None else newest.resident_bytes
                needed = self._vector_bytes() + vectors.levels.nbytes + vectors.scales.nbytes
                fits = tokens + needed <= resident.budget
                self._vectors[vectors] = ResidentVectors(self._device, vectors.levels, vectors.scales) if fits else None
                resident.reserved = self._vector_bytes()
            return self._vectors[vectors]

    def _vector_bytes(self) -> int:
        return sum(one.bytes for one in self._vectors.values() if one is not None)

    def _lose(self, error: Exception) -> None:
        """Use the device no more, and free what is there: it may be the compiler that failed."""
        self._lost = f"cannot be used any longer: {type(error).__name__}: {error}"
        with self._lock:
            self._commits.clear()
            self._vectors.clear()
            self._resident.newest = None
        self._warn(self._lost)

    def stats(self) -> DeviceStats:
        """What is on the device."""
        newest, lost = self._resident.newest, self._lost is not None
        tokens = 0 if lost or newest is None else newest.resident_bytes
        with self._lock:
            vectors = self._vector_bytes()
        return DeviceStats(
            str(self._device),
            budget=self._resident.budget,
            resident=tokens + vectors,
            streamed=0 if lost or newest is None else newest.streamed_bytes,
            lost=lost,
        )

    def _scanned(self, state: SearchState, asked: Scan) -> list[Scanned]:
        start = perf_counter()
        commit = self._commit(state)
        allowed, met = self._allowed(state, commit, asked.allowed)
        refining = None if asked.refining is None else Asked(asked.refining)
        chosen = search(
            commit.collection,
            Asked(asked.gathering),
            refining,
            allowed,
            asked.depth,
            asked.also,
            record_after=state.policy.device_graph_after,
        )
        lengths, share = state.snapshot.lengths, 1000 * (perf_counter() - start) / len(chosen)
        return [
            Scanned(
                one.numbers,
                one.scores,
                one.own,
                met,
                0 if refining is None else int(lengths[one.numbers].sum()),
                gathering_ms=share,
                refining_ms=0.0,
            )
            for one in chosen
        ]

    def _commit(self, state: SearchState) -> _Commit:
        """The commit on the device, copied there when it is first searched."""
        with self._lock:
            found = self._commits.get(state)
            if found is None:
                sources = [part.source for part in state.snapshot.parts]
                found = self._commits[state] = _Commit(self._resident.hold(sources))
            return found

    def _allowed(self, state: SearchState, commit: _Commit, mask: Mask | None) -> tuple[torch.Tensor | None, int]:
        """A filter on the device, and how many document tokens pass it."""
        if mask is None:
            return None, state.snapshot.tokens
        with self._lock:
            found = commit.masks.get(id(mask))
            if found is None:
                if len(commit.masks) > state.policy.filters_kept:
                    commit.masks.clear()
                tokens = int(state.snapshot.lengths[mask].sum())
                found = mask, self._device.put(torch.from_numpy(np.ascontiguousarray(mask))), tokens
                commit.masks[id(mask)] = found
            return found[1:]

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            reason = what.splitlines()[0]
            warnings.warn(f"{self._device} {reason}; the CPU searches instead", FastLaneWarning, stacklevel=2)
