"""Lexicons: inverted lists of the words in a segment's documents, with term frequencies."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.storage.words import count_words, number

__all__ = ["ARRAYS", "Lexicon", "build_lexicon", "count_document", "merge_lexicons"]

ARRAYS = ("word_offsets", "words", "word_lengths", "word_documents", "word_counts")
"""Names of a lexicon's arrays in a segment, in order of falling item size."""

Counted = tuple[list[int], list[int], int]
"""One document: the numbers of its words, how often each occurs, and how many words it has."""
_MOST = 255  # term frequencies are capped here, to fit a byte
# Merging sorts this many entries at a time, to bound memory.
_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of W words in a lexicon.

    Attributes:
        sizes: (W,) int64, how many entries each has; their sum is P.
        documents: (P,) unsigned, word after word.
        counts: (P,) uint8, how often the word occurs in the document.
    """

    sizes: NDArray[np.int64]
    documents: NDArray[np.generic]
    counts: NDArray[np.generic]

    def count(self, among: NDArray[np.bool_]) -> NDArray[np.int64]:
        """(W,): for each word, how many of its documents are in the mask `among`, (N,)."""
        ends = np.cumsum(self.sizes)
        total = np.zeros(len(self.documents) + 1, np.int64)
        np.cumsum(among[self.documents], out=total[1:])
        found: NDArray[np.int64] = total[ends] - total[ends - self.sizes]
        return found


class Lexicon:
    """The words of the N documents of a segment, inverted.

    Args:
        arrays: of V words in P entries,
            `words` (V,) uint32, ascending numbers of words;
            `word_offsets` (V + 1,) int64: word v owns the entries word_offsets[v]:word_offsets[v + 1];
            `word_documents` (P,) unsigned: the document of each entry, ascending for a word;
            `word_counts` (P,) uint8: how often the word occurs in it, 255 for more;
            `word_lengths` (N,) uint32: the words of each document.
        count: N.

    Raises:
        ValueError: the arrays do not fit together.
    """

    def __init__(self, arrays: Mapping[str, NDArray[np.generic]], count: int) -> None:
        # Arrays in the mapped file may be unaligned.
        offsets, words, lengths, documents, counts = (np.require(arrays[name], requirements="A") for name in ARRAYS)
        if len(offsets) != len(words) + 1 or offsets[0] != 0 or offsets[-1] != len(documents):
            raise ValueError(f"the words do not divide {len(documents)} entries")
        if len(counts) != len(documents) or len(lengths) != count:
            raise ValueError(f"the words are not those of {count} documents")
        self.words, self.offsets, self.documents, self.counts, self.lengths = words, offsets, documents, counts, lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def entries(self, words: NDArray[np.int64]) -> Entries:
        """The entries of some words, given as (W,) ascending word numbers."""
        sought = words.astype(np.uint32)
        firsts, lasts = (self.offsets[np.searchsorted(self.words, sought, side)] for side in ("left", "right"))
        places = [slice(first, last) for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)]
        documents = np.concatenate([self.documents[:0], *(self.documents[place] for place in places)])
        counts = np.concatenate([self.counts[:0], *(self.counts[place] for place in places)])
        return Entries(lasts - firsts, documents, counts)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What a segment stores."""
        values = self.offsets, self.words, self.lengths, self.documents, self.counts
        return dict(zip(ARRAYS, values, strict=True))


def count_document(text: str) -> Counted:
    """Count the words of one document."""
    numbers: Counter[int] = Counter()
    words = count_words(text)
    for word, often in words.items():
        numbers[number(word)] += often
    return list(numbers), [min(often, _MOST) for often in numbers.values()], words.total()


def build_lexicon(documents: Iterable[Counted]) -> Lexicon:
    """Build the lexicon of counted documents; document r is the r-th given."""
    words, counts, lengths, sizes = array("I"), array("B"), array("I"), array("I")
    for numbers, often, length in documents:
        words.extend(numbers)
        counts.extend(often)
        sizes.append(len(numbers))
        lengths.append(length)
    owners = np.repeat(np.arange(len(sizes), dtype=np.uint32), np.asarray(sizes))
    keys = np.asarray(words).astype(np.uint64) << np.uint64(32) | owners
    return _joined([_sorted(keys, np.asarray(counts))], np.asarray(lengths))


def merge_lexicons(parts: Sequence[tuple[Lexicon, NDArray[np.int64]]], count: int) -> Lexicon:
    """Merge lexicons into one, with new document numbers.

    Args:
        parts: lexicons, each with the new numbers of its documents; -1 leaves a document out.
        count: documents of the new lexicon. Each number below it must occur exactly once.
    """
    lengths = np.zeros(count, np.uint32)
    for lexicon, places in parts:
        lengths[places[places >= 0]] = lexicon.lengths[places >= 0]
    return _joined(list(_blocks(parts)), lengths)


Block = tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.uint8]]


def _blocks(parts: Sequence[tuple[Lexicon, NDArray[np.int64]]]) -> Iterator[Block]:
    """Yield all entries (word, document, count) in sorted blocks, one range of words each."""
    words = np.unique(np.concatenate([np.zeros(0, np.uint32), *(lexicon.words for lexicon, _ in parts)]))
    sizes = np.zeros(len(words), np.int64)
    for lexicon, _ in parts:
        sizes[np.searchsorted(words, lexicon.words)] += np.diff(lexicon.offsets)
    ends = np.cumsum(sizes)
    first = 0
    while first < len(words):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + _BLOCK, side="right")))
        yield _block(parts, words[first], words[last - 1])
        first = last


def _block(parts: Sequence[tuple[Lexicon, NDArray[np.int64]]], low: np.uint32, high: np.uint32) -> Block:
    """The entries of the words from `low` to `high`."""
    keys, counts = [], []
    for lexicon, places in parts:
        first = int(np.searchsorted(lexicon.words, low))
        last = int(np.searchsorted(lexicon.words, high, side="right"))
        here = slice(lexicon.offsets[first], lexicon.offsets[last])
        words = np.repeat(lexicon.words[first:last], np.diff(lexicon.offsets[first : last + 1]))
        new = places[lexicon.documents[here]]
        kept = new >= 0
        keys.append(words[kept].astype(np.uint64) << np.uint64(32) | new[kept].astype(np.uint64))
        counts.append(lexicon.counts[here][kept])
    return _sorted(np.concatenate(keys), np.concatenate(counts))


def _sorted(keys: NDArray[np.uint64], counts: NDArray[np.uint8]) -> Block:
    """Sort entries by key: word number in the upper 32 bits, document in the lower."""
    order = np.argsort(keys)
    keys = keys[order]
    return (keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32), counts[order]


def _joined(blocks: Sequence[Block], lengths: NDArray[np.uint32]) -> Lexicon:
    """Join sorted blocks into a lexicon; no word may occur in two blocks."""
    places = "<u2" if len(lengths) <= 1 << 16 else "<u4"
    uniques = [np.unique(words, return_counts=True) for words, _, _ in blocks]
    sizes = np.concatenate([np.zeros(1, np.int64), *(often for _, often in uniques)])
    arrays = {
        "word_offsets": np.cumsum(sizes).astype("<i8"),
        "words": np.concatenate([np.zeros(0, "<u4"), *(words for words, _ in uniques)]),
        "word_lengths": lengths.astype("<u4"),
        "word_documents": np.concatenate([np.zeros(0, places), *(d.astype(places) for _, d, _ in blocks)]),
        "word_counts": np.concatenate([np.zeros(0, np.uint8), *(counts for _, _, counts in blocks)]),
    }
    return Lexicon(arrays, len(lengths))
