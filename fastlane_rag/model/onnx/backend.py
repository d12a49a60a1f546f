"""Which library computes token states, and in which number format."""

from __future__ import annotations

import logging
import os
import platform
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastlane_rag.errors import ModelError
from fastlane_rag.model.default import cache_dir
from fastlane_rag.model.onnx.cache import DamagedFileError, cached
from fastlane_rag.model.onnx.plan import NotExportableError, digest, plan_of
from fastlane_rag.model.onnx.session import OnnxStates, Precision, StatesError
from fastlane_rag.scoring.native.library import library

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder
    from transformers import PreTrainedModel

__all__ = ["Backend", "Dtype", "check_choice", "onnx_states", "warn"]

Backend = Literal["auto", "torch", "onnx"]
"""What makes token states. "auto" is onnxruntime where it is installed and can, else torch."""

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""Number format of the encoder."""

_BACKENDS, _DTYPES = ("auto", "torch", "onnx"), ("auto", "float32", "bfloat16", "float16", "int8")
_INSTALL = 'pip install "fastlane-rag[cpu]"'
# Of queries and of documents. docs/encoding.md has what int8 documents cost in quality, and how fast each format is.
_PRECISIONS: dict[str, tuple[Precision, Precision]] = {
    "auto": ("float32", "int8"),
    "float32": ("float32", "float32"),
    "int8": ("int8", "int8"),
}
_SAMPLE = "Which of 572 proposals introduced the walrus operator, and why?"

logger = logging.getLogger(__name__)


def check_choice(backend: str, dtype: str) -> None:
    """Refuse what is no choice.

    Raises:
        ModelError: an unknown value, or two that exclude each other.
    """
    if backend not in _BACKENDS:
        raise ModelError(f"backend={backend!r} must be one of {', '.join(map(repr, _BACKENDS))}")
    if dtype not in _DTYPES:
        raise ModelError(f"dtype={dtype!r} must be one of {', '.join(map(repr, _DTYPES))}")
    if backend == "onnx" and dtype not in _PRECISIONS:
        raise ModelError(f"backend='onnx' computes in float32 or int8, not in {dtype}; leave backend or dtype out")
    if backend == "torch" and dtype == "int8":
        raise ModelError("backend='torch' computes in float32, bfloat16 or float16, not in int8; leave backend out")


def onnx_states(
    encoder: MultiVectorEncoder, backbone: PreTrainedModel, name: str, folder: Path | None, backend: str, dtype: str
) -> OnnxStates | None:
    """What makes the encoder's token states by onnxruntime, checked against torch.

    Args:
        encoder: with its weights in float32.
        backbone: its transformer.
        name: of the model, for warnings.
        folder: of the cached graphs; None for one in the user's cache.
        backend: as `Backend`.
        dtype: as `Dtype`.

    Returns:
        None where torch is to compute; a warning says why, except where "auto" finds no onnxruntime or another device.
    """
    if backend == "torch" or dtype not in _PRECISIONS:
        return None
    asked = backend == "onnx" or dtype == "int8"
    device = next(encoder.parameters()).device.type
    if device != "cpu" or find_spec("onnxruntime") is None:
        if asked:
            warn(name, f"onnxruntime is not installed: {_INSTALL}" if device == "cpu" else f"it is on {device}")
        return None
    try:
        graphs = _Graphs(backbone, folder)
        sample = encoder.preprocess([_SAMPLE])["input_ids"]
        states = OnnxStates(backbone, graphs, sample, _PRECISIONS[dtype])
        states.open("query")  # those of documents are opened with the first documents
    except StatesError as error:
        warn(name, str(error))
        return None
    return states


def warn(name: str, reason: str) -> None:
    """Say in one line that, and why, a model runs on torch."""
    logger.warning("the model %s is run by torch, not onnxruntime: %s", name, reason)


class _Graphs:
    """The graphs of one encoder, from the cache or written into it."""

    def __init__(self, backbone: PreTrainedModel, folder: Path | None) -> None:
        self.backbone, self.folder = backbone, folder
        self.digest = digest(backbone)[:16]

    def __call__(self, precision: Precision, masked: bool) -> bytes:
        try:
            from fastlane_rag.model.onnx.graph import FULL, GRAPH_VERSION, REDUCED, serialized
        except ImportError as error:
            raise StatesError(f"the package onnx is not installed ({error}): {_INSTALL}") from error
        largest = None if precision == "float32" else FULL if _multiplies_bytes() else REDUCED
        kind = f"{precision}{'' if largest is None else largest}{'-masked' if masked else ''}"

        def make() -> bytes:
            return serialized(plan_of(self.backbone), largest, masked=masked)

        folder = self.folder
        try:
            folder = folder or cache_dir() / "onnx"
            return cached(folder, f"encoder-{self.digest}-{kind}-{GRAPH_VERSION}", make)
        except NotExportableError as error:
            raise StatesError(f"it cannot be exported, {error}") from error
        except DamagedFileError as error:
            raise StatesError(f"{error}; it is written again when the model is opened next") from error
        except (OSError, RuntimeError) as error:  # without a home folder the latter
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise StatesError(
                f"its graph cannot be kept in {folder or 'the cache'} ({reason}); "
                "set FASTLANE_CACHE to a folder that can be written"
            ) from error


def _multiplies_bytes() -> bool:
    """Whether this processor adds products of bytes in 32 bits, so that int8 weights may take their full range."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    kernels: Any = library()
    return kernels is not None and b"vnni" in kernels.fastlane_levels()
