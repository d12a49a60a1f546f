"""The lexicon of one segment: read from its file, or counted from the texts where no file holds it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastlane_rag.storage.lexicon import Lexicon, build_lexicon, count_document, merge_lexicons
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.snapshot import Part, PendingRows
from fastlane_rag.storage.tables import PENDING

__all__ = ["lexicon_of", "merged_lexicon"]


def lexicon_of(reader: Reader, part: Part) -> Lexicon:
    """The words of a segment or of the pending rows.

    Where no file holds the words, they are counted from the texts once and kept. This concerns pending documents, and
    segments written before the lexical lane existed (`compact` rewrites those).
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
    """The lexicon of a new segment, merged from the lexicons of the segments that its documents come from.

    Args:
        lexicons: the lexicon of each segment, by the segment's number.
        parts: the segments, by number.
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
