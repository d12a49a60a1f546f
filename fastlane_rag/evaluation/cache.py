"""Encoded corpora, kept on disk so that judging the same model on the same corpus again is quick."""

import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastlane_rag.data import Passage, add_passages
from fastlane_rag.evaluation.dataset import Dataset

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.model import FastLaneModel

Track = Callable[[Iterable[Passage], str], Iterable[Passage]]
"""Passes passages through, showing progress; the text says what is done with them."""

_CHUNK = 512


class CorpusCache:
    """What one model made of one corpus: the index, and the vectors of the dense baseline.

    Args:
        root: the cache's folder; a sub-folder a pair of corpus and model is made in it.
        dataset: whose corpus.
        model: encodes what is not there yet.
        track: wraps the passages while they are encoded, to show progress.
    """

    def __init__(self, root: Path, dataset: Dataset, model: "FastLaneModel", track: Track) -> None:
        budget = model.encoder.document_router.budget
        key = f"{dataset.name}-{dataset.corpus_hash()[:16]}-{model.fingerprint[:16]}"
        if budget is not None:
            # Which tokens are kept is the document router's doing, and the fingerprint leaves routers out.
            key += f"-{budget}-{_router_digest(model)}"
        self.folder = root / key
        self._dataset = dataset
        self.model = model
        self._track = track

    def coded(self, codec: str) -> "FastLaneIndex":
        """The same index with its tokens stored in a codec, as users have it."""
        from fastlane_rag import FastLaneIndex

        if codec == "fp16":
            return self.index()
        path = self.folder / f"index-{codec}"
        done = self.folder / f"index-{codec}-is-complete"
        if not done.exists():
            with self.index() as index:
                index.save(path, codec=codec, overwrite=True)
            done.touch()
        return FastLaneIndex.open(path, model=self.model, read_only=True)

    def index(self) -> "FastLaneIndex":
        """The index in half precision, encoded as far as it is not yet: an interrupted run goes on."""
        from fastlane_rag import FastLaneIndex
        from fastlane_rag.errors import IndexNotFoundError

        path = self.folder / "index"
        done = self.folder / "index-is-complete"
        if done.exists():
            return FastLaneIndex.open(path, model=self.model, read_only=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            index = FastLaneIndex.open(path, model=self.model)
        except IndexNotFoundError:
            index = FastLaneIndex.create(path, model=self.model, codec="fp16")
        with index:
            add_passages(index, self._passages("encoding tokens"))
        done.touch()
        return FastLaneIndex.open(path, model=self.model, read_only=True)

    def dense(self) -> tuple[list[str], npt.NDArray[np.float32]]:
        """Ids and mean-pooled vectors, (N, h) float32, in the corpus's order."""
        path = self.folder / "dense.npy"
        ids: list[str] = []
        if path.exists():
            vectors: npt.NDArray[np.float32] = np.load(path)
            ids = [passage.id for passage in self._dataset.passages()]
            return ids, vectors
        self.folder.mkdir(parents=True, exist_ok=True)
        parts, texts = [], []
        for passage in self._passages("encoding single vectors"):
            ids.append(passage.id)
            texts.append(passage.content)
            if len(texts) == _CHUNK:
                parts.append(self.model.encode_dense_documents(texts))
                texts = []
        if texts:
            parts.append(self.model.encode_dense_documents(texts))
        vectors = np.concatenate(parts)
        draft = path.with_name(f"dense-{os.getpid()}.npy")
        np.save(draft, vectors)
        draft.replace(path)  # a half-written file never has the final name
        return ids, vectors

    def _passages(self, doing: str) -> Iterable[Passage]:
        return self._track(self._dataset.passages(), f"{self._dataset.name}: {doing}")


def _router_digest(model: "FastLaneModel") -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.encoder.document_router.state_dict().items()):
        digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
