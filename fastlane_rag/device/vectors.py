"""Vectors of documents on a device, for the lane that gathers by them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.device.memory import Device

__all__ = ["ResidentVectors"]

_BLOCK = 1 << 16  # vectors that are widened to float32 together


class ResidentVectors:
    """Vectors of N documents in a byte a dimension, as they are stored: vector = scale * levels.

    Args:
        device: where they go.
        levels: (N, m) int8.
        scales: (N,) float32.

    Raises:
        torch.OutOfMemoryError: they do not fit.
    """

    def __init__(self, device: Device, levels: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        self._device = device
        self._levels, self._scales = device.put(torch.from_numpy(levels)), device.put(torch.from_numpy(scales))
        self.bytes = self._levels.nbytes + self._scales.nbytes

    def products(self, query: NDArray[np.float32], numbers: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """(n,) float32: the products of a vector with those at these numbers, all where None.

        A query of fewer dimensions is multiplied with the leading ones.
        """
        with self._device.active():
            levels, scales = self._levels[:, : len(query)], self._scales
            if numbers is not None:
                at = torch.from_numpy(numbers).to(levels.device)
                levels, scales = levels[at], scales[at]
            wanted = torch.from_numpy(query).to(levels.device)
            parts = [some.float() @ wanted for some in torch.split(levels, _BLOCK)]
            found: NDArray[np.float32] = (torch.cat(parts) * scales).cpu().numpy()
            return found
