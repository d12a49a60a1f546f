"""The manifest of a cluster: a small JSON file that says how many shards there are, and which shard has a document."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from fastlane_rag.errors import IndexFormatError, IndexNotFoundError

__all__ = ["EMPTY", "MANIFEST", "Manifest", "shard_of"]

MANIFEST = "cluster.json"
EMPTY = "empty"
"""An index without documents, of which every shard is made: it has the model, the codec and the filter keys."""
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What everybody who uses a cluster must agree on.

    Attributes:
        id: names the cluster's actors.
        epoch: grows with every change. Shards refuse who knows only an older one.
        shards: how many there are.
        growing: whether documents are moving to one more shard, which has the number `shards`.
        replicas: actors of each shard that read only.
        cpus: of the machine, for each actor.
        local: a directory on the machines' own disks for the shards; None keeps them in the cluster's directory.
        model: name of the model that the documents are encoded with.
        fingerprint: of that model.
    """

    id: str
    epoch: int
    shards: int
    growing: bool
    replicas: int
    cpus: float
    local: str | None
    model: str
    fingerprint: str

    @property
    def all_shards(self) -> int:
        """Shards that hold documents."""
        return self.shards + self.growing

    def directory(self, cluster: Path, shard: int) -> Path:
        """Where a shard is."""
        root = cluster / "shards" if self.local is None else Path(self.local) / self.id
        return root / f"{shard:04d}"

    @classmethod
    def read(cls, cluster: Path) -> Manifest:
        """The manifest of a cluster.

        Raises:
            IndexNotFoundError: there is none.
            IndexFormatError: it is damaged, or newer than this version of fastlane-rag.
        """
        path = cluster / MANIFEST
        try:
            found = json.loads(path.read_text())
            version = found.pop("version")
        except (FileNotFoundError, NotADirectoryError) as error:
            raise IndexNotFoundError(
                f"{cluster} holds no cluster (there is no {MANIFEST} in it); fastlane cluster up makes one"
            ) from error
        except (ValueError, KeyError, AttributeError) as error:
            raise IndexFormatError(f"{path} is damaged: {error}; restore it from a backup") from error
        if version != _VERSION:
            raise IndexFormatError(f"{path} has version {version}, this fastlane-rag reads version {_VERSION}")
        if set(found) != {one.name for one in fields(cls)}:
            raise IndexFormatError(f"{path} is damaged: it has the fields {', '.join(found)}")
        return cls(**found)

    def write(self, cluster: Path) -> None:
        """Put this manifest in place of the one that is there, in one step."""
        with tempfile.NamedTemporaryFile("w", dir=cluster, prefix=MANIFEST, delete=False) as file:
            json.dump({"version": _VERSION, **asdict(self)}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(cluster / MANIFEST)


def shard_of(id_: str, shards: int) -> int:
    """The shard of a document, from 0: jump consistent hashing (Lamping and Veach, arXiv 1406.2294).

    With one shard more, 1/(shards + 1) of the documents belong to the new one, and all others stay.
    """
    key = int.from_bytes(hashlib.blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
    found, jump = -1, 0
    while jump < shards:
        found = jump
        key = (key * 2862933555777941757 + 1) & 0xFFFFFFFFFFFFFFFF
        jump = int((found + 1) * ((1 << 31) / ((key >> 33) + 1)))
    return found
