"""What there is to do for a store to be fast and small: pieces of work, each ended by one short transaction."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from fastlane_rag.storage.segment import Segment
from fastlane_rag.storage.snapshot import Part
from fastlane_rag.storage.tables import PENDING
from fastlane_rag.storage.transactions import Storage, View
from fastlane_rag.upkeep.merge import to_merge
from fastlane_rag.upkeep.pace import Pace
from fastlane_rag.upkeep.recode import newest_codec, to_recode, train_codec, training_due
from fastlane_rag.upkeep.rewrite import rewrite

if TYPE_CHECKING:
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["TRAINING", "Step", "compact", "due"]

TRAINING = -1
"""Stands for the training of a codec among the numbers of segments."""


@dataclass(frozen=True)
class Step:
    """Train a codec, or write some segments into one.

    Attributes:
        uses: the segments to write anew, or `TRAINING`: what no other thread should work on meanwhile.
        tokens: the token rows that it copies, encodes or learns from.
    """

    uses: tuple[int, ...]
    tokens: int

    def carry_out(self, storage: Storage, pace: Pace) -> bool:
        """Do it. Returns whether it was done, not overtaken by another process."""
        return train_codec(storage, pace) if self.uses == (TRAINING,) else rewrite(storage, self.uses, pace)


def due(storage: Storage, view: View, busy: Container[int] = ()) -> Iterator[Step]:
    """The steps that there are to do, the first one first. Look again after each.

    Args:
        storage: the index.
        view: of its latest commit.
        busy: segments that others are working on.
    """
    parts = {part.segment: part for part in view.snapshot.parts if part.segment not in busy}
    plain = [part for part in view.snapshot.parts if part.segment != PENDING]
    if TRAINING not in busy and training_due(storage, view, plain):
        yield Step((TRAINING,), view.snapshot.tokens)
    rewritten = chain(to_merge(parts.values(), storage.dim), to_recode(storage, view.reader, parts.values()))
    for segments in rewritten:
        yield Step(tuple(segments), sum(parts[segment].live_tokens for segment in segments))


def compact(storage: Storage, pace: Pace, *, retrain: bool = False) -> None:
    """Rewrite everything into one segment without dead rows, and give the space back.

    Args:
        storage: the index to compact.
        pace: may end it.
        retrain: first train a new codec on a sample of all live rows.
    """
    with storage.view() as view:
        trained = bool(view.reader.codecs())
        train = training_due(storage, view, view.snapshot.parts) or (retrain and trained)
    if train:
        train_codec(storage, pace)
    while True:
        with storage.view() as view:
            parts = view.snapshot.parts
            codec = newest_codec(storage, view.reader).name
            ideal = not parts or (len(parts) == 1 and _is_ideal(parts[0], codec, view.reader.vector_map(codec)))
        if ideal or rewrite(storage, [part.segment for part in parts], pace):
            break
    with pace.turn(storage), storage.changing:
        storage.catalogue.shrink()


def _is_ideal(part: Part, codec: str, vector_map: VectorMap | None) -> bool:
    """Whether rewriting a part would change nothing."""
    source = part.source
    if part.live is not None or not isinstance(source, Segment):
        return False
    mapped = None if source.vectors is None else source.vectors.name
    wanted = None if vector_map is None else vector_map.name
    return source.codec.name == codec and source.has_words and mapped == wanted
