"""How token embeddings are written down: the codec of a segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import InvalidInputError

if TYPE_CHECKING:
    from fastlane_rag.scoring.inputs import Rows

__all__ = ["CODECS", "Arrays", "Codec", "HalfCodec", "check_codec", "residual_bits"]

Arrays = Mapping[str, NDArray[np.generic]]

# Exhaustive nDCG@10 over that of half precision, on 400 training queries each of scifact and nq_gold_mix: 4 bits 1.000
# and 1.002, 2 bits .994 and .996, 1 bit .977 and .988; of the ten best 97%, 92% and 83% stay.
_AUTO = "residual4"
CODECS = ("fp16", "residual1", "residual2", "residual4", "residual8")
"""What an index can be told to store its tokens in."""


class Codec(Protocol):
    """Turns float32 token rows into arrays with one row a token, and back.

    Rows are independent of each other: encoding a part of the rows gives that part of the arrays. This is
    what lets segments be streamed, merged by copying and read in any order.
    """

    @property
    def name(self) -> str:
        """What the segment and the catalogue call it."""
        ...

    @property
    def lists(self) -> int:
        """Posting lists of a segment: the values that the array `centroids` can have; 0 where there is none."""
        ...

    def layout(self, dim: int) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """The arrays of a segment: name -> (little-endian dtype, shape of one row)."""
        ...

    def encode(self, tokens: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Encode (T, dim) float32 rows into the arrays of `layout`, T rows each."""
        ...

    def decode(self, arrays: Arrays) -> NDArray[np.floating]:
        """Give back (T, dim) rows, float16 or float32; a view of the arrays where that is possible."""
        ...

    def packed(self, arrays: Arrays) -> Rows:
        """The arrays as documents for the scoring core, without a copy."""
        ...

    def to_bytes(self) -> bytes:
        """The trained parameters; nothing where there are none."""
        ...


class HalfCodec:
    """Half precision: 2 bytes a dimension, scored as it lies."""

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
        """Nothing: there is nothing to train."""
        return b""


def check_codec(name: str) -> str:
    """The codec that a user asks for.

    Raises:
        InvalidInputError: there is none of this name.
    """
    if name == "auto":
        return _AUTO
    if name not in CODECS:
        raise InvalidInputError(f"codec must be 'auto', {', '.join(map(repr, CODECS))}, not {name!r}")
    return name


def residual_bits(policy: str) -> int | None:
    """Bits a dimension that an index told to store its tokens in this way shall use; None for fp16.

    Raises:
        ValueError: this version knows no such codec.
    """
    if policy not in CODECS:
        raise ValueError(f"codec {policy!r} is unknown to this version of fastlane-rag; a newer one may read it")
    return None if policy == HalfCodec.name else int(policy.removeprefix("residual"))
