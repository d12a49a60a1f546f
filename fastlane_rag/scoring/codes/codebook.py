"""Documents in code: for each token a centroid, a few bits of residual per dimension, and a scale.

    row = scale * (centroid + step * (level - (2 ** bits - 1) / 2))    # scale of the row, step of the dimension

Levels are equidistant, and each dimension has its own step. So decoding is arithmetic, without look-ups. With the best
steps it is also nearer to the row than one table of quantiles for all dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.scoring.native import kernels

__all__ = ["Codebook", "Codes", "fill_words", "pack_levels", "packed_width", "to_bytes", "unpack_levels"]


@dataclass(frozen=True)
class Codebook:
    """The parameters that codes refer to.

    Attributes:
        centroids: (K, d) float32, K from 1 to 65,536.
        steps: (d,) float32: distance between two levels of each dimension.
        bits: 1, 2, 4 or 8 bits per level.
        base: (K, d) float32: the rows of level 0.

    Raises:
        TypeError: a tensor has another dtype.
        ValueError: shapes or devices do not fit together.
    """

    centroids: torch.Tensor
    steps: torch.Tensor
    bits: int
    base: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        _check_dtype("centroids", self.centroids, torch.float32)
        _check_dtype("steps", self.steps, torch.float32)
        if self.centroids.ndim != 2 or not 1 <= len(self.centroids) <= 1 << 16:
            raise ValueError(
                f"centroids must be (K, dim) with K from 1 to 65536, but are {tuple(self.centroids.shape)}"
            )
        if self.steps.shape != self.centroids.shape[1:]:
            raise ValueError(
                f"steps must be ({self.dim},) like a centroid, but have the shape {tuple(self.steps.shape)}"
            )
        _check_device(self.centroids, self.steps)
        middle = (2 ** _checked(self.bits) - 1) / 2
        object.__setattr__(self, "base", (self.centroids - self.steps * middle).contiguous())

    @property
    def dim(self) -> int:
        """Dimensions of a row."""
        return self.centroids.shape[1]

    @property
    def width(self) -> int:
        """Bytes of one row's packed levels."""
        return packed_width(self.dim, self.bits)

    @cached_property
    def for_kernels(self) -> kernels.Book:
        """The parameters for the compiled kernels: the centroids rounded by `to_bytes`, and the steps.

        Bytes take a quarter of the memory of floats, and an instruction multiplies four of them at once.
        """
        levels, center, steps = to_bytes(self.centroids.cpu())
        in_words = fill_words(levels.numpy())
        return kernels.Book(in_words, center.numpy(), steps.numpy(), self.steps.cpu().numpy(), self.bits, self.width)


@dataclass(frozen=True)
class Codes:
    """Packed document rows in code, scored without decoding.

    Attributes:
        codebook: the parameters of the codes.
        centroid_ids: (T,) uint16, below K.
        scales: (T,) uint8, (scale - 0.5) * 256: scales from 0.5 to 1.496, 128 means 1.
        residuals: (T, width) uint8: levels as `pack_levels` lays them out.

    Raises:
        TypeError: a tensor has another dtype.
        ValueError: shapes or devices do not fit together.
    """

    codebook: Codebook
    centroid_ids: torch.Tensor
    scales: torch.Tensor
    residuals: torch.Tensor

    def __post_init__(self) -> None:
        _check_dtype("centroid_ids", self.centroid_ids, torch.uint16)
        _check_dtype("scales", self.scales, torch.uint8)
        _check_dtype("residuals", self.residuals, torch.uint8)
        tokens, book = len(self.centroid_ids), self.codebook
        expected = {"centroid_ids": (tokens,), "scales": (tokens,), "residuals": (tokens, book.width)}
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"{name} of {tokens} tokens with {book.dim} dimensions in {book.bits} bits must have "
                    f"the shape {shape}, but have {tuple(getattr(self, name).shape)}"
                )
        _check_device(book.centroids, self.centroid_ids, self.scales, self.residuals)

    def __len__(self) -> int:
        return self.centroid_ids.shape[0]  # ten times as fast as a tensor's len

    @cached_property
    def _arrays(self) -> tuple[NDArray[np.generic], ...]:
        made = tuple(a.contiguous().numpy() for a in (self.residuals, self.centroid_ids, self.scales))
        # The first ones for all threads: `addresses` are theirs.
        kept: tuple[NDArray[np.generic], ...] = self.__dict__.setdefault("_arrays", made)
        return kept

    @cached_property
    def addresses(self) -> list[int]:
        """Addresses of residuals, centroids and scales on the CPU, valid as long as this object lives."""
        return [array.ctypes.data for array in self._arrays]

    @property
    def shape(self) -> torch.Size:
        """(T, d), the shape of the decoded rows."""
        return torch.Size([len(self), self.codebook.dim])

    @property
    def ndim(self) -> int:
        """2, as of the decoded rows."""
        return 2

    @property
    def dtype(self) -> torch.dtype:
        """float32, as of the decoded rows."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """The device of the codes."""
        return self.residuals.device

    def decode(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """Decode some rows, given as a slice or (n,) int64, to (n, d) float32.

        A row whose centroid does not exist decodes to NaN.
        """
        book = self.codebook
        ids = self.centroid_ids.view(torch.int16)[rows].long() & 0xFFFF
        levels = unpack_levels(self.residuals[rows], book.bits, book.dim)
        scales = ((self.scales[rows].float() + 128) / 256).masked_fill(ids >= len(book.base), torch.nan)
        return scales[:, None] * (book.base[ids.clamp(max=len(book.base) - 1)] + book.steps * levels)


def to_bytes(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round rows to 256 levels per dimension, between its extremes: center + steps * (level - 127.5).

    Args:
        rows: (T, d) float32, finite.

    Returns:
        (T, d) uint8 levels, (d,) center and (d,) steps.
    """
    least, most = rows.min(0).values, rows.max(0).values
    steps = ((most - least) / 255).clamp(min=1e-9)
    levels = ((rows - least) / steps).round_().clamp_(0, 255).to(torch.uint8)
    return levels, (least + most) / 2, steps


def fill_words(levels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pad (T, d) rows with zeros to a multiple of four bytes: (T, 4 * words)."""
    padded = np.zeros((len(levels), -(-levels.shape[1] // 4) * 4), np.uint8)
    padded[:, : levels.shape[1]] = levels
    return padded


def packed_width(dim: int, bits: int) -> int:
    """Bytes of one row's packed levels.

    Raises:
        ValueError: bits is not 1, 2, 4 or 8.
    """
    return -(-dim * _checked(bits) // 8)


def pack_levels(levels: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack (T, d) uint8 levels below 2 ** bits into (T, W) bytes.

    Byte j has the levels of dimensions j, j + W, j + 2 W and so on, the lowest bits first. Neighbouring dimensions are
    then unpacked from neighbouring bytes by the same shift.
    """
    width = packed_width(levels.shape[1], bits)
    packed = torch.zeros(len(levels), width, dtype=torch.uint8, device=levels.device)
    for plane, first in enumerate(range(0, levels.shape[1], width)):
        part = levels[:, first : first + width]
        packed[:, : part.shape[1]] |= part << (plane * bits)
    return packed


def unpack_levels(packed: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Unpack the (T, W) bytes of `pack_levels` to (T, d) uint8 levels."""
    mask = 2**bits - 1
    return torch.cat([(packed >> shift) & mask for shift in range(0, 8, bits)], dim=1)[:, :dim]


def _checked(bits: int) -> int:
    if bits not in (1, 2, 4, 8):
        raise ValueError(f"bits must be 1, 2, 4 or 8, but are {bits}")
    return bits


def _check_dtype(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise TypeError(f"{name} of codes must be {dtype}, but are {tensor.dtype}")


def _check_device(*tensors: torch.Tensor) -> None:
    devices = {str(tensor.device) for tensor in tensors}
    if len(devices) > 1:
        raise ValueError(f"codes and their codebook must be on one device, but are on {sorted(devices)}")
