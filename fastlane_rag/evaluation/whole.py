"""One encoding of a corpus for all of evaluation: token rows, router scores, mean-pooled vectors.

The rows that a document budget keeps follow from rows and scores, and the dense baseline pools the same token states.
So neither needs a second pass through the encoder.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.model import FastLaneModel, RoutedQuery

__all__ = ["KeptRows", "SideRecords", "WholeEncoder", "documents_with_rows", "text_key"]

Scores = npt.NDArray[np.float32]
_CHUNK = 256


def text_key(text: str) -> bytes:
    """A 16-byte digest of a text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


class SideRecords:
    """The encoder's output for documents besides token rows, in a folder of numpy archives.

    Each archive holds `keys` (N, 16) uint8, `lengths` (N,) int64, `scores` (sum of lengths,) float32 and `pooled`
    (N, h) float32. An archive is complete or absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, texts: Sequence[str], scores: Sequence[Scores], pooled: npt.NDArray[np.float32]) -> None:
        """Store the scores and pooled vectors of some documents."""
        self._folder.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(map(text_key, texts)), np.uint8).reshape(-1, 16)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:24]
        draft = self._folder / f"{name}.{os.getpid()}.draft"
        with draft.open("wb") as file:
            np.savez(
                file,
                keys=keys,
                lengths=np.array([len(s) for s in scores]),
                scores=np.concatenate(scores),
                pooled=pooled,
            )
        draft.replace(self._folder / f"{name}.npz")

    def pooled(self) -> dict[bytes, npt.NDArray[np.float32]]:
        """Mean-pooled vectors, (h,) each, by `text_key`."""
        found: dict[bytes, npt.NDArray[np.float32]] = {}
        for archive in self._archives():
            found.update(zip(map(bytes, archive["keys"]), archive["pooled"], strict=True))
        return found

    def scores(self) -> dict[bytes, Scores]:
        """Router scores, one per stored token row, by `text_key`."""
        found: dict[bytes, Scores] = {}
        for archive in self._archives():
            ends = np.cumsum(archive["lengths"])[:-1]
            found.update(zip(map(bytes, archive["keys"]), np.split(archive["scores"], ends), strict=True))
        return found

    def _archives(self) -> Iterator[dict[str, Any]]:
        for path in sorted(self._folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as archive:
                yield {name: archive[name] for name in archive.files}


class WholeEncoder:
    """A model for building an index: returns all token rows of each document, and writes the rest to `records`.

    Args:
        model: encodes; the budget of its document router is ignored.
        records: gets scores and pooled vectors before the rows are returned, so that all documents of the index are in
            the records even after an interruption.
    """

    def __init__(self, model: "FastLaneModel", records: SideRecords) -> None:
        self.name, self.fingerprint, self.dim = model.name, model.fingerprint, model.dim
        self._model = model
        self._records = records

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> "list[Tensor]":
        """All token rows: those of the model without a budget."""
        import torch

        from fastlane_rag.model.fastlane import _scored, _unit

        with _observed(self._model):
            rows = self._model._encode(texts, "document", batch_size, show_progress)
        scored = [_scored(row) for row in rows]
        scores = [row["document_scores"][mask].float().cpu().numpy() for row, mask in zip(rows, scored, strict=True)]
        pooled = torch.nn.functional.normalize(torch.stack([row["pooled"] for row in rows]), dim=-1)
        self._records.append(texts, scores, pooled.cpu().numpy())
        return [_unit(row["token_embeddings"][mask]) for row, mask in zip(rows, scored, strict=True)]

    def encode_routed(self, texts: Sequence[str], **options: Any) -> "list[RoutedQuery]":
        """The model's encoded queries."""
        return self._model.encode_routed(texts, **options)


@contextmanager
def _observed(model: "FastLaneModel") -> Iterator[None]:
    """In this context, encoded documents have all tokens, `pooled` states and `document_scores`."""
    router = model.encoder.document_router
    budget = router.budget

    def pool(module: Any, inputs: tuple[dict[str, Any]]) -> None:
        features = inputs[0]
        mask = features["attention_mask"].bool()
        states = features["token_embeddings"].float()
        features["pooled"] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)

    def score(module: Any, inputs: Any, features: dict[str, Any]) -> None:
        features["document_scores"] = router.score_tokens(
            features["token_embeddings"], features["attention_mask"].bool(), features.get("input_ids")
        )

    # The second module takes the token states, whichever library made them.
    second = list(model.encoder.children())[1]
    hooks = [second.register_forward_pre_hook(pool), router.register_forward_hook(score)]
    router.budget = None
    try:
        yield
    finally:
        router.budget = budget
        for hook in hooks:
            hook.remove()


class KeptRows:
    """A model for building a smaller index from a larger one: returns rows that were prepared by text."""

    def __init__(self, model: Any) -> None:
        self.name, self.fingerprint, self.dim = model.name, model.fingerprint, model.dim
        self._ready: dict[bytes, Any] = {}

    def prepare(self, texts: Sequence[str], rows: Sequence[Any]) -> None:
        """Set the rows of the documents to add next."""
        self._ready = dict(zip(map(text_key, texts), rows, strict=True))

    def encode_documents(self, texts: Sequence[str], **_: Any) -> list[Any]:
        """The prepared rows."""
        return [self._ready[text_key(text)] for text in texts]

    def encode_routed(self, texts: Sequence[str], **_: Any) -> "list[RoutedQuery]":
        """Not needed to build an index.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("prepared rows hold no queries; open the index with its model to search")


def documents_with_rows(index: "FastLaneIndex") -> Iterator[tuple[list[Any], list[npt.NDArray[np.floating]]]]:
    """Yield the documents of an index in order of insertion, with their stored token rows, in chunks."""
    with index._storage.view() as view:
        ids = view.reader.ids(None)
        placed = view.reader.placed([part.segment for part in view.snapshot.parts])
        rows = view.snapshot.rows_at((segment, row) for _, segment, row in placed)
        for first in range(0, len(ids), _CHUNK):
            documents = view.reader.get(ids[first : first + _CHUNK])
            yield documents, list(islice(rows, len(documents)))
