"""Which codec a new segment gets, and training it.

Documents are first stored in half precision. Once there are enough tokens to train a codec on, `tidy` writes them again
in code. An index that has grown gets a codec with more centroids, and `tidy` brings every segment into it: one codec is
searched in half the time of two. docs/tuning.md says what is known of the constants.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import Codec, HalfCodec
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.snapshot import Part, Snapshot
from fastlane_rag.storage.tables import PENDING
from fastlane_rag.storage.transactions import Storage

__all__ = ["CodecPlan", "choose", "to_recode", "train"]

# Tokens in segments that are worth a codec; fewer are searched exhaustively in a few milliseconds.
TRAIN_TOKENS = 1 << 17
# An index this many times as large as when its codec was trained gets a new one, with more centroids.
GROWTH = 8


@dataclass(frozen=True)
class CodecPlan:
    """What a new segment is to be written in.

    Attributes:
        codec: the codec; None for one that is yet to be trained.
        bits: of the codec to train.
        newest: the codec before that one, if there is any.
    """

    codec: Codec | None
    bits: int = 0
    newest: Codec | None = None


def to_recode(storage: Storage, reader: Reader, snapshot: Snapshot) -> list[int]:
    """The segments to write in code now: all that are in half precision, or one of an older codec."""
    parts = [part for part in snapshot.parts if part.segment != PENDING]
    plain = [part for part in parts if part.codec == HalfCodec.name]
    if choose(storage, reader, snapshot, plain).codec is not _HALF:
        return [part.segment for part in plain]
    current = {HalfCodec.name, *list(reader.codecs())[-1:]}
    return [part.segment for part in parts if part.codec not in current][:1]


def choose(
    storage: Storage, reader: Reader, snapshot: Snapshot, parts: list[Part], *, retrain: bool = False
) -> CodecPlan:
    """What the live rows of these parts, merged, are to be written in."""
    bits = storage.bits
    if bits is None or not parts:
        return CodecPlan(_HALF)
    codecs = reader.codecs()
    if not codecs:
        enough = sum(part.live_tokens for part in parts) >= TRAIN_TOKENS
        return CodecPlan(None, bits) if enough else CodecPlan(_HALF)
    name, tokens = list(codecs.items())[-1]
    newest = storage.codec(reader, name)
    if retrain or snapshot.tokens > GROWTH * tokens:
        return CodecPlan(None, bits, newest)
    return CodecPlan(newest)


def train(snapshot: Snapshot, bits: int, newest: Codec | None) -> Codec:
    """A codec trained on a sample of all live rows, those in the newest codec included.

    The same rows give the same codec.
    """
    from fastlane_rag.codecs.residual import SAMPLE_PER_CENTROID, ResidualCodec, centroids_for

    centroids = centroids_for(snapshot.tokens)
    sample = _sample(snapshot, min(snapshot.tokens, SAMPLE_PER_CENTROID * centroids))
    like = newest if isinstance(newest, ResidualCodec) else None
    return ResidualCodec.train(sample, bits, centroids=centroids, like=like)


_HALF = HalfCodec()


def _sample(snapshot: Snapshot, count: int) -> NDArray[np.float32]:
    """(count, dim) live token rows drawn at random, each at most once."""
    live = snapshot.live_numbers
    ends = np.cumsum(snapshot.lengths[live])
    drawn = np.sort(np.random.default_rng(0).choice(int(ends[-1]), count, replace=False))
    owner = np.searchsorted(ends, drawn, side="right")
    within = drawn - (ends - snapshot.lengths[live])[owner]
    rows = [
        part.source.take(part.source.offsets[documents] + within[here]).astype(np.float32)
        for part, here, documents in snapshot.by_part(live[owner])
    ]
    return np.concatenate(rows)
