"""The input of every engine: token embeddings of documents and queries, in files that need only numpy."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Query:
    """One query, encoded.

    Attributes:
        id: its id.
        text: text of the query, for engines that use words.
        tokens: the L token strings.
        rows: (L, d) float32.
        views: (L, d) float32, the same tokens in the context of the query, see `QueryRouter.views`.
        scores: (L,) float32 of the router.
        dense: (h,) float32, the mean-pooled vector of the same encoder.
    """

    id: str
    text: str
    tokens: list[str]
    rows: npt.NDArray[np.float32]
    views: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    dense: npt.NDArray[np.float32]


class Corpus:
    """An exported dataset of N documents and T tokens.

    Args:
        folder: written by `write_documents` and `write_queries`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def facts(self) -> dict[str, Any]:
        """Facts about the exported dataset."""
        return dict(json.loads((self.folder / "facts.json").read_text()))

    @cached_property
    def rows(self) -> npt.NDArray[np.float16]:
        """(T, d) float16, memory-mapped."""
        return np.load(self.folder / "rows.npy", mmap_mode="r")

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """(N + 1,): document n owns rows[offsets[n]:offsets[n + 1]]."""
        return np.load(self.folder / "offsets.npy")

    @cached_property
    def ids(self) -> list[str]:
        """The documents' ids."""
        return list(json.loads((self.folder / "ids.json").read_text()))

    def texts(self) -> Iterator[str]:
        """The documents' texts, one at a time."""
        with (self.folder / "texts.jsonl").open() as lines:
            for line in lines:
                yield json.loads(line)

    @cached_property
    def dense(self) -> npt.NDArray[np.float32]:
        """(N, h) float32 mean-pooled vectors."""
        return np.load(self.folder / "dense.npy")

    @cached_property
    def token_scores(self) -> npt.NDArray[np.float32]:
        """(T,) float32 document router score of each row."""
        return np.load(self.folder / "token-scores.npy")

    @cached_property
    def qrels(self) -> dict[str, dict[str, int]]:
        """For each query id, the relevance by document id."""
        return dict(json.loads((self.folder / "qrels.json").read_text()))

    def documents(self) -> Iterator[npt.NDArray[np.float32]]:
        """(L, d) float32 rows of each document."""
        for first, last in zip(self.offsets[:-1], self.offsets[1:], strict=True):
            yield self.rows[first:last].astype(np.float32)

    def queries(self) -> list[Query]:
        """All queries."""
        with np.load(self.folder / "queries.npz") as arrays:
            bounds = arrays["offsets"][1:-1]
            rows, views, scores = (np.split(arrays[name], bounds) for name in ("rows", "views", "scores"))
            dense = list(arrays["dense"])
        words = json.loads((self.folder / "queries.json").read_text())
        return [
            Query(one["id"], one["text"], one["tokens"], *arrays)
            for one, *arrays in zip(words, rows, views, scores, dense, strict=True)
        ]


def write_documents(folder: Path, documents: Iterator[tuple[str, str, Rows]], tokens: int, dim: int) -> None:
    """Write documents' ids, texts and rows.

    Args:
        folder: the folder to write to.
        documents: id, text and (L, dim) rows of each document.
        tokens: total number of rows.
        dim: dimension of a row.

    Raises:
        ValueError: the number of rows is not `tokens`.
    """
    ids, offsets = [], [0]
    packed = np.lib.format.open_memmap(folder / "rows.npy", mode="w+", dtype=np.float16, shape=(tokens, dim))
    with (folder / "texts.jsonl").open("w") as lines:
        for id_, text, rows in documents:
            end = offsets[-1] + len(rows)
            if end > tokens:
                break
            packed[offsets[-1] : end] = rows
            ids.append(id_)
            offsets.append(end)
            lines.write(json.dumps(text) + "\n")
        else:
            end = offsets[-1]
    if end != tokens:
        raise ValueError(f"the documents have {end} rows or more, not {tokens}")
    packed.flush()
    np.save(folder / "offsets.npy", np.array(offsets, np.int64))
    (folder / "ids.json").write_text(json.dumps(ids))


def write_queries(folder: Path, queries: list[Query], qrels: dict[str, dict[str, int]]) -> None:
    """Write queries and their judgements."""
    np.savez(
        folder / "queries.npz",
        rows=np.concatenate([one.rows for one in queries]),
        views=np.concatenate([one.views for one in queries]),
        scores=np.concatenate([one.scores for one in queries]),
        offsets=np.cumsum([0, *(len(one.rows) for one in queries)], dtype=np.int64),
        dense=np.stack([one.dense for one in queries]),
    )
    words = [{"id": one.id, "text": one.text, "tokens": one.tokens} for one in queries]
    (folder / "queries.json").write_text(json.dumps(words))
    (folder / "qrels.json").write_text(json.dumps(qrels))
