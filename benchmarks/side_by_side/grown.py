"""A corpus of any size, made from an exported one: some of its documents, or all of them and synthetic copies."""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from side_by_side.corpus import Corpus, Query

_AHEAD = 256
"""Documents whose random vectors are drawn together."""


def write_grown(
    folder: Path, source: Corpus, size: int, *, tokens: int | None = None, noise: float = 0.1, seed: int = 0
) -> "Grown":
    """Write to a folder how a corpus is grown. Its rows are computed when they are read, so it takes no disk.

    Args:
        folder: gets the description.
        source: the real documents.
        size: number of documents. Beyond the size of the source they are copies under other ids, with each row moved by
            a random vector of about the length `noise`, and normalised.
        tokens: rows to keep of a document, evenly spaced; None for all.
        noise: length of the random vectors.
        seed: of the noise, and of the order of documents: a smaller corpus is the beginning of a larger one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"source": str(source.folder), "size": size, "tokens": tokens, "noise": noise, "seed": seed}
    (folder / "grown.json").write_text(json.dumps(plan))
    return Grown(folder)


class Grown(Corpus):
    """A corpus that `write_grown` described."""

    @cached_property
    def _plan(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "grown.json").read_text()))

    @cached_property
    def _source(self) -> Corpus:
        return Corpus(Path(self._plan["source"]))

    @cached_property
    def _order(self) -> npt.NDArray[np.int64]:
        """(size,): number of each document in the source; copies follow all originals."""
        real = len(self._source.offsets) - 1
        order = np.random.default_rng(self._plan["seed"]).permutation(real)
        return np.resize(order, self._plan["size"])

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The facts of the source, with the size of this corpus."""
        source = self._source.facts
        made = max(0, self._plan["size"] - source["documents"])
        return {
            **source,
            "documents": self._plan["size"],
            "tokens": int(self.offsets[-1]),
            "synthetic_documents": made,
            "tokens_kept_of_a_document": self._plan["tokens"] or "all",
            "noise": self._plan["noise"] if made else None,
        }

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """(N + 1,)."""
        lengths = np.diff(self._source.offsets)[self._order]
        if self._plan["tokens"]:
            lengths = np.minimum(lengths, self._plan["tokens"])
        return np.concatenate([[0], np.cumsum(lengths)])

    @property
    def rows(self) -> npt.NDArray[np.float16]:
        """Not available, because there is no such file."""
        raise NotImplementedError("a grown corpus makes its rows as they are read: use documents()")

    @cached_property
    def ids(self) -> list[str]:
        """The source's ids, with ~1, ~2, ... for copies."""
        names, real = self._source.ids, len(self._source.offsets) - 1
        copies = np.arange(len(self._order)) // real
        return [names[n] + (f"~{c}" if c else "") for n, c in zip(self._order, copies, strict=True)]

    def texts(self) -> Iterator[str]:
        """The source's texts."""
        texts = list(self._source.texts())
        return (texts[number] for number in self._order)

    def documents(self) -> Iterator[npt.NDArray[np.float32]]:
        """(L, d) float32 rows of each document."""
        real = len(self._source.offsets) - 1
        generator = np.random.default_rng(self._plan["seed"])
        for first in range(0, len(self._order), _AHEAD):
            numbers = self._order[first : first + _AHEAD]
            spans = [self._kept(number) for number in numbers]
            rows = np.concatenate(spans)
            if first + len(numbers) > real:
                moved = np.repeat(np.arange(first, first + len(numbers)) >= real, [len(span) for span in spans])
                self._move(rows, moved, generator)
            yield from np.split(rows, np.cumsum([len(span) for span in spans])[:-1])

    def _kept(self, number: int) -> npt.NDArray[np.float32]:
        first, last = self._source.offsets[number : number + 2]
        rows, most = self._source.rows[first:last], self._plan["tokens"]
        if most and len(rows) > most:
            rows = rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
        return rows.astype(np.float32)

    def _move(
        self, rows: npt.NDArray[np.float32], which: npt.NDArray[np.bool_], generator: np.random.Generator
    ) -> None:
        dim = rows.shape[1]
        step = generator.standard_normal((int(which.sum()), dim), dtype=np.float32)
        moved = rows[which] + step * np.float32(self._plan["noise"] / np.sqrt(dim))
        rows[which] = moved / np.linalg.norm(moved, axis=1, keepdims=True)

    def queries(self) -> list[Query]:
        """The queries of the source."""
        return self._source.queries()

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        """Empty, because quality means nothing among copies."""
        return {}


def open_corpus(folder: Path) -> Corpus:
    """The corpus of a folder, exported or grown."""
    return Grown(folder) if (folder / "grown.json").is_file() else Corpus(folder)
