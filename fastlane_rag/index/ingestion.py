"""Add a stream of documents in bounded memory, passing over those that are stored already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.encoding import MANY
from fastlane_rag.index.progress import documents_bar
from fastlane_rag.lengths import check_text, kind
from fastlane_rag.progress import watched
from fastlane_rag.storage.metadata import metadata_json
from fastlane_rag.storage.tables import Entry
from fastlane_rag.types import Document, Ingested

__all__ = ["CHUNK", "CHUNK_CHARACTERS", "checked_chunks", "ingest"]

# Documents a write: whole encoder batches of texts of like length, and little lost by an interruption.
CHUNK = 256
# Characters a write, for streams of whole books.
CHUNK_CHARACTERS = 4 << 20


def ingest(
    documents: Iterable[Document],
    get: Callable[[list[str]], list[Document]],
    store: Callable[[list[Entry]], int],
    tidy: Callable[[int], None],
    *,
    total: int | None = None,
    show_progress: bool | None = None,
) -> Ingested:
    """Add the documents of a stream, as `FastLaneIndex.ingest` says.

    Args:
        documents: the stream.
        get: returns the documents that are stored under these ids.
        store: stores documents, and returns how many token rows they brought.
        tidy: called after each write, with the token rows that the stream has brought so far.
        total: how many documents there are, if known.
        show_progress: a progress bar; None shows it for long streams on a terminal.
    """
    if show_progress is None:
        show_progress = watched() and (total is None or total >= MANY)
    result, tokens = Ingested(0, 0, 0, 0), 0
    with documents_bar("Indexing", total, visible=show_progress) as done:
        for chunk in checked_chunks(documents):
            # Of an id given twice the last document counts, at the place of the first.
            latest = list({document.id: document for document in chunk}.values())
            stored = {document.id: document for document in get([one.id for one in latest])}
            fresh = [one for one in latest if not _same(one, stored.get(one.id))]
            if fresh:
                tokens += store([(one.id, one.text, metadata_json(one.metadata)) for one in fresh])
                tidy(tokens)
            added = sum(one.id not in stored for one in fresh)
            result += Ingested(len(chunk), added, len(fresh) - added, len(chunk) - len(fresh))
            done(len(chunk))
    return result


def checked_chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """The documents of a stream, a write each.

    Raises:
        InvalidInputError: an item is no document, or holds what cannot be stored; the chunks before it were given.
    """
    return _chunks(_checked(documents))


def _checked(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents, each checked as it comes, so that errors can say which one it is."""
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        raise InvalidInputError(f"documents must be a stream of fastlane_rag.types.Document, not {kind(documents)}")
    for number, document in enumerate(documents, 1):
        if not isinstance(document, Document):
            raise InvalidInputError(
                f"document {number} of the stream must be a fastlane_rag.types.Document, not {kind(document)}"
            )
        id_ = check_text(f"the id of document {number}", document.id)
        text = check_text(f"the text of document {number} (id {id_!r})", document.text)
        metadata_json(document.metadata, f"the metadata of document {number} (id {id_!r})")
        yield Document(id_, text, document.metadata)


def _chunks(documents: Iterable[Document]) -> Iterator[list[Document]]:
    chunk: list[Document] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document.text)
        if len(chunk) == CHUNK or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _same(document: Document, stored: Document | None) -> bool:
    # As JSON, because True equals 1 and is another value.
    return (
        stored is not None
        and document.text == stored.text
        and metadata_json(document.metadata) == metadata_json(stored.metadata)
    )
