"""The bundled default model: stored as 8-bit weights, unpacked once into an ordinary model directory.

The package has one row-wise int8 tensor for each matrix (``value = code * scale``, symmetric, one float16 scale per
row), for embedding tables and linear layers alike. Other tensors are unchanged. This takes a quarter of the float32
size, and token embeddings have a cosine of 0.9999 with those of float32 weights. The first use writes a float16
model directory into the user's cache; sentence-transformers opens it like any other.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastlane_rag.errors import ModelError

__all__ = ["cache_dir", "default_model_path", "pack_model", "unpack_model"]

_BUNDLE = Path(__file__).parent / "default"
_CODES = ".int8"
_SCALES = ".scale"
_SMALLEST_PACKED = 4096  # elements; smaller matrices are stored unpacked


def cache_dir() -> Path:
    """Directory of files that FastLane can make again: $FASTLANE_CACHE, else one in the user's cache folder."""
    if configured := os.environ.get("FASTLANE_CACHE"):
        return Path(configured)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastlane-rag"


def default_model_path() -> Path:
    """Directory of the bundled default model, unpacked on first use.

    Raises:
        ModelError: the package has no model, or no folder can be written.
    """
    if not (_BUNDLE / "model.safetensors").is_file():
        raise ModelError(f"the bundled default model is missing from {_BUNDLE}; reinstall fastlane-rag")
    digest = hashlib.sha256()
    for file in sorted(p for p in _BUNDLE.rglob("*") if p.is_file()):
        digest.update(file.relative_to(_BUNDLE).as_posix().encode())
        digest.update(file.read_bytes())
    name = f"default-{digest.hexdigest()[:16]}"
    for parent in (cache_dir(), Path(tempfile.gettempdir()) / f"fastlane-rag-{getpass.getuser()}"):
        try:
            parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not (parent / name).is_dir():
                unpack_model(_BUNDLE, parent / name)
            return parent / name
        except OSError as error:
            failure = error
    raise ModelError(f"cannot unpack the default model: {failure}. Set FASTLANE_CACHE to a folder that can be written.")


def pack_model(source: Path, target: Path) -> None:
    """Write a model directory with every large matrix as row-wise int8.

    Args:
        source: a directory written by ``FastLaneModel.save``.
        target: the directory to create; it must not exist.
    """
    shutil.copytree(source, target)
    for file in target.rglob("*.safetensors"):
        packed: dict[str, Tensor] = {}
        for key, value in load_file(file).items():
            if value.ndim == 2 and value.numel() >= _SMALLEST_PACKED:
                scale = (value.float().abs().amax(dim=1, keepdim=True) / 127.0).clamp(min=1e-8).half()
                packed[key + _CODES] = (value.float() / scale.float()).round().clamp(-127, 127).to(torch.int8)
                packed[key + _SCALES] = scale
            else:
                packed[key] = value.half() if value.is_floating_point() else value
        save_file(packed, file, metadata={"format": "pt"})


def unpack_model(source: Path, target: Path) -> None:
    """Unpack a packed model directory into one that sentence-transformers opens (float16 weights).

    The target appears complete or not at all, also when several processes unpack at once.
    """
    work = Path(tempfile.mkdtemp(prefix=".unpack-", dir=target.parent))
    try:
        shutil.copytree(source, work, dirs_exist_ok=True)
        for file in work.rglob("*.safetensors"):
            plain: dict[str, Tensor] = {}
            tensors = load_file(file)
            for key, value in tensors.items():
                if key.endswith(_CODES):
                    name = key.removesuffix(_CODES)
                    plain[name] = (value.float() * tensors[name + _SCALES].float()).half()
                elif not key.endswith(_SCALES):
                    plain[key] = value
            save_file(plain, file, metadata={"format": "pt"})
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():  # another process was first: its copy is the same
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
