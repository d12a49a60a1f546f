"""One device: whether it is there, how much memory it has, and copies to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from fastlane_rag.errors import DeviceError

__all__ = ["Device"]

_recording = threading.Lock()  # a process may record one graph at a time
_STAGE_BYTES = 32 << 20  # of pinned memory; there are two, one is filled while the other is copied from


class Device:
    """A CUDA device. The CPU may stand in for one: everything is copied and computed as on a device.

    Args:
        name: "cuda", "cuda:1" and so on, or "cpu".

    Raises:
        DeviceError: there is no such device, or it cannot be used.
    """

    def __init__(self, name: str) -> None:
        self.torch = _checked(name)
        self._lock = threading.Lock()
        self._stages: list[tuple[torch.Tensor, torch.cuda.Event | None]] = []
        self._aside: torch.cuda.Stream | None = None

    @property
    def is_cuda(self) -> bool:
        """Whether it is a device and no stand-in."""
        return self.torch.type == "cuda"

    def __str__(self) -> str:
        return str(self.torch)

    def free(self) -> int:
        """Bytes that this process may still allocate: free ones, and those that torch keeps for reuse."""
        if not self.is_cuda:
            return 1 << 62
        kept = torch.cuda.memory_reserved(self.torch) - torch.cuda.memory_allocated(self.torch)
        return torch.cuda.mem_get_info(self.torch)[0] + kept

    @contextmanager
    def active(self) -> Iterator[None]:
        """Work in the `with` block goes to this device, in one order with that of all other threads."""
        if not self.is_cuda:
            yield
            return
        with torch.cuda.device(self.torch), torch.cuda.stream(torch.cuda.default_stream(self.torch)):
            yield

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy on the device, by way of pinned memory: the tensor may be a map of a file.

        Raises:
            torch.OutOfMemoryError: the device's memory is full.
        """
        with self._lock, self.active():
            target = torch.empty(tensor.shape, dtype=tensor.dtype, device=self.torch)
            source, copied = (one.reshape(-1).view(torch.uint8) for one in (tensor.contiguous(), target))
            for n, first in enumerate(range(0, len(source), _STAGE_BYTES)):
                stage, event = self._stage(n % 2)
                part = source[first : first + _STAGE_BYTES]
                if event is not None:
                    event.synchronize()  # what was copied from it last has arrived
                stage[: len(part)].copy_(part)
                copied[first : first + _STAGE_BYTES].copy_(stage[: len(part)], non_blocking=True)
                if event is not None:
                    event.record()
        return target

    def send(self, tensor: torch.Tensor, target: torch.Tensor | None = None) -> torch.Tensor:
        """A copy of a small tensor on the device, which nothing waits for.

        Args:
            tensor: on the host.
            target: where to copy it; None for a new tensor.
        """
        ready = tensor.pin_memory() if self.is_cuda else tensor  # torch reuses pinned memory after the copy
        if target is None:
            return ready.to(self.torch, non_blocking=True)
        return target.copy_(ready, non_blocking=True)

    @property
    def records(self) -> bool:
        """Whether work can be recorded here."""
        return self.is_cuda

    def pool(self) -> Any:
        """Memory for recordings of which no two run at once."""
        return torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], torch.Tensor], pool: Any) -> Callable[[], torch.Tensor]:
        """Record some work as a CUDA graph. The result does it again, and returns the same tensor each time.

        The tensors that the work reads must stay alive.

        Args:
            work: launches kernels and does nothing else; first once as ever, for compilers and libraries to be ready.
            pool: made by `pool`.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        default = torch.cuda.default_stream(self.torch)
        with _recording, self.active():  # makes its own stream the current one again if recording fails half-way
            if self._aside is None:
                self._aside = torch.cuda.Stream(self.torch)  # type: ignore[no-untyped-call]
            self._aside.wait_stream(default)
            with torch.cuda.stream(self._aside):
                work()
            graph = torch.cuda.CUDAGraph()
            # Other threads may use the device meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=self._aside, capture_error_mode="thread_local"):
                result = work()
            default.wait_stream(self._aside)

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    def _stage(self, number: int) -> tuple[torch.Tensor, torch.cuda.Event | None]:
        while len(self._stages) <= number:
            stage = torch.empty(_STAGE_BYTES, dtype=torch.uint8, pin_memory=self.is_cuda)
            event = torch.cuda.Event() if self.is_cuda else None  # type: ignore[no-untyped-call]
            self._stages.append((stage, event))
        return self._stages[number]


def _checked(name: str) -> torch.device:
    """The device of this name.

    Raises:
        DeviceError: there is no such device, or it cannot be used.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(
            f"device must be None or the name of a CUDA device, such as 'cuda:0', not {name!r}"
        ) from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise DeviceError(f"an index can be searched on a CUDA device, not on {name!r}; leave device out for the CPU")
    if torch.version.cuda is None:
        raise DeviceError(
            f"device={name!r} needs torch with CUDA, but torch {torch.__version__} is built without; "
            "install another build of it, or leave device out for the CPU"
        )
    try:
        count = torch.cuda.device_count()
        if not torch.cuda.is_available() or not count:
            raise DeviceError(
                f"device={name!r}: no CUDA device can be used; nvidia-smi says whether there is one, and whether its "
                f"driver is new enough for CUDA {torch.version.cuda}"
            )
        if (device.index or 0) >= count:
            raise DeviceError(f"device={name!r}: there are {count} CUDA devices, numbered from 0")
        number = torch.cuda.current_device() if device.index is None else device.index
        torch.zeros(1, device=f"cuda:{number}")
    except RuntimeError as error:
        raise DeviceError(f"device={name!r} cannot be used: {error}") from error
    return torch.device("cuda", number)
