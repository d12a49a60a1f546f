"""The residual codec: each token as its nearest centroid, a few bits a dimension, and a scale.

Trained on a sample of the corpus. What it stores is scored as it is (`fastlane_rag.scoring.Codes`).
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import IndexFormatError
from fastlane_rag.index.codec import Arrays

if TYPE_CHECKING:
    import torch

    from fastlane_rag.scoring import Codebook, Codes

__all__ = ["ResidualCodec"]

_FORMAT = "fastlane-residual-codec", "1"
# Distance between levels, in standard deviations, that loses least of a Gaussian with 2 ** bits levels.
_BEST_STEP = {1: 1.5958, 2: 0.9957, 4: 0.3352, 8: 0.0308}
_MOST_CENTROIDS = 4096
_SAMPLE_PER_CENTROID = 48
_ITERATIONS = 5
_BLOCK = 1024  # tokens whose nearest centroids are found at once


class ResidualCodec:
    """A trained codec; see `fastlane_rag.index.codec.Codec` for what its methods promise.

    Args:
        centroids: (K, dim) float32, K at most 65,536.
        steps: (dim,) float32, the distance between two levels of each dimension.
        bits: 1, 2, 4 or 8 bits a dimension.

    Attributes:
        name: "residual", the bits and a digest of the parameters: rows of one codec cannot be taken for those
            of another.
        codebook: the parameters as the scoring core takes them.
    """

    def __init__(self, centroids: torch.Tensor, steps: torch.Tensor, bits: int) -> None:
        from fastlane_rag.scoring import Codebook

        self.codebook: Codebook = Codebook(centroids.contiguous(), steps.contiguous(), bits)

    @classmethod
    def train(
        cls, sample: NDArray[np.floating], bits: int = 4, *, centroids: int | None = None, seed: int = 0
    ) -> ResidualCodec:
        """Learn centroids by k-means and steps from what they leave over.

        Args:
            sample: (T, dim) token rows, better from many documents than from a few.
            bits: 1, 2, 4 or 8 bits a dimension.
            centroids: how many; None: about four times the root of T, a power of two, 4,096 at most.
            seed: the same seed and sample give the same codec.

        Raises:
            ValueError: the sample is empty or not finite, or a number is out of range.
        """
        import torch

        if bits not in _BEST_STEP:
            raise ValueError(f"bits must be 1, 2, 4 or 8, but are {bits}")
        rows = torch.from_numpy(np.ascontiguousarray(sample, dtype=np.float32))
        if rows.ndim != 2 or len(rows) == 0 or not bool(rows.isfinite().all()):
            raise ValueError(
                f"a codec is trained on finite (tokens, dim) rows, at least one, "
                f"but the sample has the shape {tuple(rows.shape)}"
                + (" and holds NaN or infinity" if rows.numel() else "")
            )
        if centroids is None:
            centroids = min(_MOST_CENTROIDS, 1 << round(np.log2(4 * len(rows) ** 0.5)))
        if not 1 <= centroids <= 1 << 16:
            raise ValueError(f"the number of centroids must be from 1 to 65536, but is {centroids}")
        centroids = min(centroids, len(rows))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(rows), generator=generator)
        rows = rows[order[: _SAMPLE_PER_CENTROID * centroids]]
        means = _k_means(rows, centroids)
        spread = (rows - means[_nearest(rows, means)]).square().mean(0).sqrt()
        # A dimension without spread needs a step all the same: its levels must stay finite.
        return cls(means, (spread * _BEST_STEP[bits]).clamp(min=1e-6), bits)

    @cached_property
    def name(self) -> str:
        """What the segment and the catalogue call it."""
        return f"residual{self.codebook.bits}-{hashlib.sha256(self.to_bytes()).hexdigest()[:16]}"

    def layout(self, dim: int) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """Residuals (T, width) uint8, centroids (T,) uint16 and scales (T,) uint8.

        Raises:
            ValueError: the codec was trained for another dimension.
        """
        self._check_dim(dim)
        return {
            "residuals": (np.dtype("|u1"), (self.codebook.width,)),
            "centroids": (np.dtype("<u2"), ()),
            "scales": (np.dtype("|u1"), ()),
        }

    def encode(self, tokens: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Encode (T, dim) rows.

        Raises:
            ValueError: the rows have another dimension, or hold NaN or infinity.
        """
        import torch

        from fastlane_rag.scoring.codes import pack_levels

        self._check_dim(tokens.shape[1])
        rows = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32))
        if not bool(rows.isfinite().all()):
            bad = int((~rows.isfinite().all(1)).sum())
            raise ValueError(f"{bad} of {len(rows)} token embeddings hold NaN or infinity")
        book = self.codebook
        ids = _nearest(rows, book.centroids)
        scales = torch.empty(len(rows), dtype=torch.uint8)
        residuals = torch.empty(len(rows), book.width, dtype=torch.uint8)
        for first in range(0, len(rows), _BLOCK):
            block = slice(first, first + _BLOCK)
            base = book.base[ids[block]]
            levels = ((rows[block] - base) / book.steps).round_().clamp_(0, 2**book.bits - 1)
            residuals[block] = pack_levels(levels.to(torch.uint8), book.bits)
            near = base + book.steps * levels
            # The scale that brings the coded row nearest to the row.
            scale = (rows[block] * near).sum(1) / near.square().sum(1).clamp(min=1e-12)
            scales[block] = ((scale - 0.5) * 256).round_().clamp_(0, 255).to(torch.uint8)
        return {
            "residuals": residuals.numpy(),
            "centroids": ids.numpy().astype("<u2"),
            "scales": scales.numpy(),
        }

    def decode(self, arrays: Arrays) -> NDArray[np.floating]:
        """Give back (T, dim) float32 rows."""
        rows: NDArray[np.floating] = self.codes(arrays).decode(slice(None)).numpy()
        return rows

    def codes(self, arrays: Arrays) -> Codes:
        """The arrays as documents for the scoring core, without a copy."""
        import torch

        from fastlane_rag.scoring import Codes

        columns = (torch.from_numpy(arrays[name]) for name in ("centroids", "scales", "residuals"))
        return Codes(self.codebook, *columns)

    def to_bytes(self) -> bytes:
        """The parameters as a safetensors file."""
        import torch
        from safetensors.torch import save

        book = self.codebook
        tensors = {"centroids": book.centroids, "steps": book.steps, "bits": torch.tensor([book.bits])}
        return save(tensors, metadata=dict([_FORMAT]))

    @classmethod
    def from_bytes(cls, data: bytes) -> ResidualCodec:
        """Undo `to_bytes`.

        Raises:
            IndexFormatError: the data are no codec of this version.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            length = int.from_bytes(data[:8], "little")
            kind, version = _FORMAT
            written = json.loads(data[8 : 8 + length])["__metadata__"][kind]
            if written != version:
                raise IndexFormatError(
                    f"the codec's parameters have version {written}; this fastlane-rag reads {version}"
                )
            tensors = load(data)
            return cls(tensors["centroids"], tensors["steps"], int(tensors["bits"]))
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise IndexFormatError(f"the codec's parameters are damaged: {error!r}") from error

    def _check_dim(self, dim: int) -> None:
        if dim != self.codebook.dim:
            raise ValueError(f"this codec was trained for {self.codebook.dim} dimensions, the tokens have {dim}")


def _k_means(rows: torch.Tensor, count: int) -> torch.Tensor:
    """(count, dim) centroids. The rows come in random order: the first ones are the start."""
    import torch

    centroids = rows[:count].clone()
    for _ in range(_ITERATIONS):
        nearest = _nearest(rows, centroids)
        members = torch.bincount(nearest, minlength=count)[:, None]
        sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
        # A centroid that lost its members stays where it is.
        centroids = torch.where(members > 0, sums / members.clamp(min=1), centroids)
    return centroids


def _nearest(rows: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """(T,) int64: the centroid at the least distance, the one with the greatest x . c - |c|^2 / 2."""
    import torch

    from fastlane_rag.scoring import token_maxima
    from fastlane_rag.scoring.threads import get_threads, run_ranges

    one = torch.tensor([0, len(centroids)])
    lifted = torch.cat([centroids, centroids.square().sum(1, keepdim=True) / -2], dim=1)
    nearest = torch.empty(len(rows), dtype=torch.int64)

    def find(first: int, last: int) -> None:
        for start in range(first, last, _BLOCK):
            block = rows[start : min(start + _BLOCK, last)]
            query = torch.cat([block, torch.ones(len(block), 1)], dim=1)
            nearest[start : start + len(block)] = token_maxima(query, lifted, one)[1][0]

    blocks = -(-len(rows) // _BLOCK)
    threads = min(get_threads(), blocks)
    if threads:
        run_ranges(find, [min(blocks * n // threads * _BLOCK, len(rows)) for n in range(threads + 1)])
    return nearest
