"""The bundled default model: stored as 8-bit weights, unpacked once into an ordinary model directory.

The package has one row-wise int8 tensor for each matrix (``value = code * scale``, symmetric, one float16 scale per
row), for embedding tables and linear layers alike. Other tensors are unchanged. This takes a quarter of the float32
size, and token embeddings have a cosine of 0.9999 with those of float32 weights. The first use writes a float16
model directory into the user's cache; sentence-transformers opens it like any other.
"""

from __future__ import annotations

import getpass
import hashlib
import importlib.resources
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.resources.abc import Traversable
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from fastlane_rag.errors import ModelError
from fastlane_rag.model.folder import check_model_folder

__all__ = ["cache_dir", "default_model_path", "pack_model", "packed", "unpack_model"]

_BUNDLE = importlib.resources.files(__package__) / "default"  # of a package in a zip file as well
_CODES = ".int8"
_SCALES = ".scale"
_DRAFT = ".unpack-"
_ABANDONED_SECONDS = 3600
_SMALLEST_PACKED = 4096  # below this many numbers a matrix is not worth packing


def cache_dir() -> Path:
    """Where FastLane keeps what it can make again: $FASTLANE_CACHE, else the user's cache folder, else a temporary."""
    try:
        return _cache()
    except (LookupError, RuntimeError):  # a user without a home
        return _temporary()


def default_model_path() -> Path:
    """Directory of the bundled default model, unpacked on first use.

    Raises:
        ModelError: the package has no model, or no folder can be written.
    """
    if not (_BUNDLE / "model.safetensors").is_file():
        raise ModelError(f"the bundled default model is missing from {_BUNDLE}; reinstall fastlane-rag")
    digest, sizes = hashlib.sha256(), {}
    for file_name, file in _files(_BUNDLE):
        content = file.read_bytes()
        sizes[file_name] = len(content)
        digest.update(file_name.encode())
        digest.update(content)
    name = f"default-{digest.hexdigest()[:16]}"
    failures = []
    for parent, make in ((_cache, _made), (_temporary, _own)):
        try:
            folder = make(parent())
            if not _whole(folder / name, sizes):
                shutil.rmtree(folder / name, ignore_errors=True)
                unpack_model(_BUNDLE, folder / name)
            return folder / name
        except (OSError, LookupError, RuntimeError) as error:
            failures.append(str(error))
    raise ModelError(
        f"cannot unpack the default model, neither in the cache ({failures[0]}) nor in a temporary folder "
        f"({failures[1]}). Set FASTLANE_CACHE to a folder that can be written."
    )


def _whole(folder: Path, sizes: Mapping[str, int]) -> bool:
    """Whether an unpacked model is all there: what tidies temporary folders takes single files, as a power loss does.

    Args:
        folder: of the unpacked model.
        sizes: of the files of the packed one, of which only weights change.
    """
    try:
        check_model_folder(folder)
        found = {name: (folder / name).stat().st_size for name in sizes}
    except (OSError, ModelError):
        return False
    return all(found[name] == size or name.endswith(".safetensors") for name, size in sizes.items())


def _cache() -> Path:
    if configured := os.environ.get("FASTLANE_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastlane-rag"


def _temporary() -> Path:
    """A folder of this user's among the temporary ones; users without a name, as in containers, have a number."""
    user = str(os.getuid()) if hasattr(os, "getuid") else getpass.getuser()
    return Path(tempfile.gettempdir()) / f"fastlane-rag-{user}"


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _own(folder: Path) -> Path:
    """The folder, made where it is missing. In a place that all may write, somebody else may have made it before.

    Raises:
        PermissionError: it is another user's, or others may write into it.
    """
    _made(folder)
    found = folder.lstat()
    foreign = hasattr(os, "getuid") and (found.st_uid != os.getuid() or bool(found.st_mode & 0o022))
    if foreign or not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{folder} belongs to another user, or others may write into it")
    return folder


def pack_model(source: Path, target: Path) -> None:
    """Write a model directory with every large matrix as row-wise int8.

    Args:
        source: a directory written by ``FastLaneModel.save``.
        target: the directory to create; it must not exist.
    """
    shutil.copytree(source, target)
    for file in target.rglob("*.safetensors"):
        save_file(packed(load_file(file)), file, metadata={"format": "pt"})


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the bundled model stores them: large matrices as row-wise int8, other floats in half precision."""
    found: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if value.ndim == 2 and value.numel() >= _SMALLEST_PACKED:
            scale = (value.float().abs().amax(dim=1, keepdim=True) / 127.0).clamp(min=1e-8).half()
            found[key + _CODES] = (value.float() / scale.float()).round().clamp(-127, 127).to(torch.int8)
            found[key + _SCALES] = scale
        else:
            found[key] = value.half() if value.is_floating_point() else value
    return found


def unpack_model(source: Traversable, target: Path) -> None:
    """Turn a packed model directory into one that sentence-transformers opens (float16 weights).

    The target appears complete or not at all, also when several processes unpack at once.
    """
    _sweep(target.parent)
    work = target.parent / f"{_DRAFT}{uuid.uuid4().hex}"
    try:
        for name, file in _files(source):
            unpacked = work / name
            unpacked.parent.mkdir(parents=True, exist_ok=True)
            if unpacked.suffix != ".safetensors":
                unpacked.write_bytes(file.read_bytes())  # without its rights: the package may be read-only
                continue
            plain: dict[str, Tensor] = {}
            tensors = load(file.read_bytes())
            for key, value in tensors.items():
                if key.endswith(_CODES):
                    whole = key.removesuffix(_CODES)
                    plain[whole] = (value.float() * tensors[whole + _SCALES].float()).half()
                elif not key.endswith(_SCALES):
                    plain[key] = value
            save_file(plain, unpacked, metadata={"format": "pt"})
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first: its copy is the same
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _files(folder: Traversable, within: str = "") -> Iterator[tuple[str, Traversable]]:
    """The files in a folder, which may lie in a zip file, by their paths in it."""
    for entry in sorted(folder.iterdir(), key=lambda one: one.name):
        if entry.is_dir():
            yield from _files(entry, f"{within}{entry.name}/")
        else:
            yield f"{within}{entry.name}", entry


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed in mid-unpacking left."""
    for draft in folder.glob(f"{_DRAFT}*"):
        with suppress(OSError):
            if time.time() - draft.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(draft, ignore_errors=True)
