"""Segments: immutable files of packed token rows. STORE_FORMAT.md describes every byte.

A segment is a safetensors file with a header of fixed size. It holds the codec's arrays, `offsets` (document r owns the
rows offsets[r]:offsets[r + 1]), the posting lists of the centroids where the codec has centroids, the lexicon of the
documents, their vectors where the codec has a vector map, and `checksums` (the CRC-32 of each 64 KiB before them).
"""

import hashlib
import json
import mmap
import zlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import Codec
from fastlane_rag.errors import IndexFormatError
from fastlane_rag.storage.files import Store
from fastlane_rag.storage.lexicon import ARRAYS as LEXICON_ARRAYS
from fastlane_rag.storage.lexicon import Lexicon
from fastlane_rag.storage.postings import Postings, build_postings
from fastlane_rag.storage.refusals import refusals
from fastlane_rag.storage.tables import SegmentInfo
from fastlane_rag.vectors.documents import DocumentVectors

if TYPE_CHECKING:
    from fastlane_rag.scoring.inputs import Rows
    from fastlane_rag.vectors.map import VectorMap

__all__ = ["Segment", "SegmentWriter"]

FORMAT, VERSION = "fastlane-segment", 1
HEADER_BYTES = 4096
BLOCK_BYTES = 64 * 1024
_LEVELS, _SCALES = "vectors", "vector_scales"
_SAFETENSORS_TYPES = {"<f2": "F16", "<f4": "F32", "|i1": "I8", "|u1": "U8", "<u2": "U16", "<u4": "U32", "<i8": "I64"}
_NUMPY_TYPES = {name: np.dtype(text) for text, name in _SAFETENSORS_TYPES.items()}


class SegmentWriter:
    """Writes one segment in bounded memory: in a `with` block, `append` as often as needed, then `finish`.

    `complete` and `publish` are the two halves of `finish`: what takes long, and what makes the file a segment. Publish
    in a writer's turn, because a sweep in another one deletes a segment that no commit names.

    A block that ends before that removes the unfinished file.

    Attributes:
        codec: encodes the rows.
        vector_map: of the documents' vectors, each to be given to `append_vectors`; None for a segment without.
        lengths: token rows of each document appended so far.

    Raises:
        StorageError: from every method, when writing fails (on a full disk, for example).
        IndexReadOnlyError: the directory cannot be written.
    """

    def __init__(self, store: Store, codec: Codec, dim: int, vector_map: "VectorMap | None" = None) -> None:
        self._store = store
        self.codec = codec
        self.vector_map = vector_map
        self._scales: list[NDArray[np.float32]] = []
        self._dim = dim
        self.lengths: list[int] = []
        self._size, self._digest, self._published = 0, "", False
        with self._refusals():
            self._draft = store.draft()
        self._draft.file.write(b"\0" * HEADER_BYTES)
        # The first array is written into the segment; each other array waits in a temporary file until `finish`.
        names = list(codec.layout(dim))
        self._streams: dict[str, IO[bytes]] = {names[0]: self._draft.file}
        try:
            with self._refusals():
                self._streams |= {name: store.scratch() for name in names[1:]}
                self._vectors = store.scratch()
        except BaseException:
            self._draft.discard()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._published:
            self._draft.discard()
            self._close_streams()

    def append(self, tokens: NDArray[np.floating]) -> None:
        """Add one document's (L, dim) token rows."""
        self.append_encoded(self.codec.encode(tokens), [len(tokens)])

    def append_encoded(self, arrays: Mapping[str, NDArray[np.generic]], lengths: list[int]) -> None:
        """Add documents as the codec encoded them: arrays of sum(lengths) rows."""
        with self._refusals():
            for name, stream in self._streams.items():
                stream.write(np.ascontiguousarray(arrays[name]).data.cast("B"))
        self.lengths += lengths

    def append_vectors(self, vectors: DocumentVectors) -> None:
        """Add the vectors of the next documents."""
        with self._refusals():
            self._vectors.write(np.ascontiguousarray(vectors.levels).data.cast("B"))
        self._scales.append(vectors.scales)

    def finish(self, lexicon: Lexicon) -> SegmentInfo:
        """Complete the file, sync it to disk and give it its final name.

        Args:
            lexicon: the words of the documents.
        """
        self.complete(lexicon)
        return self.publish()

    def complete(self, lexicon: Lexicon) -> None:
        """Write everything and sync it to disk. The file stays a draft.

        Args:
            lexicon: the words of the documents.
        """
        with self._refusals():
            self._complete(lexicon)

    def publish(self) -> SegmentInfo:
        """Give the completed file its final name."""
        with self._refusals():
            name = self._draft.publish()
            self._published = True
            self._close_streams()
        return SegmentInfo(name, len(self.lengths), sum(self.lengths), self._size, self._digest, self.codec.name)

    def _refusals(self) -> AbstractContextManager[None]:
        return refusals(f"cannot write to {self._store}, nothing of this write is stored")

    def _complete(self, lexicon: Lexicon) -> None:
        file = self._draft.file
        offsets = np.zeros(len(self.lengths) + 1, "<i8")
        np.cumsum(self.lengths, out=offsets[1:])
        indexes: dict[str, NDArray[np.generic]] = {"offsets": offsets}
        if self.codec.lists:
            indexes |= build_postings(self._centroids, offsets, self.codec.lists)
        indexes |= lexicon.arrays()
        if self.vector_map is not None:
            indexes[_SCALES] = np.concatenate([np.zeros(0, np.float32), *self._scales]).astype("<f4")
        # Widest items first: then every array is aligned if the first one is.
        indexes = dict(sorted(indexes.items(), key=lambda item: -item[1].itemsize))
        for array in indexes.values():
            file.write(array.data.cast("B"))
        for stream in [*list(self._streams.values())[1:], self._vectors]:
            stream.seek(0)
            while chunk := stream.read(1 << 20):
                file.write(chunk)
        checksums = np.array(list(_block_checksums(self._draft.read_back()[HEADER_BYTES:])), "<u4")
        file.write(checksums.tobytes())
        header = self._header(int(offsets[-1]), indexes, checksums)
        self._size, self._digest = file.tell(), hashlib.sha256(header).hexdigest()
        file.seek(0)
        file.write(header)
        self._draft.sync()

    def _centroids(self, first: int, last: int) -> NDArray[np.uint16]:
        """The centroids of the token rows first:last, as they were written."""
        stream = self._streams["centroids"]
        stream.seek(2 * first)
        return np.frombuffer(stream.read(2 * (last - first)), "<u2")

    def _close_streams(self) -> None:
        for stream in [*list(self._streams.values())[1:], self._vectors]:
            with suppress(OSError):  # closing writes out what waits, unneeded now, and a full disk refuses it
                stream.close()

    def _header(self, tokens: int, indexes: Mapping[str, NDArray[np.generic]], checksums: NDArray[np.uint32]) -> bytes:
        layout = self.codec.layout(self._dim)
        first, *others = ((name, (dtype, (tokens, *shape))) for name, (dtype, shape) in layout.items())
        between = ((name, (array.dtype, array.shape)) for name, array in indexes.items())
        vectors: list[tuple[str, tuple[np.dtype[np.generic], tuple[int, ...]]]] = []
        if self.vector_map is not None:
            vectors = [(_LEVELS, (np.dtype("|i1"), (len(self.lengths), self.vector_map.size)))]
        arrays = dict([first, *between, *others, *vectors, ("checksums", (checksums.dtype, checksums.shape))])
        description: dict[str, Any] = {
            "__metadata__": {
                "format": FORMAT,
                "version": str(VERSION),
                "codec": self.codec.name,
                "dim": str(self._dim),
                "block_bytes": str(BLOCK_BYTES),
                "checksums_crc32": f"{zlib.crc32(checksums.tobytes()):08x}",
                **({} if self.vector_map is None else {"vector_map": self.vector_map.name}),
            }
        }
        position = 0
        for name, (dtype, shape) in arrays.items():
            end = position + dtype.itemsize * int(np.prod(shape))
            kind = _SAFETENSORS_TYPES[dtype.str]
            description[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [position, end]}
            position = end
        text = json.dumps(description, separators=(",", ":")).encode()
        length = HEADER_BYTES - 8
        return length.to_bytes(8, "little") + text.ljust(length, b" ")


class Segment:
    """A segment opened for reading; its arrays are views of the mapped file.

    Attributes:
        info: what the catalogue records about it.
        where: names the file in messages.
        codec: decodes its rows.
        arrays: the codec's arrays, by name.
        offsets: (N + 1,) int64; document r owns the rows offsets[r]:offsets[r + 1].
        postings: which documents have a token near a centroid; None where the codec has no centroids.
        lexicon: the words of the documents; None in a file without words, until they are counted. Files written before
            the lexical lane existed have none.
        has_words: whether the file holds a lexicon.
        vectors: of the documents; None in a file without. Files written before the vector lane existed have none.

    Raises:
        IndexFormatError: the file is missing, of the wrong size, damaged in its header, or newer.
    """

    def __init__(self, store: Store, info: SegmentInfo, codec: Codec, dim: int) -> None:
        self.info = info
        self.where = store.describe(info.name)
        data = store.map(info.name, info.bytes)
        header = data[:HEADER_BYTES].tobytes()
        if hashlib.sha256(header).hexdigest() != info.header:
            _refuse_newer(header, self.where)
            raise IndexFormatError(f"{self.where} is damaged: its header is not the one that was written")
        description = json.loads(header[8:])
        metadata = description.pop("__metadata__")
        if metadata["codec"] != info.codec or int(metadata["dim"]) != dim:
            raise IndexFormatError(
                f"{self.where} holds {metadata['codec']} rows of {metadata['dim']} dimensions, "
                f"the catalogue says {info.codec} and {dim}"
            )
        self._body = data[HEADER_BYTES:]
        self.codec = codec
        self._table_checksum = int(metadata["checksums_crc32"], 16)
        self._checksum_start = description["checksums"]["data_offsets"][0]
        arrays = {name: self._view(entry) for name, entry in description.items()}
        self._checksums = arrays.pop("checksums")
        first = next(iter(codec.layout(dim)))
        if arrays["offsets"].shape != (info.documents + 1,) or len(arrays[first]) != info.tokens:
            raise IndexFormatError(
                f"{self.where} does not hold {info.documents} documents of {info.tokens} tokens, as the catalogue says"
            )
        # Copied, because the array may be unaligned in the file.
        self.offsets: NDArray[np.int64] = arrays.pop("offsets").astype(np.int64)
        self.postings: Postings | None = None
        if codec.lists:
            lists = arrays.pop("posting_offsets").astype(np.int64)
            try:
                if len(lists) != codec.lists + 1:
                    raise ValueError(f"there are {len(lists) - 1} posting lists for {codec.lists} centroids")
                self.postings = Postings(arrays.pop("postings"), lists, info.documents)
            except ValueError as error:
                raise IndexFormatError(f"{self.where} is damaged: {error}") from error
        self.lexicon: Lexicon | None = None
        self.has_words = LEXICON_ARRAYS[0] in arrays
        if self.has_words:
            try:
                self.lexicon = Lexicon({name: arrays.pop(name) for name in LEXICON_ARRAYS}, info.documents)
            except (ValueError, KeyError) as error:
                raise IndexFormatError(f"{self.where} is damaged: {error}") from error
        self.vectors: DocumentVectors | None = None
        if "vector_map" in metadata:
            levels, scales = arrays.pop(_LEVELS), arrays.pop(_SCALES)
            if len(levels) != info.documents or scales.shape != (info.documents,):
                raise IndexFormatError(f"{self.where} is damaged: it has no vector for each of its documents")
            self.vectors = DocumentVectors(
                levels.astype(np.int8, copy=False), scales.astype(np.float32), metadata["vector_map"]
            )
        self.arrays = arrays

    def __len__(self) -> int:
        return self.info.documents

    def give_back(self) -> None:
        """Drop the pages of the file that were read from this process's memory. They are read again when touched."""
        mapped: Any = self._body
        while isinstance(mapped, np.ndarray):
            mapped = mapped.base
        if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)

    def rows(self, first: int, last: int) -> NDArray[np.floating]:
        """The (T, dim) token rows first:last, float16 or float32."""
        return self.codec.decode({name: array[first:last] for name, array in self.arrays.items()})

    def take(self, positions: NDArray[np.int64]) -> NDArray[np.floating]:
        """The token rows at these positions, float16 or float32."""
        return self.codec.decode({name: array[positions] for name, array in self.arrays.items()})

    @cached_property
    def packed(self) -> "Rows":
        """All token rows as the scoring core takes them."""
        return self.codec.packed(self.arrays)

    def problems(self) -> Iterator[str]:
        """Read the whole file and describe each damage found."""
        if zlib.crc32(self._checksums.tobytes()) != self._table_checksum:
            yield f"{self.where} is damaged: its table of checksums is not the one that was written"
            return
        found = np.fromiter(_block_checksums(self._body[: self._checksum_start]), np.uint32)
        bad = np.flatnonzero(found != self._checksums)
        if len(bad):
            start = HEADER_BYTES + int(bad[0]) * BLOCK_BYTES
            yield f"{self.where} is damaged: {len(bad)} blocks of 64 KiB, the first at byte {start}"
        elif self.offsets[0] != 0 or self.offsets[-1] != self.info.tokens or (np.diff(self.offsets) < 1).any():
            yield f"{self.where} is inconsistent: its offsets do not divide {self.info.tokens} tokens"
        elif self.postings is not None and not self.postings.agree(self.arrays["centroids"], self.offsets):
            yield f"{self.where} is inconsistent: its postings are not those of its centroids"

    def check(self) -> None:
        """Read the whole file.

        Raises:
            IndexFormatError: it is damaged.
        """
        for problem in self.problems():
            raise IndexFormatError(problem)

    def _view(self, entry: Mapping[str, Any]) -> NDArray[np.generic]:
        first, last = entry["data_offsets"]
        return self._body[first:last].view(_NUMPY_TYPES[entry["dtype"]]).reshape(entry["shape"])


def _block_checksums(data: NDArray[np.uint8]) -> Iterator[int]:
    for first in range(0, len(data), BLOCK_BYTES):
        yield zlib.crc32(data[first : first + BLOCK_BYTES].data)


def _refuse_newer(header: bytes, where: str) -> None:
    """Raise IndexFormatError for a readable header of a later version, which must not be reported as damage."""
    try:
        metadata = json.loads(header[8:])["__metadata__"]
        newer = metadata["format"] == FORMAT and int(metadata["version"]) > VERSION
    except (ValueError, KeyError, TypeError):
        return
    if newer:
        raise IndexFormatError(
            f"{where} has format version {metadata['version']}, this version of fastlane-rag reads {VERSION}; "
            "upgrade fastlane-rag"
        )
