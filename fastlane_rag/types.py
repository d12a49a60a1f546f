"""Small types, and what a whole number is, for all packages."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "DEFAULT_ROUTE_K",
    "IMAGE_KEY",
    "DeviceStats",
    "Document",
    "Finding",
    "Fusion",
    "IndexStats",
    "Ingested",
    "Lane",
    "RouteK",
    "whole_number",
]

RouteK = int | Literal["auto", "all"]
"""How many query tokens gather: a number, "auto" (the router decides), or "all", which needs no refining."""

DEFAULT_ROUTE_K: RouteK = 16

IMAGE_KEY = "fastlane_image"
"""The metadata key of a document that is an image: a path, or `data:image/...;base64,` and the bytes."""

Lane = Literal["exhaustive", "approximate", "vector", "words"]
"""How candidates are gathered: by comparing with all documents, by a postings scan of near centroids (ANN), by the
product of one vector of the query with one of each document, or by words.

"words" ranks by BM25 alone and needs no model.
"""

Fusion = Literal["relative", "rrf"]
"""How a hybrid search joins SumMaxSim and BM25: each relative to its best possible score, or by reciprocal ranks."""


@dataclass(frozen=True, slots=True)
class Document:
    """A stored document, or one to store.

    Attributes:
        id: unique in its index.
        text: what is searched and returned.
        metadata: a JSON object.
    """

    id: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ingested:
    """The counts of an ingestion.

    Attributes:
        documents: documents of the stream.
        added: documents with a new id.
        changed: documents that replaced text or metadata of a stored one.
        unchanged: documents that were stored already, and were neither encoded nor written.
    """

    documents: int
    added: int
    changed: int
    unchanged: int

    def __add__(self, other: "Ingested") -> "Ingested":
        """The counts of both."""
        return Ingested(
            self.documents + other.documents,
            self.added + other.added,
            self.changed + other.changed,
            self.unchanged + other.unchanged,
        )


@dataclass(frozen=True, slots=True)
class DeviceStats:
    """What an index has on a CUDA device.

    Attributes:
        name: of the device.
        budget: bytes that documents may take there.
        resident: bytes of the documents that stay there; 0 before the first search.
        streamed: bytes of those that do not fit, and are copied there for each batch of queries.
        lost: whether the device failed, so that the CPU searches instead.
    """

    name: str
    budget: int
    resident: int
    streamed: int
    lost: bool


@dataclass(frozen=True, slots=True)
class IndexStats:
    """What an index holds and takes.

    Attributes:
        path: its directory; None in memory.
        documents: live documents.
        tokens: token embeddings of the live documents.
        segments: segment files.
        pending: documents whose tokens still wait in the catalogue for a segment.
        dead: rows of deleted or replaced documents that `compact()` would remove.
        bytes: bytes of segments and catalogue.
        dim: size of a token embedding.
        codec: codec of the index; rows are in half precision until there are enough to train it.
        model: name of the model the index was made with.
        fingerprint: that model's fingerprint.
        filter_keys: metadata keys with an index of their own.
        commits: writes since the index was created.
        document_budget: tokens kept of each document; below 1, the share of its tokens; None for all.
        max_document_tokens: tokens encoded of each document; None for all.
        upkeep: whether segments are merged and in code as they should be: "done"; "running" in the background; "due",
            which `optimize()` or the next write sees to; or "failed: " and why, which `optimize()` tries again.
        device: what is on the CUDA device that was asked for; None without one.
    """

    path: Path | None
    documents: int
    tokens: int
    segments: int
    pending: int
    dead: int
    bytes: int
    dim: int
    codec: str
    model: str
    fingerprint: str
    filter_keys: tuple[str, ...]
    commits: int
    document_budget: float | None = None
    max_document_tokens: int | None = None
    upkeep: str = "done"
    device: DeviceStats | None = None

    @property
    def bytes_per_document(self) -> float:
        """All bytes divided by the live documents; 0 for an empty index."""
        return self.bytes / self.documents if self.documents else 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what `fastlane doctor` reports.

    Attributes:
        level: "ok"; "warning" if it costs speed or quality; "trouble" if it must be repaired.
        subject: what was checked.
        detail: what was found and, if it is not good, what to do.
        figures: the measured values, for JSON.
    """

    level: Literal["ok", "warning", "trouble"]
    subject: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def whole_number(value: Any) -> int | None:
    """The value as an int, numpy's whole numbers included; None for anything else."""
    try:
        return None if isinstance(value, bool) else int(value.__index__())
    except (AttributeError, TypeError):
        return None
