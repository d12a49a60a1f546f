"""Shapes, tolerances and the one comparison shared by the scoring tests."""

import os
from dataclasses import dataclass
from functools import cached_property

import pytest
import torch

from fastlane_rag.scoring import Codebook, Codes, backends
from fastlane_rag.scoring.codes import pack_levels
from fastlane_rag.scoring.native import kernels
from fastlane_rag.scoring.triton import backend as triton_backend

# Inputs are rounded to their dtype before either side sees them and products are summed in float32,
# so half precision is held to the tolerance of float32.
TOLERANCE = {
    torch.float64: {"rtol": 1e-12, "atol": 1e-12},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 1e-5, "atol": 1e-5},
}


@dataclass
class Batch:
    """Sequences of token embeddings, in the forms the scoring core takes."""

    sequences: list[torch.Tensor]
    dim: int
    dtype: torch.dtype

    @cached_property
    def packed(self) -> torch.Tensor:
        return torch.cat([torch.empty(0, self.dim, dtype=self.dtype), *self.sequences])

    @cached_property
    def offsets(self) -> torch.Tensor:
        return torch.tensor([0, *map(len, self.sequences)]).cumsum(0)

    @cached_property
    def padded(self) -> torch.Tensor:
        """Padded with large numbers, which would win every maximum if the mask were ignored."""
        values = torch.full((*self.mask.shape, self.dim), 100.0, dtype=self.dtype)
        values[self.mask] = self.packed
        return values

    @cached_property
    def mask(self) -> torch.Tensor:
        width = max(map(len, self.sequences), default=0) + 2
        return torch.arange(width) < self.offsets.diff()[:, None]


@dataclass(frozen=True)
class Case:
    """Lengths of queries and documents, and the dimension."""

    queries: tuple[int, ...]
    documents: tuple[int, ...]
    dim: int

    def __str__(self) -> str:
        def show(lengths: tuple[int, ...]) -> str:
            return f"{len(lengths)}x{min(lengths, default=0)}-{max(lengths, default=0)}"

        return f"Q{show(self.queries)}-D{show(self.documents)}-d{self.dim}"

    def batches(self, dtype: torch.dtype = torch.float32) -> tuple[Batch, Batch]:
        """Queries and documents of normalised random tokens, the same on every call."""
        generator = torch.Generator().manual_seed(0)

        def tokens(length: int) -> torch.Tensor:
            drawn = torch.randn(length, self.dim, generator=generator, dtype=torch.float64)
            return torch.nn.functional.normalize(drawn, dim=-1).to(dtype)

        queries, documents = ([tokens(n) for n in lengths] for lengths in (self.queries, self.documents))
        return Batch(queries, self.dim, dtype), Batch(documents, self.dim, dtype)


# Odd shapes first: they break kernels, the round ones do not.
CASES = [
    Case((1,), (1,), 1),
    Case((7,), (1, 3, 2), 5),
    Case((3, 1, 5), (63, 1, 17, 129), 33),
    Case((0, 4), (5, 0, 65, 0), 96),
    Case((31, 2, 33), (255, 40, 256, 257, 41), 100),
    Case((2,) * 9, tuple(range(1, 40)), 7),
    Case((5,), (), 8),
    Case((), (5, 6), 8),
    Case((32,) * 4, (64,) * 6, 128),
    Case((23,), (180,) * 4, 384),
]


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture(params=TOLERANCE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def dtype(request):
    return request.param


# Triton's interpreter takes CPU tensors, but only where it was asked for before Triton was loaded:
# test_triton.py starts such a process.
INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(params=["triton"] if INTERPRETING else ["compiled", "torch"])
def backend(request, monkeypatch):
    """Run a test with each implementation that this process can run on CPU tensors."""
    if request.param == "compiled":
        if not kernels.available():
            pytest.skip("the compiled kernels are not here")
        return request.param
    monkeypatch.setattr(backends, "_COMPILED", {})
    if request.param == "triton":
        monkeypatch.setattr(backends, "_COMPILED", {"cpu": triton_backend})
        monkeypatch.setattr(triton_backend, "available", lambda device: True)
        # The interpreter multiplies bfloat16 by their bits; on a device test_gpu.py covers them.
        monkeypatch.setattr(backends, "_DTYPES", (torch.float32, torch.float16))
    return request.param


@pytest.fixture(scope="session")
def assert_close():
    """Compare with the tolerance of the dtype the scores were computed from."""

    def compare(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype = torch.float32) -> None:
        torch.testing.assert_close(actual.double().cpu(), expected.double(), **TOLERANCE[dtype])

    return compare


@pytest.fixture(scope="session")
def draw_codes():
    """Codes of the size real ones have: unit centroids, residuals of about half their length."""

    def draw(tokens, dim, bits, centroids=37):
        generator = torch.Generator().manual_seed(dim * bits)
        levels = torch.randint(2**bits, (tokens, dim), generator=generator, dtype=torch.uint8)
        drawn = torch.randn(centroids, dim, generator=generator)
        steps = torch.rand(dim, generator=generator) * 2 / (2**bits * dim**0.5)
        book = Codebook(torch.nn.functional.normalize(drawn, dim=1), steps, bits)
        return Codes(
            book,
            torch.randint(centroids, (tokens,), generator=generator).to(torch.uint16),
            torch.randint(90, 200, (tokens,), generator=generator, dtype=torch.uint8),
            pack_levels(levels, bits),
        )

    return draw


@pytest.fixture(scope="session")
def tolerance():
    """How far a token's maximum over codes may be from that over the decoded rows."""

    def of(queries, codes):
        """What rounding can cost one maximum: query and centroids to a byte a dimension, or both sides to float16."""
        if 0 in (len(queries), len(codes)):
            return 0.0
        book = codes.codebook
        centroid_steps = (book.centroids.max(0).values - book.centroids.min(0).values) / 255
        unit = (queries * book.steps).abs().max() / 127
        of_query = unit / 2 * (2**book.bits - 1) / 2 * queries.shape[1]
        of_centroids = 1.1 * (queries.abs() * centroid_steps / 2).sum(1).max()  # a tenth for the query's two bytes
        to_bytes = 1.5 * (of_query + of_centroids)  # scales go up to 1.5
        to_halfs = 2**-10 * queries.norm(dim=1).max() * codes.decode(slice(None)).norm(dim=1).max()
        return 1e-5 + float(torch.maximum(to_bytes, to_halfs))

    return of


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
