"""Creating an index directory, or emptying an existing one."""

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from fastlane_rag.errors import IndexExistsError, IndexFormatError, IndexNotFoundError
from fastlane_rag.storage.catalogue import Catalogue
from fastlane_rag.storage.files import DirectoryStore
from fastlane_rag.storage.folder import Folder, sync_directory
from fastlane_rag.storage.layout import CATALOGUE, MARKER, OURS, SEGMENTS, SYSTEM
from fastlane_rag.storage.lock import WriterLock
from fastlane_rag.storage.marker import write_marker
from fastlane_rag.storage.records import Reader, Writer
from fastlane_rag.storage.refusals import refusals

__all__ = ["check_free", "create_directory", "holds_index", "open_segments"]

_EXISTS = "{path} holds an index already; open it, or pass overwrite=True to replace it"


def create_directory(
    path: Path, meta: Mapping[str, str | int], filter_keys: tuple[str, ...], *, overwrite: bool, timeout: float
) -> tuple[Catalogue, DirectoryStore, WriterLock, Folder]:
    """Create an empty index in a new or empty directory, or in place of the index there.

    Running reads of an overwritten index finish on the old state; later reads see it empty.

    Raises:
        IndexExistsError: there is an index and `overwrite` is false, or there are files that are not the index's.
        IndexLockedError: another writer holds the index.
        IndexReadOnlyError: the directory cannot be created or written.
    """
    with refusals(f"cannot create an index in {path}"):
        _check_place(path)
        (path / SEGMENTS).mkdir(parents=True, exist_ok=True)
        return _create_in(path, meta, filter_keys, overwrite=overwrite, timeout=timeout)


def _create_in(
    path: Path, meta: Mapping[str, str | int], filter_keys: tuple[str, ...], *, overwrite: bool, timeout: float
) -> tuple[Catalogue, DirectoryStore, WriterLock, Folder]:
    folder = Folder(path)
    lock = WriterLock(folder, timeout)
    try:
        store = DirectoryStore(open_segments(folder))
        with lock.turn(lambda: None):
            catalogue = _replaced(path, meta, filter_keys, overwrite=overwrite)
            if catalogue is None:
                catalogue = Catalogue.create(path / CATALOGUE, meta, filter_keys)
            with catalogue.reading() as connection:
                write_marker(folder, Reader(connection, catalogue.where).commits())
            store.sweep(())
            folder.sync()
            sync_directory(path.parent)
    except BaseException:
        folder.close()
        raise
    return catalogue, store, lock, folder


def open_segments(folder: Folder) -> Folder:
    """Open the directory of the segments; create it where it is missing, if possible.

    Raises:
        IndexFormatError: it is a link, or not a directory.
    """
    path = folder.path / SEGMENTS
    if path.is_symlink():
        raise IndexFormatError(f"{path} is a link; an index holds its segments itself")
    # git and object stores drop empty directories, and an index of few documents has no segments.
    with suppress(OSError):
        path.mkdir()
    try:
        return Folder(path, missing_ok=True)
    except NotADirectoryError as error:
        raise IndexFormatError(f"{path} is not a directory; it should hold the segments of the index") from error


def holds_index(path: Path) -> bool:
    """Whether there is an index at a path, which may be damaged; not yet where another process is about to make it."""
    with suppress(OSError):
        return (path / CATALOGUE).stat().st_size > 0
    return False


def check_free(path: Path, *, overwrite: bool) -> None:
    """Check that an index may be created at a path, as far as that can be told before.

    Raises:
        IndexExistsError: there is an index and `overwrite` is false, or there are files that are not the index's.
        IndexReadOnlyError: the directory cannot be created or written.
    """
    with refusals(f"cannot create an index in {path}"):
        _check_place(path)
        if not overwrite and (path / CATALOGUE).exists():
            raise IndexExistsError(_EXISTS.format(path=path))
        there = next((one for one in (path, *path.parents) if one.exists()), path)
        if not os.access(there, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def _check_place(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise IndexExistsError(f"{path} is a file; an index is a directory")
    strangers = sorted({entry.name for entry in path.iterdir()} - OURS - SYSTEM) if path.exists() else []
    if strangers:
        raise IndexExistsError(
            f"{path} holds other files ({', '.join(strangers[:3])}); choose a new or empty directory"
        )


def _replaced(
    path: Path, meta: Mapping[str, str | int], filter_keys: tuple[str, ...], *, overwrite: bool
) -> Catalogue | None:
    """The existing catalogue, emptied in one transaction; None where a new one must be created."""
    try:
        catalogue = Catalogue.open(path / CATALOGUE)
    except IndexNotFoundError:
        return None
    except IndexFormatError:
        if not overwrite:
            raise
        # It is damaged or of another version, and cannot be reused.
        for name in (MARKER, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", CATALOGUE):
            (path / name).unlink(missing_ok=True)
        return None
    if not overwrite:
        catalogue.close()
        raise IndexExistsError(_EXISTS.format(path=path))
    with catalogue.writing() as connection:
        # The directory stays the same one: who has it open goes on.
        same = {"id": catalogue.meta(connection).get("id", meta["id"])}
        Writer(connection, catalogue.where).reset({**meta, **same}, filter_keys)
    return catalogue
