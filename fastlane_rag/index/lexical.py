"""The lexical lane: BM25 of a query's words with the documents of a snapshot.

Every segment holds the lexicon of its documents, so a commit makes rows, words and documents live together, and
merging segments merges their words. SQLite's FTS5 inside the catalogue would be as safe, but took 345 ms for a
ten-word query over 100,000 abstracts, and 52 ms without stop words, where these lists take a few; bm25s has to be
built anew when documents change, and tantivy commits by itself, not with the catalogue.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import IndexFormatError
from fastlane_rag.index.lexicon import Lexicon, build_lexicon, count_document, merge_lexicons
from fastlane_rag.index.rows import PENDING, Reader
from fastlane_rag.index.snapshot import Mask, Part, PendingRows, Snapshot
from fastlane_rag.index.words import count_words, number

__all__ = ["LexicalLane", "lexicon_of", "merged_lexicon"]

_K1, _B = 0.9, 0.4


@dataclass(frozen=True, slots=True)
class _Words:
    """One part's words, and what BM25 adds to the counts of each of its documents."""

    lexicon: Lexicon
    live: Mask | None
    norms: NDArray[np.float32]


class LexicalLane:
    """BM25 over a snapshot; Lucene's, with k1 = 0.9 and b = 0.4, of the live documents alone.

    Args:
        reader: of the snapshot's commit.
        snapshot: N documents.
    """

    def __init__(self, reader: Reader, snapshot: Snapshot) -> None:
        self._where = reader.where
        self._starts = snapshot.starts
        self._documents = snapshot.documents
        lexicons = [lexicon_of(reader, part) for part in snapshot.parts]
        total = sum(
            int((lexicon.lengths if part.live is None else lexicon.lengths[part.live]).sum(dtype=np.int64))
            for lexicon, part in zip(lexicons, snapshot.parts, strict=True)
        )
        mean = np.float32(max(total, 1) / max(self._documents, 1))
        self._parts = [
            _Words(lexicon, part.live, np.float32(_K1) * (np.float32(1 - _B) + np.float32(_B) * lexicon.lengths / mean))
            for lexicon, part in zip(lexicons, snapshot.parts, strict=True)
        ]

    def scores(self, query: str, allowed: Mask | None) -> NDArray[np.float32]:
        """BM25 of every document.

        Args:
            query: the text.
            allowed: (N,) documents to score; None for all.

        Returns:
            (N,) float32; 0 for documents without any word of the query, and for those not allowed.

        Raises:
            IndexFormatError: a lexicon is damaged.
        """
        scores = np.zeros(int(self._starts[-1]), np.float32)
        counted: Counter[int] = Counter()
        for word, often in count_words(query).items():
            counted[number(word)] += often
        # In one order whatever the query's: sums of floats depend on it, and equal scores shall be equal.
        for word_number, often in sorted(counted.items()):
            self._add(scores, word_number, often)
        if allowed is not None:
            scores[~allowed] = 0
        return scores

    def _add(self, scores: NDArray[np.float32], word: int, often: int) -> None:
        """Add one word's part to the scores."""
        found = [part.lexicon.entries(word) for part in self._parts]
        try:
            have = sum(
                len(documents) if part.live is None else int(np.count_nonzero(part.live[documents]))
                for (documents, _), part in zip(found, self._parts, strict=True)
            )
            weight = np.float32(often * math.log(1 + (self._documents - have + 0.5) / (have + 0.5)))
            for (documents, counts), part, start in zip(found, self._parts, self._starts[:-1], strict=True):
                if len(documents):
                    counts_ = counts.astype(np.float32)
                    here = scores[start : start + len(part.norms)]
                    here[documents] += weight * counts_ / (counts_ + part.norms[documents])
        except IndexError as error:
            raise IndexFormatError(f"the words of a segment named in {self._where} are damaged: {error}") from error


def lexicon_of(reader: Reader, part: Part) -> Lexicon:
    """The words of a segment or of the pending rows.

    They are counted from the texts, once, where no file holds them: pending documents, and segments written before
    there was a lexical lane (`compact` writes those anew).
    """
    source = part.source
    if source.lexicon is None:
        if isinstance(source, PendingRows):
            counted = source.counted
            for key in source.keys.tolist():
                if key not in counted:
                    counted[key] = count_document(reader.text_at((PENDING, key)))
            source.lexicon = build_lexicon(counted[key] for key in source.keys.tolist())
        else:
            texts = reader.texts(part.segment)
            nothing: tuple[list[int], list[int], int] = [], [], 0
            source.lexicon = build_lexicon(
                count_document(texts[row]) if row in texts else nothing for row in range(len(part))
            )
    return source.lexicon


def merged_lexicon(
    lexicons: dict[int, Lexicon], parts: dict[int, Part], placed: Sequence[tuple[int, int, int]]
) -> Lexicon:
    """The words of a new segment, from those of the segments that its documents come from.

    Args:
        lexicons: of each segment.
        parts: the segments.
        placed: (doc, segment, row) of the new segment's documents, in their order.
    """
    places = np.array(placed, np.int64).reshape(-1, 3)
    found = []
    for segment, part in parts.items():
        new = np.flatnonzero(places[:, 1] == segment)
        numbers = np.full(len(part), -1, np.int64)
        numbers[part.positions(places[new, 2])] = new
        found.append((lexicons[segment], numbers))
    return merge_lexicons(found, len(places))
