"""The marker file: how many commits the catalogue had, written down a second time.

SQLite's write-ahead log ends at its first damaged frame, and every commit behind it vanishes without a word.
The marker, written after each commit, makes that loss visible: a catalogue may be ahead of it (a crash came
between the two), never behind. It needs no fsync for that.
"""

import os
import zlib
from pathlib import Path

__all__ = ["read_marker", "write_marker"]


def write_marker(path: Path, commits: int) -> None:
    """Note that the catalogue has this many commits."""
    number = f"{commits:020d}".encode()
    # Without O_BINARY, Windows would lengthen the line feed.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
    try:
        # One write within one disk sector: it is all there or not there.
        os.write(fd, number + f" {zlib.crc32(number):08x}\n".encode())
    finally:
        os.close(fd)


def read_marker(path: Path) -> int | None:
    """The number of commits noted; None where there is no marker.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    number, _, checksum = text.removesuffix(b"\n").partition(b" ")
    if len(text) != 30 or checksum != f"{zlib.crc32(number):08x}".encode():
        raise ValueError(f"{path} is damaged: it is not a count of commits with its checksum")
    return int(number)
