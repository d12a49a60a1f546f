"""The small values that cross module borders."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
        codec: how segments store tokens.
        model: name of the model the index was made with.
        fingerprint: that model's fingerprint.
        filter_keys: metadata keys with an index of their own.
        commits: writes since the index was created.
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

    @property
    def bytes_per_document(self) -> float:
        """All bytes over the live documents; 0 for an empty index."""
        return self.bytes / self.documents if self.documents else 0.0


@dataclass(frozen=True, slots=True)
class Hit:
    """One search result.

    Attributes:
        id: the document's id.
        score: SumMaxSim (or the routed score when not refined); higher is better.
        text: the document's text as it was added.
        metadata: the document's metadata, a copy the caller may change.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)
