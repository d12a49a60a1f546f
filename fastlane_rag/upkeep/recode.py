"""Choosing and training the codec of a new segment.

Documents are first stored in half precision. Once there are enough tokens to train a codec, `tidy` rewrites them in
code. When the index has grown, a new codec with more centroids is trained, and `tidy` rewrites every segment in it:
searching one codec takes half the time of searching two.
docs/tuning.md says what is known of the constants.
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

# Train the first codec at this many tokens in segments. Exhaustive search over fewer takes a few milliseconds.
TRAIN_TOKENS = 1 << 17
# Train a new codec, with more centroids, when the index has grown by this factor since the last training.
GROWTH = 8


@dataclass(frozen=True)
class CodecPlan:
    """The codec of a new segment.

    Attributes:
        codec: the codec to use; None to train a new one.
        bits: bits per dimension of the codec to train.
        newest: the newest existing codec, whose steps the new one keeps where they fit; None if there is none.
    """

    codec: Codec | None
    bits: int = 0
    newest: Codec | None = None


def to_recode(storage: Storage, reader: Reader, snapshot: Snapshot) -> list[int]:
    """The segments to recode next: all in half precision if a codec is due, else one in an older codec."""
    parts = [part for part in snapshot.parts if part.segment != PENDING]
    plain = [part for part in parts if part.codec == HalfCodec.name]
    if choose(storage, reader, snapshot, plain).codec is not _HALF:
        return [part.segment for part in plain]
    current = {HalfCodec.name, *list(reader.codecs())[-1:]}
    return [part.segment for part in parts if part.codec not in current][:1]


def choose(
    storage: Storage, reader: Reader, snapshot: Snapshot, parts: list[Part], *, retrain: bool = False
) -> CodecPlan:
    """Choose the codec for the merged live rows of these parts."""
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


def train(snapshot: Snapshot, bits: int, newest: Codec | None, device: str | None) -> Codec:
    """Train a codec on a sample of all live rows, rows already in code included, on the CPU or a CUDA device.

    Deterministic on the CPU: the same rows give the same codec.
    """
    from fastlane_rag.codecs.residual import SAMPLE_PER_CENTROID, ResidualCodec, centroids_for

    centroids = centroids_for(snapshot.tokens)
    sample = _sample(snapshot, min(snapshot.tokens, SAMPLE_PER_CENTROID * centroids))
    like = newest if isinstance(newest, ResidualCodec) else None
    return ResidualCodec.train(sample, bits, centroids=centroids, like=like, device=device)


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
