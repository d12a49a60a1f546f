"""The residual codec: each token as its nearest centroid, a few bits per dimension, and a scale.

It is trained on a sample of the corpus. Rows are scored in code, without decoding (`fastlane_rag.scoring.Codes`).
docs/tuning.md has the evidence for the constants.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.codecs.base import Arrays
from fastlane_rag.parameters import packed, unpacked

if TYPE_CHECKING:
    import torch

    from fastlane_rag.scoring import Codebook, Codes
    from fastlane_rag.scoring.inputs import Rows
    from fastlane_rag.scoring.native import kernels

__all__ = ["SAMPLE_PER_CENTROID", "ResidualCodec", "centroids_for"]

_logger = logging.getLogger(__name__)

_FORMAT = "fastlane-residual-codec", "1"
# By bits: the distance between two levels with the least loss on held-out rows, in standard deviations of a dimension.
_BEST_STEP = {1: 1.64, 2: 1.06, 4: 0.365, 8: 0.039}
# Keep a step between these multiples of the best one. Shorter steps cut tails off, longer ones are coarse.
_FITTING = 0.7, 1.15
# More centroids make gathering faster and encoding slower.
_MOST_CENTROIDS = 1 << 14
SAMPLE_PER_CENTROID = 48
_ITERATIONS = 5
_BLOCK = 1024  # tokens whose nearest centroids torch finds at once
_LIFTED = 1 << 14  # and the compiled kernels, which share them among threads


class ResidualCodec:
    """A trained codec. `fastlane_rag.codecs.base.Codec` states the duties of its methods.

    Args:
        centroids: (K, dim) float32, K at most 65,536.
        steps: (dim,) float32, the distance between two levels of each dimension.
        bits: 1, 2, 4 or 8 bits per dimension.

    Attributes:
        name: "residual", the bits and a digest of the parameters, so that no two codecs share a name.

    Raises:
        ValueError: the parameters do not fit together.
    """

    def __init__(self, centroids: NDArray[np.float32], steps: NDArray[np.float32], bits: int) -> None:
        _check_parameters(centroids, steps, bits)
        self._centroids, self._steps, self._bits = centroids, steps, bits
        self._books: list[Codebook] = []

    @property
    def codebook(self) -> Codebook:
        """The parameters as `scoring` takes them; built on first use, because it needs torch.

        Threads that need it first at the same time may build several, and all get the same one: documents and queries
        of different ones do not go together.
        """
        if not self._books:
            import torch

            from fastlane_rag.scoring import Codebook

            self._books.append(Codebook(torch.from_numpy(self._centroids), torch.from_numpy(self._steps), self._bits))
        return self._books[0]

    @cached_property
    def _lookup(self) -> torch.Tensor | kernels.Book:
        return _searchable(self.codebook.centroids)

    @property
    def lists(self) -> int:
        """Number of centroids; each has a posting list in a segment."""
        return len(self._centroids)

    @classmethod
    def train(
        cls,
        sample: NDArray[np.floating],
        bits: int = 4,
        *,
        centroids: int | None = None,
        seed: int = 0,
        like: ResidualCodec | None = None,
        between: Callable[[], None] = lambda: None,
        device: str | None = None,
    ) -> ResidualCodec:
        """Learn centroids by k-means, and steps from the residuals.

        From 2 bits on, centroids are odd multiples of half a step, so the levels of every centroid are multiples of the
        step. Rows in code can then be recoded with other centroids and the same steps without being rounded again
        (docs/tuning.md compares the errors).

        Args:
            sample: (T, dim) token rows, float16 or float32, better from many documents than from a few.
            bits: 1, 2, 4 or 8 bits per dimension.
            centroids: how many; None for `centroids_for(T)`. At most half of the distinct rows are used.
            seed: the same seed and sample give the same codec.
            like: the codec of the rows to recode; its steps are kept where they fit.
            between: called every few tenths of a second; what it raises ends the training.
            device: a CUDA device for the k-means; its centroids differ a little. None for the CPU, which also does what
                fails there.

        Raises:
            ValueError: the sample is empty or not finite, or a number is out of range.
        """
        import torch

        if bits not in _BEST_STEP:
            raise ValueError(f"bits must be 1, 2, 4 or 8, but are {bits}")
        sample = np.asarray(sample)
        if sample.ndim != 2 or len(sample) == 0 or not _finite(sample):
            raise ValueError(
                f"a codec is trained on finite (tokens, dim) rows, at least one, but the sample has the shape "
                f"{sample.shape}" + (" and holds NaN or infinity" if sample.size else "")
            )
        if centroids is None:
            centroids = centroids_for(len(sample))
        if not 1 <= centroids <= 1 << 16:
            raise ValueError(f"the number of centroids must be from 1 to 65536, but is {centroids}")
        centroids = min(centroids, len(sample))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(sample), generator=generator)[: SAMPLE_PER_CENTROID * centroids]
        # In half precision as they come: the same numbers in half the memory.
        dtype = torch.float16 if sample.dtype == np.float16 else torch.float32
        rows = torch.empty(len(order), sample.shape[1], dtype=dtype)
        for first in range(0, len(order), _LIFTED):
            some = order[first : first + _LIFTED]
            rows[first : first + len(some)] = torch.from_numpy(sample[some.numpy()])
        del sample, order  # so that they are not in memory beside the rows
        # With every distinct row as a centroid, all residuals would be 0 and no steps could be learned: rows added
        # later would be stored as their nearest centroid.
        centroids = min(centroids, max(1, len({hashlib.sha256(row).digest() for row in rows.numpy()}) // 2))
        means = _k_means(rows, centroids, device, between)
        spread = _spread(rows, means, between)
        # A dimension without spread needs a step above 0, so that its levels are finite.
        steps = (spread * _BEST_STEP[bits]).clamp(min=1e-6)
        if bits > 1:
            if like is not None and like._bits == bits and len(like._steps) == len(steps):
                kept = torch.from_numpy(like._steps)
                least, most = _FITTING
                steps = torch.where((steps >= least * kept) & (steps <= most * kept), kept, steps)
            means = ((means / steps).floor_() + 0.5) * steps
        return cls(means.numpy(), steps.numpy(), bits)

    @cached_property
    def name(self) -> str:
        """The name in segments and the catalogue."""
        return f"residual{self._bits}-{hashlib.sha256(self.to_bytes()).hexdigest()[:16]}"

    def layout(self, dim: int) -> dict[str, tuple[np.dtype[np.generic], tuple[int, ...]]]:
        """Residuals (T, width) uint8, centroids (T,) uint16 and scales (T,) uint8.

        Raises:
            ValueError: the codec was trained for another dimension.
        """
        self._check_dim(dim)
        return {
            "residuals": (np.dtype("|u1"), (-(-dim * self._bits // 8),)),
            "centroids": (np.dtype("<u2"), ()),
            "scales": (np.dtype("|u1"), ()),
        }

    def encode(self, tokens: NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Encode (T, dim) rows into the arrays of `layout`.

        Raises:
            ValueError: the rows have another dimension, or hold NaN or infinity.
        """
        import torch

        from fastlane_rag.scoring.native import kernels

        self._check_dim(tokens.shape[1])
        rows = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.float32))
        # Check the sum first: it takes a tenth of the time, and a finite sum means finite rows.
        if not math.isfinite(float(rows.sum())) and (bad := int((~rows.isfinite().all(1)).sum())):
            raise ValueError(f"{bad} of {len(rows)} token embeddings hold NaN or infinity")
        book = self.codebook
        ids = _nearest(rows, self._lookup)
        if kernels.available():
            residuals, scales = kernels.code_rows(rows.numpy(), ids.numpy(), book.base.numpy(), book.for_kernels)
        else:
            residuals, scales = self._code_rows(rows, ids)
        return {"residuals": residuals, "centroids": ids.numpy().astype("<u2"), "scales": scales}

    def _code_rows(self, rows: torch.Tensor, ids: torch.Tensor) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Packed levels and scales of rows whose centroids are known, from torch alone."""
        import torch

        from fastlane_rag.scoring.codes import pack_levels

        book = self.codebook
        scales = torch.empty(len(rows), dtype=torch.uint8)
        residuals = torch.empty(len(rows), book.width, dtype=torch.uint8)
        for first in range(0, len(rows), _BLOCK):
            block = slice(first, first + _BLOCK)
            base = book.base[ids[block]]
            levels = ((rows[block] - base) / book.steps).round_().clamp_(0, 2**book.bits - 1)
            residuals[block] = pack_levels(levels.to(torch.uint8), book.bits)
            near = base + book.steps * levels
            # The scale that minimises the distance between the coded row and the row.
            scale = (rows[block] * near).sum(1) / near.square().sum(1).clamp(min=1e-12)
            scales[block] = ((scale - 0.5) * 256).round_().clamp_(0, 255).to(torch.uint8)
        return residuals.numpy(), scales.numpy()

    def decode(self, arrays: Arrays) -> NDArray[np.floating]:
        """Decode to (T, dim) float32 rows."""
        rows: NDArray[np.floating] = self.codes(arrays).decode(slice(None)).numpy()
        return rows

    def packed(self, arrays: Arrays) -> Rows:
        """The arrays as documents for `scoring`, without a copy; the same as `codes`."""
        return self.codes(arrays)

    def codes(self, arrays: Arrays) -> Codes:
        """The arrays as documents for `scoring`, without a copy."""
        import torch

        from fastlane_rag.scoring import Codes

        columns = (torch.from_numpy(arrays[name]) for name in ("centroids", "scales", "residuals"))
        return Codes(self.codebook, *columns)

    def to_bytes(self) -> bytes:
        """The parameters as a safetensors file."""
        arrays = {"centroids": self._centroids, "steps": self._steps, "bits": np.array([self._bits])}
        return packed(arrays, _FORMAT)

    @classmethod
    def from_bytes(cls, data: bytes) -> ResidualCodec:
        """Read what `to_bytes` wrote.

        Raises:
            IndexFormatError: the data are damaged, or of another version.
        """

        def made(arrays: dict[str, NDArray[Any]]) -> ResidualCodec:
            return cls(arrays["centroids"], arrays["steps"], int(arrays["bits"][0]))

        return unpacked(data, _FORMAT, "the codec's parameters", made)

    def _check_dim(self, dim: int) -> None:
        trained = self._centroids.shape[1]
        if dim != trained:
            raise ValueError(f"this codec was trained for {trained} dimensions, the tokens have {dim}")


def _finite(rows: NDArray[np.floating]) -> bool:
    """Whether there is no NaN or infinity, some rows at a time."""
    return all(np.isfinite(rows[first : first + _LIFTED]).all() for first in range(0, len(rows), _LIFTED))


def centroids_for(tokens: int) -> int:
    """How many centroids to train for this many token rows.

    Four times the square root of the number, rounded to a power of two, at most 16,384.
    """
    return min(_MOST_CENTROIDS, 1 << round(math.log2(4 * math.sqrt(max(tokens, 1)))))


def _check_parameters(centroids: NDArray[np.float32], steps: NDArray[np.float32], bits: int) -> None:
    if bits not in _BEST_STEP:
        raise ValueError(f"bits must be 1, 2, 4 or 8, but are {bits}")
    if centroids.dtype != np.float32 or centroids.ndim != 2 or not 1 <= len(centroids) <= 1 << 16:
        raise ValueError(
            f"centroids must be (K, dim) float32 with K from 1 to 65536, but are {centroids.dtype} {centroids.shape}"
        )
    if steps.dtype != np.float32 or steps.shape != centroids.shape[1:]:
        raise ValueError(f"steps must be ({centroids.shape[1]},) float32, but are {steps.dtype} {steps.shape}")


def _k_means(rows: torch.Tensor, count: int, device: str | None, between: Callable[[], None]) -> torch.Tensor:
    """(count, dim) centroids. `rows` must be in random order: k-means starts from the first ones."""
    import torch

    if device is not None:
        from fastlane_rag.codecs.means import device_means

        try:
            return device_means(rows.float(), count, _ITERATIONS, device)
        except Exception as error:  # a write must not fail because a device did
            _logger.warning("%s could not train the codec, so the CPU does: %s", device, error)
    centroids = rows[:count].to(torch.float32, copy=True)
    for _ in range(_ITERATIONS):
        nearest = _nearest(rows, _searchable(centroids), between)
        members = torch.bincount(nearest, minlength=count)[:, None]
        sums = torch.zeros_like(centroids)
        for block in _blocks(len(rows)):
            sums.index_add_(0, nearest[block], rows[block].float())
        # A centroid without members keeps its place.
        centroids = torch.where(members > 0, sums / members.clamp(min=1), centroids)
    return centroids


def _nearest(
    rows: torch.Tensor, centroids: torch.Tensor | kernels.Book, between: Callable[[], None] = lambda: None
) -> torch.Tensor:
    """(T,) int64: the nearest centroid of each row; `_searchable` prepared the centroids."""
    import torch

    from fastlane_rag.scoring import token_maxima
    from fastlane_rag.scoring.native import kernels

    nearest = torch.empty(len(rows), dtype=torch.int64)
    if isinstance(centroids, kernels.Book):
        for block in _blocks(len(rows), _LIFTED):
            between()
            nearest[block] = torch.from_numpy(kernels.nearest(_lifted(rows[block], 1).numpy(), centroids))
        return nearest
    one = torch.tensor([0, len(centroids)])
    for block in _blocks(len(rows), _BLOCK):
        between()
        nearest[block] = token_maxima(_lifted(rows[block], 1), centroids, one)[1][0]
    return nearest


def _spread(rows: torch.Tensor, centroids: torch.Tensor, between: Callable[[], None]) -> torch.Tensor:
    """(dim,) float32: the root mean square of each dimension of the rows' residuals."""
    import torch

    nearest = _nearest(rows, _searchable(centroids), between)
    sums = []
    for block in _blocks(len(rows)):
        apart = centroids[nearest[block]].sub_(rows[block])
        sums.append(apart.square_().sum(0).double())
    return (torch.stack(sums).sum(0) / len(rows)).sqrt().float()


def _blocks(count: int, size: int = _LIFTED) -> Iterator[slice]:
    """Slices of `size` rows, so that what is made of some is not in memory for all."""
    return (slice(start, start + size) for start in range(0, count, size))


def _searchable(centroids: torch.Tensor) -> torch.Tensor | kernels.Book:
    """(K, dim + 1) rows that find the nearest centroid by a product: it has the greatest x . c - |c|^2 / 2.

    The compiled kernels take the rows in 8 bits per dimension, between each dimension's extremes. docs/tuning.md says
    how little that loses.
    """
    from fastlane_rag.scoring.codes import fill_words, to_bytes
    from fastlane_rag.scoring.native import kernels

    lifted = _lifted(centroids, centroids.square().sum(1) / -2)
    if not kernels.available():
        return lifted
    levels, center, steps = (tensor.numpy() for tensor in to_bytes(lifted))
    return kernels.Book(fill_words(levels), center, steps, steps, 8, len(steps))


def _lifted(rows: torch.Tensor, last: torch.Tensor | float) -> torch.Tensor:
    """The rows with `last` as one more column."""
    import torch

    lifted = torch.empty(len(rows), rows.shape[1] + 1)
    lifted[:, :-1], lifted[:, -1] = rows, last
    return lifted
