"""Making an index directory, or emptying the one that is there."""

from pathlib import Path

from fastlane_rag.errors import IndexExistsError, IndexFormatError, IndexNotFoundError, IndexReadOnlyError
from fastlane_rag.storage.catalogue import Catalogue
from fastlane_rag.storage.files import DirectoryStore, sync_directory
from fastlane_rag.storage.layout import CATALOGUE, LOCK, MARKER, OURS, SEGMENTS
from fastlane_rag.storage.lock import WriterLock
from fastlane_rag.storage.marker import write_marker
from fastlane_rag.storage.records import Reader, Writer

__all__ = ["create_directory"]


def create_directory(
    path: Path, meta: dict[str, str | int], filter_keys: tuple[str, ...], *, overwrite: bool
) -> tuple[Catalogue, DirectoryStore, WriterLock]:
    """Make an empty index in a new or empty directory, or in place of the index there.

    Readers of an index that is overwritten go on, and then see it empty.

    Raises:
        IndexExistsError: there is an index and `overwrite` is false, or there are files of others.
        IndexLockedError: another writer holds the index.
        IndexReadOnlyError: the directory cannot be made or written.
    """
    _check_free(path)
    try:
        (path / SEGMENTS).mkdir(parents=True, exist_ok=True)
    except PermissionError as error:
        raise IndexReadOnlyError(f"cannot create an index in {path}: {error}") from error
    lock = WriterLock(path / LOCK)
    store = DirectoryStore(path / SEGMENTS)
    lock.acquire()
    try:
        catalogue = _replaced(path, meta, filter_keys, overwrite=overwrite)
        if catalogue is None:
            catalogue = Catalogue.create(path / CATALOGUE, meta, filter_keys)
        with catalogue.reading() as connection:
            write_marker(path / MARKER, Reader(connection, catalogue.where).commits())
        store.sweep(())
        sync_directory(path)
        sync_directory(path.parent)
    except BaseException:
        lock.release()
        raise
    return catalogue, store, lock


def _check_free(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise IndexExistsError(f"{path} is a file; an index is a directory")
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in OURS) if path.exists() else []
    if strangers:
        raise IndexExistsError(
            f"{path} holds other files ({', '.join(strangers[:3])}); choose a new or empty directory"
        )


def _replaced(
    path: Path, meta: dict[str, str | int], filter_keys: tuple[str, ...], *, overwrite: bool
) -> Catalogue | None:
    """The catalogue that is there, emptied in one transaction; None where a new one must be made."""
    try:
        catalogue = Catalogue.open(path / CATALOGUE)
    except IndexNotFoundError:
        return None
    except IndexFormatError:
        if not overwrite:
            raise
        # Damaged or newer: nothing in it can be used.
        for name in (MARKER, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", CATALOGUE):
            (path / name).unlink(missing_ok=True)
        return None
    if not overwrite:
        catalogue.close()
        raise IndexExistsError(f"{path} holds an index already; open it, or pass overwrite=True to replace it")
    with catalogue.writing() as connection:
        Writer(connection, catalogue.where).reset(meta, filter_keys)
    return catalogue
