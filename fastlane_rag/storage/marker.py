"""The marker file: a second record of how many commits the catalogue has.

SQLite's write-ahead log ends at its first damaged frame, and all later commits are lost without an error. The marker
is written after each commit and makes that loss visible. The catalogue may be ahead of the marker, after a crash
between the two writes, but never behind. This needs no fsync.
"""

import os
import zlib

from fastlane_rag.storage.folder import Folder
from fastlane_rag.storage.layout import MARKER
from fastlane_rag.storage.refusals import refusal

__all__ = ["read_marker", "write_marker"]

_BYTES = 30


def write_marker(folder: Folder, commits: int) -> None:
    """Record that the catalogue has this many commits."""
    number = f"{commits:020d}".encode()
    fd = folder.open(MARKER, os.O_WRONLY | os.O_CREAT)
    try:
        # One write within one disk sector, so that it is never written in part.
        os.write(fd, number + f" {zlib.crc32(number):08x}\n".encode())
    finally:
        os.close(fd)


def read_marker(folder: Folder) -> int | None:
    """The number of commits recorded; None where there is no marker.

    Raises:
        ValueError: the file is damaged.
        IndexFormatError: it is not a regular file, or too large.
    """
    try:
        text = folder.read(MARKER, 4096)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refusal(f"cannot read {folder.path / MARKER}", error) from error
    number, _, checksum = text.removesuffix(b"\n").partition(b" ")
    if len(text) != _BYTES or checksum != f"{zlib.crc32(number):08x}".encode():
        raise ValueError(f"{folder.path / MARKER} is damaged: it is not a count of commits with its checksum")
    return int(number)
