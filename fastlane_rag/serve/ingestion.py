"""Documents from a stream of lines, some at a time: what is not stored yet stays with the sender."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

from fastlane_rag.data import document_of, parse_passage
from fastlane_rag.errors import DataError
from fastlane_rag.index.ingestion import CHUNK, CHUNK_CHARACTERS
from fastlane_rag.serve.problems import Refused
from fastlane_rag.serve.service import Served
from fastlane_rag.types import IMAGE_KEY, Document, Ingested

__all__ = ["Ingestion"]


class Ingestion:
    """The storing of one stream.

    Args:
        served: where to.

    Attributes:
        done: the counts of what is stored so far.
    """

    def __init__(self, served: Served) -> None:
        self._served = served
        self.done = Ingested(0, 0, 0, 0)
        self._read = 0  # lines that are stored

    async def take(self, parts: AsyncIterator[bytes]) -> None:
        """Store the documents of a stream, of which no more than one write is in memory.

        Args:
            parts: the bytes as they come.

        Raises:
            DataError: a line is bad; the message has its number.
            Refused: a line is longer than a body may be, the client pauses, or the server is busy.
            FastLaneError: a write failed.
        """
        lines: list[bytes] = []
        size = 0
        async for line in _lines(parts, self._served.service.settings.most_body_bytes):
            lines.append(line)
            size += len(line)
            if len(lines) == CHUNK or size >= CHUNK_CHARACTERS:
                await self._store(lines)
                lines, size = [], 0
        if lines:
            await self._store(lines)

    async def _store(self, lines: Sequence[bytes]) -> None:
        self.done += await self._served.service.workers.write.run(partial(self._written, lines))
        self._read += len(lines)

    def _written(self, lines: Sequence[bytes]) -> Ingested:
        return self._served.index.ingest(_documents(self._served, lines, self._read + 1), show_progress=False)


def _documents(served: Served, lines: Sequence[bytes], first: int) -> list[Document]:
    found = []
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        try:
            document = document_of(parse_passage(line, empty_id=True))
            served.check_image(document.metadata.get(IMAGE_KEY), f"the document {document.id!r}")
            found.append(document)
        except ValueError as error:
            raise DataError(f"line {number}: {error}; lines {first} and later are not stored") from error
    return found


async def _lines(parts: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    """Each line of a stream, of which no more than a line is kept."""
    rest = bytearray()
    async for part in parts:
        first, *others = part.split(b"\n")
        rest += first
        for other in others:
            yield bytes(rest)
            rest = bytearray(other)
        if len(rest) > most:
            raise Refused(413, "Too long", f"a line is longer than {most} bytes", {"Connection": "close"})
    if rest:
        yield bytes(rest)
