"""The graphs of encoders as files: written once, read by every process.

A file's name ends in the SHA-256 of its content, so one that was cut short or changed is never taken, and none needs to
be synced to the disk.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

__all__ = ["DamagedFileError", "cached"]

# Graphs kept in a folder. Each takes up to 90 MB for a model of 22 million weights.
_KEPT = 8


class DamagedFileError(Exception):
    """A cached file is not what was written. It has been removed, where that was possible."""


def cached(folder: Path, name: str, make: Callable[[], bytes]) -> bytes:
    """The content of a file in a folder, made and written when it is not there.

    The file appears whole or not at all, also when several processes make it at once. Of the files in the folder the
    `_KEPT` used last stay.

    Args:
        folder: made when missing.
        name: what the file is called, but for its checksum and ending.
        make: gives the content.

    Raises:
        DamagedFileError: the file is not what was written.
        OSError: the folder or the file cannot be written.
    """
    for path in sorted(folder.glob(f"{name}.*.onnx")):
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another process tidied up
            continue
        if hashlib.sha256(content).hexdigest() != path.name.removeprefix(f"{name}.").removesuffix(".onnx"):
            _remove(path)
            raise DamagedFileError(f"{path} is damaged or half written")
        _touch(path)
        return content
    content = make()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / f"{name}.{hashlib.sha256(content).hexdigest()}.onnx", content)
    _tidy(folder)
    return content


def _write(path: Path, content: bytes) -> None:
    handle, draft = tempfile.mkstemp(prefix=".onnx-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def _tidy(folder: Path) -> None:
    """Remove all but the files used last."""

    def used(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    for path in sorted(folder.glob("*.onnx"), key=used)[:-_KEPT]:
        _remove(path)


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        return  # a folder of somebody else's, which may be read: the file only looks older than it is


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # said by who asks: the file is named there
