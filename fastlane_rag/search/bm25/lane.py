"""The lexical lane: BM25 between a query's words and the documents of a snapshot.

Each segment holds the lexicon of its documents. One commit therefore publishes rows, words and documents together, and
merging segments merges their lexicons. The alternatives were worse: SQLite's FTS5 took 345 ms for a ten-word query over
100,000 abstracts (52 ms without stop words) where this lane takes a few; bm25s must be rebuilt when documents change;
tantivy has commits of its own, apart from the catalogue's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import IndexFormatError
from fastlane_rag.search.bm25.statistics import WordStatistics
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.lexicon import Entries, Lexicon
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.segment_words import lexicon_of
from fastlane_rag.storage.snapshot import Mask, Snapshot
from fastlane_rag.storage.words import count_words, number

__all__ = ["LexicalLane"]


@dataclass(frozen=True, slots=True)
class _Words:
    """One part's lexicon, and which of its documents are live."""

    lexicon: Lexicon
    live: Mask | None

    def having(self, entries: Entries) -> NDArray[np.int64]:
        """(W,): live documents that have each word."""
        return entries.sizes if self.live is None else entries.count(self.live)


Norms = list[NDArray[np.float32]]
"""BM25's length norm of each document of each part: k1 * (1 - b + b * length / mean)."""


class LexicalLane:
    """BM25 (Lucene's variant) over the live documents of a snapshot.

    Args:
        reader: reads the snapshot's commit.
        snapshot: the N documents.
        policy: sets k1 and b.
    """

    def __init__(self, reader: Reader, snapshot: Snapshot, policy: SearchPolicy | None = None) -> None:
        policy = policy or SearchPolicy()
        self._k1, self._b = policy.bm25_k1, policy.bm25_b
        self._where = reader.where
        self._documents = snapshot.documents
        self._parts = [_Words(lexicon_of(reader, part), part.live) for part in snapshot.parts]
        self._words = sum(
            int((lengths if part.live is None else lengths[part.live]).sum(dtype=np.int64))
            for part in self._parts
            for lengths in [part.lexicon.lengths]
        )
        self._norms: tuple[np.float32, Norms] = np.float32(0), []

    def statistics(self, queries: Iterable[str]) -> WordStatistics:
        """What these documents add to the statistics of a larger collection, for the words of some queries.

        Raises:
            IndexFormatError: a lexicon is damaged.
        """
        words = np.unique([number(word) for query in queries for word in count_words(query)]).astype(np.int64)
        with self._damage_named():
            having = sum((part.having(part.lexicon.entries(words)) for part in self._parts), np.zeros(len(words)))
        return WordStatistics(self._documents, self._words, dict(zip(words.tolist(), map(int, having), strict=True)))

    def scores(self, query: str, allowed: Mask | None, whole: WordStatistics | None = None) -> NDArray[np.float32]:
        """BM25 of every document.

        Args:
            query: the text.
            allowed: (N,) documents to score; None for all.
            whole: statistics of the collection that these documents are a part of; None where they are all of it.

        Returns:
            (N,) float32; 0 for documents without any word of the query, and for those not allowed.

        Raises:
            IndexFormatError: a lexicon is damaged.
        """
        return self.scores_and_limit(query, allowed, whole)[0]

    def scores_and_limit(
        self, query: str, allowed: Mask | None, whole: WordStatistics | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """As `scores`, and the BM25 that a document of the query's words repeated without end would come near."""
        counted: Counter[int] = Counter()
        for word, times in count_words(query).items():
            counted[number(word)] += times
        # Sorted, so that the order of words in the query cannot change the last bit of a score.
        words, often = np.array(sorted(counted.items()), np.int64).reshape(-1, 2).T
        with self._damage_named():
            found = [part.lexicon.entries(words) for part in self._parts]
            have = np.zeros(len(words))
            if whole is None:
                whole = WordStatistics(self._documents, self._words)
                for entries, part in zip(found, self._parts, strict=True):
                    have += part.having(entries)
            else:
                have += [whole.having.get(word, 0) for word in words.tolist()]
            weights = (often * np.log1p((whole.documents - have + 0.5) / (have + 0.5))).astype(np.float32)
            norms = self._norms_within(whole)
            scores = [_added(entries, norm, weights) for entries, norm in zip(found, norms, strict=True)]
        together = np.concatenate([np.zeros(0, np.float32), *scores])
        if allowed is not None:
            together[~allowed] = 0
        return together, float(weights.sum())

    def _norms_within(self, whole: WordStatistics) -> Norms:
        """The norms by a collection's mean length. The last ones are kept: the mean changes with commits alone."""
        mean = np.float32(max(whole.words, 1) / max(whole.documents, 1))
        kept, norms = self._norms
        if kept != mean:
            k1, b = np.float32(self._k1), np.float32(self._b)
            norms = [k1 * (np.float32(1 - self._b) + b * part.lexicon.lengths / mean) for part in self._parts]
            self._norms = mean, norms
        return norms

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (IndexError, ValueError) as error:
            raise IndexFormatError(f"the words of a segment named in {self._where} are damaged: {error}") from error


def _added(entries: Entries, norms: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N,) float32: BM25 of a part's documents, from the query words' entries and weights."""
    if not len(entries.documents):
        return np.zeros(len(norms), np.float32)
    counts = entries.counts.astype(np.float32)
    of_entry = np.repeat(weights, entries.sizes) * counts / (counts + norms[entries.documents])
    return np.bincount(entries.documents, of_entry, len(norms)).astype(np.float32)
