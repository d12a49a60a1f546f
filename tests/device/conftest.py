"""Documents for searches on a device, for which the CPU stands in.

With TRITON_INTERPRET=1 the kernels for CUDA score them, in Triton's interpreter: test_kernels.py starts such a process.
"""

import os
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from fastlane_rag.codecs.residual import ResidualCodec
from fastlane_rag.device import Device
from fastlane_rag.scoring import backends
from fastlane_rag.scoring.triton import backend as triton_backend

DIM = 16


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    if os.environ.get("TRITON_INTERPRET") == "1":
        monkeypatch.setattr(backends, "_COMPILED", {"cpu": triton_backend})
        monkeypatch.setattr(triton_backend, "available", lambda device: True)


@dataclass(eq=False)
class Documents:
    """What a device takes: packed rows and their bounds."""

    packed: object
    offsets: np.ndarray


class CountingDevice(Device):
    """A device that counts the bytes copied to it, and may be too small."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.copied, self.memory = 0, 1 << 40

    def put(self, tensor):
        """A copy, as long as there is memory."""
        self.copied += tensor.nbytes
        if self.copied > self.memory:
            raise torch.OutOfMemoryError(f"only {self.memory} bytes")
        return super().put(tensor)


class RecordingDevice(CountingDevice):
    """A device that counts what it records. The CPU does the work again and writes to the same tensor, as a graph does.

    `failure` is what the next recording raises.
    """

    records = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.recorded = self.replayed = self.running = 0
        self.failure: Exception | None = None
        self.pools: list[object] = []

    def pool(self):
        """Memory, or what stands for it."""
        self.pools.append(super().pool() if self.is_cuda else object())
        return self.pools[-1]

    def record(self, work, pool):
        """Work to do again."""
        assert pool is self.pools[-1]
        if self.failure is not None:
            raise self.failure
        again = super().record(work, pool) if self.is_cuda else _rewriting(work)
        self.recorded += 1

        def replay():
            self.running += 1
            assert self.running == 1, "two searches write to the same memory"
            self.replayed += 1
            result = again()
            self.running -= 1
            return result

        return replay


def _rewriting(work):
    result = work()
    return lambda: result.copy_(work())


@dataclass
class Library:
    """Draws documents of unit rows, all codes of one codec."""

    chance: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    codec: ResidualCodec | None = None

    def rows(self, tokens: int) -> np.ndarray:
        """(T, DIM) float32."""
        drawn = self.chance.standard_normal((tokens, DIM)).astype(np.float32)
        return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)

    def query(self, tokens: int) -> torch.Tensor:
        """(L, DIM) float32."""
        return torch.from_numpy(self.rows(tokens))

    def halfs(self, *lengths: int) -> Documents:
        """Documents of these lengths in half precision."""
        rows = torch.from_numpy(self.rows(sum(lengths))).half()
        return Documents(rows, np.cumsum([0, *lengths]))

    def codes(self, *lengths: int) -> Documents:
        """Documents of these lengths in code."""
        if self.codec is None:
            self.codec = ResidualCodec.train(self.rows(200), bits=4, centroids=8)
        return Documents(self.codec.codes(self.codec.encode(self.rows(sum(lengths)))), np.cumsum([0, *lengths]))


@pytest.fixture
def library():
    return Library()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return CountingDevice(request.param)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def recording(request, monkeypatch):
    """A device that records; the CPU does so whatever scores the documents."""
    if request.param == "cpu":
        monkeypatch.setattr("fastlane_rag.scoring.backends.never_waits", lambda *_: True)
    return RecordingDevice(request.param)
