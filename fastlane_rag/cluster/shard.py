"""One copy of a shard: the actor that holds its index. Ray starts it, and starts it again where it dies."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle

from fastlane_rag.cluster.manifest import EMPTY, Manifest, shard_of
from fastlane_rag.errors import FastLaneError, FastLaneWarning, IndexNotFoundError, ShardUnavailableError
from fastlane_rag.index import FastLaneIndex

__all__ = ["READS", "OutdatedError", "Shard"]

READS = 4
"""Calls that one copy answers at once."""


class OutdatedError(FastLaneError):
    """The caller knows an older manifest than the shard; it reads the manifest and asks again."""


class Shard:
    """A copy of a shard: the one that writes, or one that only reads.

    Calls that read run beside each other; those that write run one after the other.

    Args:
        cluster: the cluster's directory.
        number: of the shard.
        read_only: whether it is a replica.
    """

    def __init__(self, cluster: str, number: int, read_only: bool) -> None:
        # What a search warns of is in its result, and the caller warns.
        warnings.simplefilter("ignore", FastLaneWarning)
        self._cluster, self._number, self._read_only = Path(cluster), number, read_only
        self._manifest = Manifest.read(self._cluster)
        self._opened: FastLaneIndex | None = None

    @ray.method(concurrency_group="read")
    def read(self, epoch: int, name: str, *given: Any, **options: Any) -> Any:
        """What a method that reads returns: one of this class, or of its index.

        Raises:
            OutdatedError: the manifest has changed since this epoch.
            ShardUnavailableError: the shard's directory is not there.
        """
        return self._called(epoch, name, given, options)

    @ray.method(concurrency_group="write")
    def write(self, epoch: int, name: str, *given: Any, **options: Any) -> Any:
        """As `read`, of a method that writes."""
        return self._called(epoch, name, given, options)

    def _called(self, epoch: int, name: str, given: Sequence[Any], options: dict[str, Any]) -> Any:
        if epoch != self._manifest.epoch:
            self._manifest = Manifest.read(self._cluster)
        if epoch < self._manifest.epoch:
            raise OutdatedError(f"the manifest of {self._cluster} has changed")
        return getattr(self if name in _OWN else self._index, name)(*given, **options)

    @property
    def _directory(self) -> Path:
        return self._manifest.directory(self._cluster, self._number)

    @property
    def _index(self) -> FastLaneIndex:
        # Not made where it is missing: an empty shard in place of a lost one would answer wrongly.
        if self._opened is None:
            try:
                self._opened = FastLaneIndex.open(self._directory, read_only=self._read_only)
            except IndexNotFoundError as error:
                raise ShardUnavailableError(
                    f"shard {self._number} is not at {self._directory}: mount its storage, or restore it from a backup "
                    f"({error})"
                ) from error
        return self._opened

    def ready(self) -> None:
        """Open the index, and load what searches need, so that the first one is as quick as all others."""
        _ = self._index
        importlib.import_module("fastlane_rag.search.plan")

    def place(self) -> str:
        """Ray's id of the machine that this copy runs on."""
        return str(ray.get_runtime_context().get_node_id())

    def make(self) -> None:
        """Make the shard's index, empty, where there is none."""
        if not self._directory.exists():
            self._directory.parent.mkdir(parents=True, exist_ok=True)
            with FastLaneIndex.open(self._cluster / EMPTY, read_only=True) as empty:
                empty.save(self._directory)
        self.ready()

    def search(self, queries: list[Any], *, whole: Any = None, **options: Any) -> list[Any]:
        """As `search_part` of the index, without sending the queries back."""
        found = self._index.search_part(whole, queries, **options)
        return [replace(one, routed=cast(Any, None)) for one in found]

    def leaving(self, shards: int) -> list[str]:
        """The ids of documents that belong to another shard where there are so many."""
        return [id_ for id_ in self._index if shard_of(id_, shards) != self._number]

    def move(self, ids: list[str], to: ActorHandle[Shard]) -> None:
        """Give documents to another shard, then delete them here. What stops in between is done by the next call.

        A document that is there already is newer, and stays.
        """
        documents = self._index.get(ids)
        leaving = [one.id for one in documents]
        rows = self._index.embeddings(leaving)
        ray.get(to.write.remote(self._manifest.epoch, "adopt", documents, rows))
        self._index.delete(leaving)

    def close(self) -> None:
        """Close the index."""
        if self._opened is not None:
            self._opened.close(wait=False)
            self._opened = None


_OWN = {"ready", "place", "make", "search", "leaving", "move", "close"}
