"""Candidates from Qdrant."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import CandidateSourceError, MissingExtraError

__all__ = ["Qdrant"]

_NAMES = uuid.UUID("5b0f7c1e-58a1-4a52-9a3c-2f7a2d9f6c11")
_PAGE = 10_000


class Qdrant:
    """A collection of Qdrant, made at the first document: one point a document, with its id and version as payload.

    It searches exactly (`exact=True`): documents and queries do not spread alike over the coordinates of these vectors,
    and a graph over them finds much less (docs/tuning.md).

    Args:
        client: a `qdrant_client.QdrantClient`, of a server or a local folder; its owner closes it.
        collection: its name.

    Raises:
        MissingExtraError: qdrant-client is not installed.
    """

    def __init__(self, client: Any, collection: str = "fastlane_candidates") -> None:
        try:
            from qdrant_client import models
        except ImportError as error:
            raise MissingExtraError("Qdrant needs its client: pip install 'fastlane-rag[qdrant]'") from error
        self._models: Any = models
        self._client, self._collection = client, collection

    def upsert(self, ids: Sequence[str], vectors: NDArray[np.float32], versions: Sequence[str]) -> None:
        """Store documents, or replace them."""
        with self._refusals():
            self._sized(vectors.shape[1])
            points = [
                self._models.PointStruct(id=_point(id_), vector=vector, payload={"id": id_, "version": version})
                for id_, vector, version in zip(ids, vectors.tolist(), versions, strict=True)
            ]
            self._client.upsert(self._collection, points, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents."""
        with self._refusals():
            if self._client.collection_exists(self._collection):
                points = self._models.PointIdsList(points=[_point(id_) for id_ in ids])
                self._client.delete(self._collection, points, wait=True)

    def versions(self) -> dict[str, str]:
        """The version of every document that is stored, by its id."""
        found: dict[str, str] = {}
        with self._refusals():
            if not self._client.collection_exists(self._collection):
                return found
            offset = None
            while True:
                points, offset = self._client.scroll(self._collection, limit=_PAGE, offset=offset, with_payload=True)
                found |= {point.payload["id"]: point.payload["version"] for point in points}
                if offset is None:
                    return found

    def candidates(self, vector: NDArray[np.float32], n: int, ids: Sequence[str] | None = None) -> list[str]:
        """The ids of the n documents of greatest inner product with a vector."""
        only = None
        if ids is not None:
            only = self._models.Filter(must=[self._models.HasIdCondition(has_id=[_point(id_) for id_ in ids])])
        with self._refusals():
            if not self._client.collection_exists(self._collection):
                return []
            answer = self._client.query_points(
                self._collection,
                query=vector.tolist(),
                query_filter=only,
                limit=n,
                search_params=self._models.SearchParams(exact=True),
                with_payload=["id"],
            )
        return [point.payload["id"] for point in answer.points]

    def _sized(self, size: int) -> None:
        """Make the collection, anew where its vectors have another size."""
        if self._client.collection_exists(self._collection):
            if self._client.get_collection(self._collection).config.params.vectors.size == size:
                return
            self._client.delete_collection(self._collection)
        vectors = self._models.VectorParams(size=size, distance=self._models.Distance.DOT)
        self._client.create_collection(self._collection, vectors_config=vectors)

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            raise CandidateSourceError(f"Qdrant, collection {self._collection!r}: {error}") from error
        except Exception as error:
            # Its errors have no base class of their own, but a module.
            if type(error).__module__.startswith(("qdrant_client", "httpx", "grpc")):
                raise CandidateSourceError(f"Qdrant, collection {self._collection!r}: {error}") from error
            raise


def _point(id_: str) -> str:
    return str(uuid.uuid5(_NAMES, id_))
