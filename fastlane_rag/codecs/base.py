"""Codecs: how a segment stores token embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastlane_rag.scoring.inputs import Rows

__all__ = ["Arrays", "Codec", "HalfCodec"]

Arrays = Mapping[str, NDArray[np.generic]]


class Codec(Protocol):
    """Encodes float32 token rows into arrays with one row per token, and decodes them.

    Rows must be independent: encoding some of the rows must give the same rows of the arrays. Segments rely on it to
    stream, to merge by copying and to read rows in any order.
    """

    @property
    def name(self) -> str:
        """The codec's name in segments and the catalogue."""
        ...

    @property
    def lists(self) -> int:
        """Posting lists of a segment, one for each centroid; 0 for a codec without centroids."""
        ...

    def layout(self, dim: int) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """The arrays of a segment: name -> (little-endian dtype, shape of one row)."""
        ...

    def encode(self, tokens: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Encode (T, dim) float32 rows into the arrays of `layout`, T rows each."""
        ...

    def decode(self, arrays: Arrays) -> NDArray[np.floating]:
        """Decode to (T, dim) rows, float16 or float32; a view of the arrays where possible."""
        ...

    def packed(self, arrays: Arrays) -> Rows:
        """The arrays as documents for `fastlane_rag.scoring`, without a copy."""
        ...

    def to_bytes(self) -> bytes:
        """The trained parameters; empty for a codec without any."""
        ...


class HalfCodec:
    """Half precision: 2 bytes per dimension, scored without decoding."""

    name = "fp16"
    lists = 0

    def layout(self, dim: int) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """One array, `tokens`, (T, dim) float16."""
        return {"tokens": (np.dtype("<f2"), (dim,))}

    def encode(self, tokens: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Round to half precision."""
        return {"tokens": tokens.astype("<f2", copy=False)}

    def decode(self, arrays: Arrays) -> NDArray[np.floating]:
        """The stored rows themselves, float16, without a copy."""
        tokens: NDArray[np.floating] = arrays["tokens"]  # type: ignore[assignment]
        return tokens

    def packed(self, arrays: Arrays) -> Rows:
        """The stored rows as a tensor."""
        import torch

        return torch.from_numpy(arrays["tokens"])

    def to_bytes(self) -> bytes:
        """Empty, because there are no trained parameters."""
        return b""
