"""Building an index beside the place it is for, so that a failure or a crash leaves what is there as it is."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from fastlane_rag.errors import FastLaneError, IndexFormatError, IndexNotFoundError, IndexReplacedError
from fastlane_rag.storage.creation import check_free
from fastlane_rag.storage.folder import Folder, sync_directory
from fastlane_rag.storage.lock import WriterLock
from fastlane_rag.storage.refusals import refusals
from fastlane_rag.storage.transactions import Storage
from fastlane_rag.upkeep.copy import copy_live

__all__ = ["built_beside"]

# A younger directory may belong to a process that has not locked it yet.
_LEFT_BEHIND_SECONDS = 60.0


@contextmanager
def built_beside(
    path: Path, meta: Mapping[str, str | int], filter_keys: tuple[str, ...], *, overwrite: bool, timeout: float
) -> Iterator[Storage]:
    """An empty index in a directory beside `path`. It takes its place at `path` when the block ends without an error.

    A new index appears in one step, by renaming. An index that is replaced is replaced in one transaction: its readers
    go on with the old documents, and then see the new ones. What blocks of killed processes left is removed.

    Args:
        path: a new or empty directory, or an index.
        meta: as for `Storage.create`.
        filter_keys: as for `Storage.create`.
        overwrite: replace an index at `path`.
        timeout: seconds to wait for other writers of that index.

    Raises:
        IndexExistsError: there is an index and `overwrite` is false, or there are files that are not the index's.
        IndexLockedError: another writer held the index to replace.
        IndexReadOnlyError: the directory cannot be created or written.
        StorageError: the disk is full, or failed.
    """
    check_free(path, overwrite=overwrite)
    _remove_leftovers(path)
    place, process = _place_beside(path), os.getpid()
    try:
        storage = Storage.create(place, meta, filter_keys, overwrite=False, timeout=timeout)
        try:
            with storage.turn():  # the lock says that somebody is at work here
                yield storage
                if process != os.getpid():
                    raise IndexReplacedError(
                        f"a process that was forked in a build block cannot end it: the index {path} is built by "
                        f"process {process}. End the child by os._exit, as multiprocessing does"
                    )
                check_free(path, overwrite=overwrite)
                target = _to_replace(path, storage, overwrite=overwrite, timeout=timeout)
                if target is not None:
                    try:
                        copy_live(storage, target, str(meta["codec"]))
                    finally:
                        target.close()
        finally:
            storage.close()
        if target is None and not _renamed(place, path):
            _copied(place, path, storage, timeout)
    finally:
        if process == os.getpid():  # a forked child that leaves the block leaves its parent's work
            shutil.rmtree(place, ignore_errors=True)


def _to_replace(path: Path, built: Storage, *, overwrite: bool, timeout: float) -> Storage | None:
    """The index at `path`, which gets the documents; None where there is none."""
    try:
        return Storage.open(path, read_only=False, timeout=timeout)
    except IndexNotFoundError:
        return None
    except IndexFormatError:  # damaged: nothing in it can be used
        return Storage.create(path, built.meta, built.filter_keys, overwrite=overwrite, timeout=timeout)


def _renamed(place: Path, path: Path) -> bool:
    """Give the built index its name; false where the file system does not let us."""
    try:
        with suppress(FileNotFoundError):
            path.rmdir()
        place.rename(path)
    except OSError:  # a mounted volume, another file system, a foreign `.DS_Store`
        return False
    with refusals(f"cannot create an index in {path}"):
        sync_directory(path.parent)
    return True


def _copied(place: Path, path: Path, built: Storage, timeout: float) -> None:
    source = Storage.open(place, read_only=False)
    try:
        target = Storage.create(path, built.meta, source.filter_keys, overwrite=False, timeout=timeout)
        try:
            copy_live(source, target, built.meta["codec"])
        finally:
            target.close()
    finally:
        source.close()


def _prefix(path: Path) -> str:
    return f".{path.name}.building-"


def _place_beside(path: Path) -> Path:
    """A new directory beside `path`, or among the temporary ones where there may be none."""
    place = path.with_name(_prefix(path) + uuid.uuid4().hex[:8])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir()
    except OSError:
        with refusals(f"cannot create an index in {path}"):
            return Path(tempfile.mkdtemp(prefix="fastlane-"))
    return place


def _remove_leftovers(path: Path) -> None:
    with suppress(OSError):
        for place in path.parent.iterdir():
            if not place.name.startswith(_prefix(path)) or time.time() - place.stat().st_mtime < _LEFT_BEHIND_SECONDS:
                continue
            folder = Folder(place)
            try:
                with suppress(FastLaneError), WriterLock(folder, 0.0).turn(lambda: None):
                    shutil.rmtree(place, ignore_errors=True)
            finally:
                folder.close()
