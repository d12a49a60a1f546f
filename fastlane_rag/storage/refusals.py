"""What the operating system refuses, in our words: which file, why, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastlane_rag.errors import FastLaneError, IndexReadOnlyError, StorageError

__all__ = ["refusal", "refusals"]

_RIGHTS = {
    "EROFS": "the file system is read-only. An index there opens with read_only=True; a new one belongs elsewhere",
    "EACCES": "this user may not. Change the rights, or open the index with read_only=True",
    "EPERM": "this user may not. Change the rights, or open the index with read_only=True",
}
_OTHERS = {
    "ENOSPC": "the disk is full. Free space there",
    "EDQUOT": "this user's share of the disk is full. Free space there",
    "EFBIG": "the file system takes no file of this size. Choose another one",
    "ENAMETOOLONG": "the path is too long for the file system. Choose a shorter one",
    "ENOTDIR": "a part of the path is a file. Choose another one",
    "ENOENT": "a part of the path is missing, or a link that leads nowhere. Make it, or choose another one",
    "EEXIST": "there is a file or a link that leads nowhere. Remove it, or choose another path",
    "ELOOP": "a link in the path leads back to itself. Choose another path",
    "EMFILE": "this process has too many files open. Close some, or raise its limit (ulimit -n)",
    "ENFILE": "this machine has too many files open. Close some, or raise its limit",
    "ENOLCK": "the file system gives no locks. Put the index on a local disk",
    "ENOSYS": "the file system has no such operation (locks, say). Put the index on a local disk",
    "ENOTSUP": "the file system has no such operation (locks, say). Put the index on a local disk",
    "EOPNOTSUPP": "the file system has no such operation (locks, say). Put the index on a local disk",
    "EIO": "the disk or the network failed. Check it, then verify the index",
    "ESTALE": "the network file system lost the file. Open the index again",
}


def refusal(doing: str, error: OSError) -> FastLaneError:
    """The error to raise instead of one of the operating system.

    Args:
        doing: what failed, with the path: "cannot write to /data/docs".
        error: what it said.
    """
    name = errno.errorcode.get(error.errno or 0, "")
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    at = f" {named}:" if named not in doing else ""
    said = f"{doing}:{at} {error.strerror or error}"
    if name in _RIGHTS:
        return IndexReadOnlyError(f"{said}; {_RIGHTS[name]}")
    return StorageError(f"{said}; {_OTHERS[name]}" if name in _OTHERS else said)


@contextmanager
def refusals(doing: str) -> Iterator[None]:
    """Raise errors of the operating system as `refusal` gives them; ours pass as they are."""
    try:
        yield
    except FastLaneError:
        raise
    except OSError as error:
        raise refusal(doing, error) from error
