"""An index encoded again by another model, with the ids, texts and metadata it has."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastlane_rag.errors import IndexFormatError, IndexNotFoundError
from fastlane_rag.index.encoding import open_model
from fastlane_rag.index.facade import FastLaneIndex
from fastlane_rag.storage.folder import index_path
from fastlane_rag.storage.transactions import Storage
from fastlane_rag.types import Ingested
from fastlane_rag.upkeep.copy import copy_live

__all__ = ["reindex"]


def reindex(
    path: str | os.PathLike[str],
    *,
    model: Any = None,
    batch_size: int | None = None,
    show_progress: bool | None = None,
) -> Ingested:
    """Encode every document of an index again, with another model.

    The new index is built beside the old one, in a hidden folder, and takes its place in one transaction: until then
    readers see the old one, and nobody else can write. An interrupted call leaves the folder, and the next one with the
    same model goes on there. Codec, filter keys and document budget stay.

    Args:
        path: the index.
        model: as `FastLaneIndex.create` takes it; None is the bundled model.
        batch_size: texts encoded at once; None lets the model choose.
        show_progress: a progress bar on stderr; None shows it for large indexes on a terminal.

    Returns:
        How many documents there are, and how many were encoded in this call.

    Raises:
        IndexNotFoundError: there is no index at `path`.
        IndexLockedError: another writer holds the index.
        StorageError: the disk is full, or failed: both indexes are on it for a while.
    """
    folder = index_path(path)
    storage = Storage.open(folder, read_only=False)
    try:
        with storage.turn():
            return _reindexed(storage, folder, model, batch_size, show_progress)
    finally:
        storage.close()


def _reindexed(
    storage: Storage, folder: Path, model: Any, batch_size: int | None, show_progress: bool | None
) -> Ingested:
    opened = open_model(model, storage.document_budget, storage.max_document_tokens)
    draft = folder.with_name(f".{folder.name}.reindex-{opened.fingerprint[:12]}")
    with storage.view() as view:
        total = view.snapshot.documents
        if opened.fingerprint == storage.meta["fingerprint"]:
            return Ingested(total, 0, 0, total)
        built = _draft(draft, opened, storage)
        with ExitStack() as until_here:
            until_here.callback(built.close)
            kept = set(view.reader.ids(None))
            built.delete([id_ for id_ in built.ids() if id_ not in kept])
            done = built.ingest(
                view.reader.documents(), batch_size=batch_size, total=total, show_progress=show_progress
            )
            until_here.pop_all()
    with built:
        copy_live(built._storage, storage, storage.meta["codec"])
    shutil.rmtree(draft, ignore_errors=True)
    return done


def _draft(path: Path, model: Any, like: Storage) -> FastLaneIndex:
    """The index to build: what an interrupted call left, or an empty one."""
    try:
        return FastLaneIndex.open(path, model=model)
    except (IndexNotFoundError, IndexFormatError):
        shutil.rmtree(path, ignore_errors=True)
        codec = str(like.meta["codec"])
        return FastLaneIndex.create(path, model=model, filter_keys=like.filter_keys, codec=codec)
