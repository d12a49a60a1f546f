"""Encoded corpora, kept on disk so that a corpus is encoded only once for each model."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastlane_rag.data import Passage, add_passages
from fastlane_rag.evaluation.dataset import Dataset
from fastlane_rag.evaluation.whole import KeptRows, SideRecords, WholeEncoder, documents_with_rows, text_key

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.model.router import TokenRouter

Track = Callable[[Iterable[Passage], str], Iterable[Passage]]
"""Passes passages on and shows progress; the text says what is done with them."""

_CHUNK = 512


class CorpusCache:
    """One corpus encoded by one model: indexes, and the vectors of the dense baseline.

    The corpus is encoded once, with all tokens. Smaller indexes, in a codec or with the tokens that the document router
    keeps, are made from the stored rows.

    Args:
        root: the cache's folder, with a sub-folder for each pair of corpus and model.
        dataset: has the corpus.
        model: encodes what is missing. `index` and `coded` keep the budget of its document router by default.
        track: wraps the passages while they are encoded, to show progress.
    """

    def __init__(self, root: Path, dataset: Dataset, model: "FastLaneModel", track: Track) -> None:
        self.folder = root / f"{dataset.name}-{dataset.corpus_hash()[:16]}-{model.fingerprint[:16]}"
        self.model = model
        self._dataset = dataset
        self._track = track
        # The scores depend on the document router, which the fingerprint leaves out.
        self._router = router_digest(model.encoder.document_router)
        self._records = SideRecords(self.folder / f"side-{self._router}")

    def coded(self, codec: str, budget: float | None = None) -> "FastLaneIndex":
        """The index in a codec, as users have it.

        Args:
            codec: as in `FastLaneIndex.create`.
            budget: tokens of a document to keep; None for the budget of the model.
        """
        if codec == "fp16":
            return self.index(budget)
        path = self._path(codec, budget)
        if not _done(path).exists():
            with self.index(budget) as index:
                index.save(path, codec=codec, overwrite=True)
            _done(path).touch()
        return self._open(path)

    def index(self, budget: float | None = None) -> "FastLaneIndex":
        """The index in half precision. Encodes what is missing, so an interrupted run can be continued."""
        budget = budget or self.model.encoder.document_router.budget
        return self._whole() if budget is None else self._kept(budget)

    def dense(self) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Ids and mean-pooled vectors, (N, h) float32, in the corpus's order."""
        path = self.folder / "dense.npy"
        if path.exists():
            vectors: npt.NDArray[np.float32] = np.load(path)
            return [passage.id for passage in self._dataset.passages()], vectors
        known = self._records.pooled()
        ids: list[str] = []
        parts: list[Any] = []
        missing: list[tuple[int, str]] = []
        for passage in self._passages("encoding single vectors"):
            vector = known.get(text_key(passage.content))
            if vector is None:
                missing.append((len(ids), passage.content))
            ids.append(passage.id)
            parts.append(vector)
            if len(missing) == _CHUNK:
                self._fill(parts, missing)
        self._fill(parts, missing)
        vectors = np.stack([part for part in parts if part is not None])
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"dense-{os.getpid()}.npy")
        np.save(draft, vectors)
        draft.replace(path)  # so that an incomplete file never has the final name
        return ids, vectors

    def scores(self) -> dict[bytes, npt.NDArray[np.float32]]:
        """The document router's scores of each document's token rows, by the document's `whole.text_key`."""
        known = self._records.scores()
        with self._whole() as index:
            for documents, _ in documents_with_rows(index):
                missing = [one.text for one in documents if text_key(one.text) not in known]
                if missing:  # encoded with another state of the router
                    WholeEncoder(self.model, self._records).encode_documents(missing)
        return self._records.scores()

    def _whole(self) -> "FastLaneIndex":
        path = self.folder / "index"
        if not _done(path).exists():
            with self._opened_or_made(path, WholeEncoder(self.model, self._records)) as index:
                add_passages(index, self._passages("encoding tokens"))
            _done(path).touch()
        return self._open(path)

    def _kept(self, budget: float) -> "FastLaneIndex":
        """An index of the rows that a budget keeps of the whole index."""
        import torch

        from fastlane_rag.model.stand_ins import condensed

        path = self._path("fp16", budget)
        if not _done(path).exists():
            scores, ready = self.scores(), KeptRows(self.model)
            with self._whole() as source, self._opened_or_made(path, ready) as target:
                for documents, rows in documents_with_rows(source):
                    kept = []
                    for one, whole in zip(documents, rows, strict=True):
                        of_tokens = torch.from_numpy(scores[text_key(one.text)])
                        kept.append(condensed(torch.from_numpy(whole), of_tokens, budget))
                    ready.prepare([one.text for one in documents], kept)
                    target.ingest(documents, show_progress=False)
            _done(path).touch()
        return self._open(path)

    def _opened_or_made(self, path: Path, model: Any) -> "FastLaneIndex":
        from fastlane_rag import FastLaneIndex
        from fastlane_rag.errors import IndexNotFoundError

        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            return FastLaneIndex.open(path, model=model)
        except IndexNotFoundError:
            return FastLaneIndex.create(path, model=model, codec="fp16")

    def _open(self, path: Path) -> "FastLaneIndex":
        from fastlane_rag import FastLaneIndex

        return FastLaneIndex.open(path, model=self.model, read_only=True)

    def _path(self, codec: str, budget: float | None) -> Path:
        budget = budget or self.model.encoder.document_router.budget
        kept = "" if budget is None else f"-{budget:.6g}-stand-ins-{self._router}"
        return self.folder / f"index-{codec}{kept}"

    def _fill(self, parts: list[Any], missing: list[tuple[int, str]]) -> None:
        if missing:
            for (position, _), vector in zip(
                missing, self.model.encode_dense_documents([text for _, text in missing]), strict=True
            ):
                parts[position] = vector
        missing.clear()

    def _passages(self, doing: str) -> Iterable[Passage]:
        return self._track(self._dataset.passages(), f"{self._dataset.name}: {doing}")


def _done(path: Path) -> Path:
    """The file whose presence says that an index is complete."""
    return path.with_name(f"{path.name}-is-complete")


def router_digest(router: "TokenRouter") -> str:
    """A short digest of a router's weights, which the fingerprint of a model leaves out."""
    digest = hashlib.sha256()
    for name, value in sorted(router.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
