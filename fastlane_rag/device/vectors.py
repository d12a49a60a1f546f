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
            found: NDArray[np.float32] = self._products(query, numbers).cpu().numpy()
            return found

    def nearest(
        self, query: NDArray[np.float32], allowed: NDArray[np.bool_] | None, count: int
    ) -> NDArray[np.int64] | None:
        """The documents with the greatest products, chosen on the device: their numbers, ascending.

        Args:
            query: as `products` takes it.
            allowed: (N,) documents that may be found; None for all.
            count: how many, at least 1, and all that tie with the last one.

        Returns:
            None where more tie than come back in one copy.
        """
        if not len(self._scales):
            return np.zeros(0, np.int64)
        with self._device.active():
            scores = self._products(query, None).nan_to_num(-torch.inf, torch.inf, -torch.inf)
            if allowed is not None:
                there = self._device.send(torch.from_numpy(np.ascontiguousarray(allowed)))
                scores = torch.where(there, scores, -torch.inf)
            best, numbers = scores.topk(min(2 * count, len(scores)))
            last = best[min(count, len(best)) - 1 :][:1]
            kept = (best >= last) & (best > -torch.inf)
            cut = kept[-1:] & (len(best) < len(scores))
            found = torch.cat([torch.where(kept, numbers, -1), cut.long()]).cpu().numpy()
        chosen: NDArray[np.int64] = np.sort(found[:-1][found[:-1] >= 0])
        return None if found[-1] else chosen

    def _products(self, query: NDArray[np.float32], numbers: NDArray[np.int64] | None) -> torch.Tensor:
        levels, scales, send = self._levels[:, : len(query)], self._scales, self._device.send
        if numbers is not None:
            at = send(torch.from_numpy(numbers))
            levels, scales = levels[at], scales[at]
        wanted = send(torch.from_numpy(query))
        return torch.cat([some.float() @ wanted for some in torch.split(levels, _BLOCK)]) * scales
