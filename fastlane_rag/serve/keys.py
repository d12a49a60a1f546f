"""API keys: who may read and who may write. Only their SHA-256 is kept, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from pydantic import BaseModel, ConfigDict

from fastlane_rag.errors import DataError

__all__ = ["ApiKey", "Scope", "holder", "read_keys"]

Scope = Literal["read", "write"]
_SCOPES = ("read", "write")
_HASHED = re.compile(r"sha256:([0-9a-f]{64})")
_SHORTEST = 16


class ApiKey(BaseModel):
    """One key.

    Attributes:
        name: who holds it, for logs.
        scopes: "read" searches and gets documents; "write" adds, changes and deletes them.
        digest: SHA-256 of the key, in hexadecimal.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    scopes: frozenset[Scope]
    digest: str


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file.

    Each line is a name, the scopes joined by a comma, and the key, or `sha256:` and its SHA-256 in hexadecimal, with
    space between. Empty lines and lines that begin with # count for nothing.

    Raises:
        DataError: the file cannot be read, or a line is wrong; the message has its number and not the key.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the keys in {path}: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split()
        if len(parts) != 3:
            raise DataError(f"{path}, line {number}: a key is NAME SCOPES KEY, as in: app read,write KEY")
        name, scopes, key = parts
        if not set(scopes.split(",")) <= set(_SCOPES):
            raise DataError(f"{path}, line {number}: scopes are read, write or read,write, not {scopes!r}")
        hashed = _HASHED.fullmatch(key)
        if hashed is None and len(key) < _SHORTEST:
            raise DataError(f"{path}, line {number}: the key of {name!r} is shorter than {_SHORTEST} characters")
        if not key.isascii():
            raise DataError(f"{path}, line {number}: the key of {name!r} has other characters than ASCII")
        digest = hashed[1] if hashed else _digest(key)
        found.append(ApiKey(name=name, scopes=frozenset(cast("list[Scope]", scopes.split(","))), digest=digest))
    if not found:
        raise DataError(f"{path} holds no key; a line is NAME SCOPES KEY, as in: app read,write KEY")
    return tuple(found)


def holder(keys: Sequence[ApiKey], key: str) -> ApiKey | None:
    """Whose key this is. All keys are looked at, so the time tells nothing."""
    digest = _digest(key)
    found = None
    for one in keys:
        if hmac.compare_digest(one.digest, digest):
            found = one
    return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
