"""The map from token rows to vectors: one vector a query, one a document, whose product is near their SumMaxSim.

MaxSim of a token x with a document d is a function of x. A ridge regression writes it as a sum of features phi(x) that
do not depend on d, fitted on a sample of tokens, and a projection keeps the few directions in which documents differ:

    phi(x)  = [relu(landmark_1 . x - threshold_1), ..., relu(landmark_H . x - threshold_H), x, 1]
    psi(x)  = phi(x) @ mixing                                                     # (m,)
    query   = sum of psi(q_i) over the query's tokens
    v_d     = sum of (MaxSim(x_s, d) - mean_s) psi(x_s) over the sample's tokens
    query . v_d + constant of the query  ~  SumMaxSim(query, d)

The idea is LEMUR's (arXiv 2601.21853): features of one token, and a document's vector by least squares. LEMUR trains a
small network by gradient descent. Here the landmarks are tokens of the sample, and the rest is a closed-form solution,
which takes seconds. docs/tuning.md has what was measured.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlane_rag.parameters import packed, unpacked
from fastlane_rag.scoring import maxsim
from fastlane_rag.vectors.documents import DocumentVectors

__all__ = ["VectorMap", "features", "maxima_of"]

_FORMAT = "fastlane-vector-map", "1"
_TOKENS = 1 << 14  # rows of documents whose MaxSim with the sample is computed at once
_BYTE = 127


class VectorMap:
    """A fitted map. `fastlane_rag.vectors.fit` makes one.

    Args:
        sample: (S, dim) float16 token rows; the first H of them are the landmarks.
        thresholds: (H,) float32.
        mixing: (H + dim + 1, m + 1) float32; the last column gives the query's constant.
        means: (S,) float32 mean MaxSim of each token of the sample over documents.

    Raises:
        ValueError: the arrays do not fit together, or are not finite.
    """

    def __init__(
        self,
        sample: NDArray[np.float16],
        thresholds: NDArray[np.float32],
        mixing: NDArray[np.float32],
        means: NDArray[np.float32],
    ) -> None:
        landmarks = len(thresholds)
        fits = (
            [one.dtype.str for one in (sample, thresholds, mixing, means)] == ["<f2", "<f4", "<f4", "<f4"]
            and (sample.ndim, thresholds.ndim, mixing.ndim) == (2, 1, 2)
            and means.shape == (len(sample),)
            and 0 < landmarks <= len(sample)
            and len(mixing) == landmarks + sample.shape[1] + 1
            and mixing.shape[1] > 1
        )
        if not fits:
            shapes = ", ".join(str(array.shape) for array in (sample, thresholds, mixing, means))
            raise ValueError(f"sample, thresholds, mixing and means do not fit together: {shapes}")
        if not all(np.isfinite(array).all() for array in (sample, thresholds, mixing, means)):
            raise ValueError("the arrays hold NaN or infinity")
        self._arrays: dict[str, NDArray[np.floating]] = {
            "sample": sample,
            "thresholds": thresholds,
            "mixing": mixing,
            "means": means,
        }

    @property
    def dim(self) -> int:
        """Size of a token row."""
        return int(self._arrays["sample"].shape[1])

    @property
    def size(self) -> int:
        """Dimensions m of a vector."""
        return int(self._arrays["mixing"].shape[1]) - 1

    @cached_property
    def name(self) -> str:
        """ "vector", the dimensions and a digest of the parameters, so that no two maps share a name."""
        return f"vector{self.size}-{hashlib.sha256(self.to_bytes()).hexdigest()[:16]}"

    def query(self, rows: Tensor) -> tuple[NDArray[np.float32], float]:
        """The vector (m,) of a query's token rows (L, dim), and the constant that belongs to it.

        Vectors of several maps rank documents together once the constants are added.
        """
        rows = rows.float()
        # The features of `features`, summed without holding them all.
        near = bends(rows, self._landmarks, self._thresholds).sum(0)
        pooled = torch.cat([near, rows.sum(0), rows.new_tensor([float(len(rows))])])
        found = (pooled @ self._mixing).numpy()
        return found[:-1], float(found[-1])

    def documents(self, rows: NDArray[np.floating], offsets: NDArray[np.int64]) -> DocumentVectors:
        """The vectors of documents.

        Args:
            rows: (T, dim) token rows, float16 or float32.
            offsets: (N + 1,) int64; document n owns the rows offsets[n]:offsets[n + 1].
        """
        vectors = torch.empty(len(offsets) - 1, self.size)
        for first, last in _blocks(offsets):
            here = torch.from_numpy(rows[offsets[first] : offsets[last]])
            maxima = maxima_of(self._sample, here, offsets[first : last + 1] - offsets[first])
            vectors[first:last] = (maxima - self._means).T @ self._weights
        scales = vectors.abs().amax(1).clamp(min=1e-12) / _BYTE
        levels = (vectors / scales[:, None]).round_().to(torch.int8)
        return DocumentVectors(levels.numpy(), scales.numpy(), self.name)

    def to_bytes(self) -> bytes:
        """The parameters as a safetensors file."""
        return packed(self._arrays, _FORMAT)

    @classmethod
    def from_bytes(cls, data: bytes) -> VectorMap:
        """Read what `to_bytes` wrote.

        Raises:
            IndexFormatError: the data are damaged, or of another version.
        """
        names = ("sample", "thresholds", "mixing", "means")
        return unpacked(data, _FORMAT, "the vector map's parameters", lambda arrays: cls(*(arrays[n] for n in names)))

    @cached_property
    def _sample(self) -> Tensor:
        return torch.from_numpy(self._arrays["sample"]).float()

    @cached_property
    def _landmarks(self) -> Tensor:
        return torch.from_numpy(self._arrays["sample"][: len(self._arrays["thresholds"])]).float()

    @cached_property
    def _thresholds(self) -> Tensor:
        return torch.from_numpy(self._arrays["thresholds"])

    @cached_property
    def _mixing(self) -> Tensor:
        return torch.from_numpy(self._arrays["mixing"])

    @cached_property
    def _means(self) -> Tensor:
        return torch.from_numpy(self._arrays["means"])[:, None]

    @cached_property
    def _weights(self) -> Tensor:
        """(S, m): psi of the sample's tokens."""
        return features(self._sample, self._landmarks, self._thresholds) @ self._mixing[:, :-1]


def features(rows: Tensor, landmarks: Tensor, thresholds: Tensor) -> Tensor:
    """phi of each row: (L, H + dim + 1) float32 of (L, dim), (H, dim) and (H,)."""
    rows = rows.float()
    return torch.cat([bends(rows, landmarks, thresholds), rows, torch.ones(len(rows), 1)], 1)


def bends(rows: Tensor, landmarks: Tensor, thresholds: Tensor) -> Tensor:
    """The part of phi that is not linear: (L, H)."""
    return torch.addmm(-thresholds, rows, landmarks.T).relu_()


def maxima_of(tokens: Tensor, rows: Tensor, offsets: NDArray[np.int64]) -> Tensor:
    """(S, N) MaxSim of each of S tokens, (S, dim) float32, with each of N documents."""
    each = torch.arange(len(tokens) + 1)
    found = torch.empty(len(tokens), len(offsets) - 1)
    for first, last in _blocks(offsets):  # the kernels take a copy of the rows in float32
        here = torch.from_numpy(offsets[first : last + 1] - offsets[first])
        some = rows[int(offsets[first]) : int(offsets[last])]
        found[:, first:last] = maxsim(tokens, some, query_offsets=each, document_offsets=here)
    return found


def _blocks(offsets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Runs of documents with at most `_TOKENS` rows each, or of one document."""
    blocks, first = [], 0
    while first < len(offsets) - 1:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _TOKENS, side="right")) - 1)
        blocks.append((first, last))
        first = last
    return blocks
