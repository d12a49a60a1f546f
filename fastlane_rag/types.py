"""The small values that cross module borders."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["DEFAULT_ROUTE_K", "Document", "Finding", "IndexStats", "Ingested", "Lane", "RouteK"]

RouteK = int | Literal["auto", "all"]
"""How many query tokens gather: a number, the router's own choice, or every token, which needs no refining."""

DEFAULT_ROUTE_K: RouteK = 16

Lane = Literal["exhaustive", "approximate"]
"""How candidates are gathered: by comparing with every document, or by the centroids near the routed tokens."""


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
    """What became of a stream of documents.

    Attributes:
        documents: taken from the stream.
        added: those whose id was new.
        changed: those whose text or metadata replaced what was stored.
        unchanged: those that were stored already, and were neither encoded nor written.
    """

    documents: int
    added: int
    changed: int
    unchanged: int


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
        bytes: segments and catalogue together.
        dim: size of a token embedding.
        codec: how segments store tokens, in half precision until there are enough to train on.
        model: name of the model the index was made with.
        fingerprint: that model's fingerprint.
        filter_keys: metadata keys with an index of their own.
        commits: writes since the index was created.
        document_budget: tokens kept of each document, or below 1 their share; None for all.
        max_document_tokens: tokens encoded of each document; None for all.
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

    @property
    def bytes_per_document(self) -> float:
        """All bytes over the live documents; 0 for an empty index."""
        return self.bytes / self.documents if self.documents else 0.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of what `fastlane doctor` reports.

    Attributes:
        level: "ok"; "warning" for what costs speed or quality; "trouble" for what must be repaired.
        subject: what was looked at.
        detail: what was found and, where it is not well, what to do.
        figures: the measured values, for JSON.
    """

    level: Literal["ok", "warning", "trouble"]
    subject: str
    detail: str
    figures: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
