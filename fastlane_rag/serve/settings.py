"""What a server is told."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.serve.keys import ApiKey

__all__ = ["ServeSettings", "named_directories"]


class ServeSettings(BaseModel):
    """What a server is told. Every process of it gets the same.

    Attributes:
        indexes: the directory of each index, by the name that requests have.
        model: what the indexes were made with, where it is not the bundled model.
        device: where models run; with "cuda", "cuda:1" and so on the documents are searched there as well.
        read_only: refuse writes.
        keys: who may do what; without keys everybody may do everything.
        hosts: names that requests may have in their Host header; ("*",) allows all.
        most_body_bytes: the longest body of a request, and the longest line of an ingestion.
        most_hits: the largest `k`.
        most_texts: queries or texts of one request.
        most_image_pixels: of an image that is sent; a page of A4 at 600 dots an inch has 35 million.
        most_waiting: requests that wait for a thread; further ones are refused with 503.
        read_seconds: how long a request that reads may take, waiting included.
        write_seconds: how long a request that writes may take.
        idle_seconds: how long a client may pause within its body.
        lock_seconds: how long a write waits for writers in other processes.
        threads: requests that are worked on at once; None for as many as there are cores.
        log_format: "json" or "text".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    indexes: dict[str, Path] = Field(default_factory=dict)
    model: str | None = None
    device: str | None = None
    read_only: bool = False
    keys: tuple[ApiKey, ...] = ()
    hosts: tuple[str, ...] = ("*",)
    most_body_bytes: int = Field(default=16 << 20, ge=1)
    most_hits: int = Field(default=1000, ge=1)
    most_texts: int = Field(default=1000, ge=1)
    most_image_pixels: int = Field(default=50_000_000, ge=1)
    most_waiting: int = Field(default=256, ge=0)
    read_seconds: float = Field(default=30.0, gt=0)
    write_seconds: float = Field(default=600.0, gt=0)
    idle_seconds: float = Field(default=30.0, gt=0)
    lock_seconds: float = Field(default=30.0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    log_format: Literal["json", "text"] = "json"

    @property
    def cores(self) -> int:
        """Requests that are worked on at once."""
        if self.threads:
            return self.threads
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def named_directories(given: Iterable[str]) -> dict[str, Path]:
    """Names of index directories: DIR is called as its last part, NAME=DIR as it says.

    Raises:
        InvalidInputError: two have one name, or a name cannot stand in an address.
    """
    found: dict[str, Path] = {}
    for one in given:
        name, _, directory = one.partition("=") if "=" in one and not Path(one).exists() else ("", "", one)
        path = Path(directory)
        name = name or path.resolve().name
        if not name or "/" in name or name in (".", ".."):
            raise InvalidInputError(f"{name!r} cannot be the name of an index; write NAME=DIR")
        if name in found:
            raise InvalidInputError(f"{found[name]} and {path} are both called {name!r}; write NAME=DIR for one")
        found[name] = path
    return found
