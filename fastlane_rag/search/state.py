"""What searches keep of one commit: filter masks, the BM25 lane, vectors, and documents in code by address."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fastlane_rag.search.bm25 import LexicalLane
from fastlane_rag.search.graph import Graphs
from fastlane_rag.search.lanes.gather import Gatherer
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.vectors import Vectors
from fastlane_rag.storage.filter_hints import why_nothing
from fastlane_rag.storage.filters import Compiled, Filter
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.segment import Segment
from fastlane_rag.storage.snapshot import Mask, Snapshot

if TYPE_CHECKING:
    from fastlane_rag.scoring import Codes
    from fastlane_rag.scoring.codes import CodedDocuments
    from fastlane_rag.storage.postings import Postings
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["Coded", "SearchState", "SearchStates"]


@dataclass(frozen=True)
class Coded:
    """The documents of one codec with centroids, through all their segments."""

    documents: CodedDocuments
    gatherer: Gatherer


class SearchState:
    """What searches of one commit share. Safe to use from many threads.

    Args:
        snapshot: the snapshot of the commit.
        policy: the policy of the index.
        graphs: of its segments' vectors, kept from commit to commit.
        maps: of these vectors by name, kept likewise.
    """

    def __init__(self, snapshot: Snapshot, policy: SearchPolicy, graphs: Graphs, maps: dict[str, VectorMap]) -> None:
        self.snapshot = snapshot
        self._graphs, self._maps = graphs, maps
        self.policy = policy
        self._masks: dict[Compiled, Mask] = {}
        self._hints: dict[tuple[str, tuple[Any, ...]], str] = {}
        self._lexical: LexicalLane | None = None
        self._vectors: Vectors | None = None
        self._lock = threading.Lock()
        self._coded: list[Coded] | None = None

    @cached_property
    def plain(self) -> list[int]:
        """Numbers of the parts in half precision, which have no posting lists."""
        return [p for p, part in enumerate(self.snapshot.parts) if part.postings is None]

    @property
    def coded(self) -> list[Coded]:
        """The parts in code, grouped by codec."""
        if self._coded is None:
            with self._lock:
                if self._coded is None:
                    self._coded = self._group()
        return self._coded

    def allowed(self, reader: Reader, filter_: Filter | None) -> Mask | None:
        """(N,): the live documents that pass a filter; None when all documents do.

        Raises:
            FilterError: the filter is not valid.
        """
        condition = reader.compiled(filter_)
        if condition is None:
            return self.snapshot.live
        if condition.tests:  # functions may answer otherwise the next time
            return self.snapshot.mask(reader.places(condition))
        mask = self._masks.get(condition)
        if mask is None:
            mask = self.snapshot.mask(reader.places(condition))
            if len(self._masks) >= self.policy.filters_kept:
                self._masks.clear()
            self._masks[condition] = mask
        return mask

    def hint(self, reader: Reader, filter_: Filter | None) -> str:
        """Why a filter matches no document, in a sentence; empty where its keys and types do not tell."""
        condition = reader.compiled(filter_)
        if condition is None or filter_ is None:
            return ""
        asked = condition.sql, condition.parameters
        hint = self._hints.get(asked)
        if hint is None:
            hint = why_nothing(reader.connection, filter_)
            if len(self._hints) >= self.policy.filters_kept:
                self._hints.clear()
            self._hints[asked] = hint
        return hint

    def lexical(self, reader: Reader) -> LexicalLane:
        """The BM25 lane, made when it is first needed."""
        lane = self._lexical
        if lane is None:
            lane = self._lexical = LexicalLane(reader, self.snapshot, self.policy)
        return lane

    def vectors(self, reader: Reader) -> Vectors:
        """The vectors of the documents and their maps, looked up when they are first needed."""
        found = self._vectors
        if found is None:
            found = self._vectors = Vectors(reader, self.snapshot, self._graphs, self._maps)
        return found

    def _group(self) -> list[Coded]:
        from fastlane_rag.scoring.codes import CodedDocuments

        parts, starts = self.snapshot.parts, self.snapshot.starts
        groups: dict[str, list[int]] = {}
        for p in np.setdiff1d(np.arange(len(parts)), self.plain).tolist():
            groups.setdefault(parts[p].codec, []).append(p)
        found = []
        for group in groups.values():
            sources = [cast("Segment", parts[p].source) for p in group]
            packs = [(cast("Codes", source.packed), source.offsets) for source in sources]
            postings = [cast("Postings", source.postings) for source in sources]
            firsts = starts[group].tolist()
            gatherer = Gatherer(postings, firsts, int(starts[-1]), self.policy)
            found.append(Coded(CodedDocuments(packs, firsts), gatherer))
        return found


class SearchStates:
    """Gives each commit its state, and keeps the newest one."""

    def __init__(self, policy: SearchPolicy) -> None:
        self.policy = policy
        self._graphs = Graphs()
        self._maps: dict[str, VectorMap] = {}
        self._newest: SearchState | None = None
        self._lock = threading.Lock()

    def of(self, snapshot: Snapshot) -> SearchState:
        """The state of this snapshot."""
        with self._lock:
            newest = self._newest
            if newest is not None and newest.snapshot is snapshot:
                return newest
            state = SearchState(snapshot, self.policy, self._graphs, self._maps)
            if newest is None or newest.snapshot.commits <= snapshot.commits:
                self._newest = state
            return state

    def wait(self) -> None:
        """Wait for what searches have had built in the background."""
        self._graphs.wait()

    def close(self) -> None:
        """Give up what is being built in the background."""
        self._graphs.keep(())

    def clear(self) -> None:
        """Drop the kept state and make new locks (needed in a forked child)."""
        self.__init__(self.policy)  # type: ignore[misc]
