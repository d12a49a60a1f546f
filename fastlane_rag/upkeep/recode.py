"""When to train a codec, and which segments to bring into it.

Documents are first stored in half precision. Once there are enough tokens, a codec is trained, and the segments are
rewritten in code. When the index has grown, a new codec with more centroids is trained, and every segment is rewritten
in it: searching one codec takes half the time of searching two.
docs/tuning.md says what is known of the constants.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import Codec, HalfCodec
from fastlane_rag.storage.records import Reader
from fastlane_rag.storage.snapshot import Part, Snapshot
from fastlane_rag.storage.tables import PENDING
from fastlane_rag.storage.transactions import Storage, View
from fastlane_rag.upkeep.memory import give_back
from fastlane_rag.upkeep.pace import Pace
from fastlane_rag.upkeep.vectors import fit_map

__all__ = ["newest_codec", "to_recode", "train_codec", "training_due"]

# Train the first codec at this many tokens in segments. Exhaustive search over fewer takes a few milliseconds.
TRAIN_TOKENS = 1 << 17
# Train a new codec, with more centroids, when the index has grown by this factor since the last training.
GROWTH = 8


def newest_codec(storage: Storage, reader: Reader) -> Codec:
    """The codec that rows are written in: the one trained last, or half precision."""
    names = list(reader.codecs())
    return storage.codec(reader, names[-1]) if names and storage.bits is not None else HalfCodec()


def training_due(storage: Storage, view: View, parts: Iterable[Part]) -> bool:
    """Whether to train a codec: the first one on what these parts hold, another one on a grown index."""
    if storage.bits is None:
        return False
    trained = list(view.reader.codecs().values())
    if not trained:
        return sum(part.live_tokens for part in parts) >= TRAIN_TOKENS
    return view.snapshot.tokens > GROWTH * trained[-1]


def to_recode(storage: Storage, reader: Reader, parts: Iterable[Part]) -> Iterator[list[int]]:
    """The segments to bring into the newest codec: all in half precision at once, those in older codecs one by one."""
    names = list(reader.codecs())
    if storage.bits is None or not names:
        return
    parts = [part for part in parts if part.segment != PENDING]
    plain = [part.segment for part in parts if part.codec == HalfCodec.name]
    if plain:
        yield plain
    yield from ([part.segment] for part in parts if part.codec not in (HalfCodec.name, names[-1]))


def train_codec(storage: Storage, pace: Pace) -> bool:
    """Train a codec on a sample of all live rows, rows already in code included, and record it as the newest.

    The map of documents' vectors is fitted with it.

    Deterministic on the CPU: the same rows give the same codec. Returns whether it was recorded: not where another one
    was meanwhile, or the index was replaced.
    """
    with storage.view() as view:
        snapshot, bits = view.snapshot, storage.bits
        codecs, segments = view.reader.codecs(), view.reader.segments()
        newest = newest_codec(storage, view.reader)
    if bits is None or not snapshot.tokens:
        return False
    give_back()
    codec = _trained(snapshot, storage.dim, bits, newest, storage.device, pace)
    give_back()
    vector_map = fit_map(snapshot)
    give_back()
    with pace.turn(storage), storage.changing:
        with storage.view() as view:
            gone = segments and not segments.keys() & view.reader.segments().keys()
            if gone or view.reader.codecs() != codecs:
                return False
        with storage.change() as change:
            change.add_codec(codec, snapshot.tokens)
            change.add_map(codec, vector_map)
    return True


def _trained(snapshot: Snapshot, dim: int, bits: int, newest: Codec, device: str | None, pace: Pace) -> Codec:
    from fastlane_rag.codecs.residual import SAMPLE_PER_CENTROID, ResidualCodec, centroids_for

    centroids = centroids_for(snapshot.tokens)
    count = min(snapshot.tokens, SAMPLE_PER_CENTROID * centroids)
    like = newest if isinstance(newest, ResidualCodec) else None
    # The sample has no name here, so that the training can free it.
    return ResidualCodec.train(
        _sample(snapshot, dim, count), bits, centroids=centroids, like=like, device=device, between=pace
    )


def _sample(snapshot: Snapshot, dim: int, count: int) -> NDArray[np.float16]:
    """(count, dim) live token rows drawn at random, each at most once."""
    live = snapshot.live_numbers
    ends = np.cumsum(snapshot.lengths[live])
    drawn = np.sort(np.random.default_rng(0).choice(int(ends[-1]), count, replace=False))
    owner = np.searchsorted(ends, drawn, side="right")
    within = drawn - (ends - snapshot.lengths[live])[owner]
    rows, filled = np.empty((count, dim), np.float16), 0
    for part, here, documents in snapshot.by_part(live[owner]):
        some = part.source.take(part.source.offsets[documents] + within[here])
        rows[filled : filled + len(some)] = some
        filled += len(some)
        part.give_back()
    return rows
