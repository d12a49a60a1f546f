"""The choice of an engine by the name of a device. torch loads where a device is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlane_rag.search.policy import SearchPolicy

if TYPE_CHECKING:
    from fastlane_rag.search.engines.device import DeviceEngine

__all__ = ["check_device", "device_engine", "is_cuda"]


def is_cuda(device: Any) -> bool:
    """Whether this names a CUDA device: documents then go there, and not the model alone."""
    return isinstance(device, str) and device.startswith("cuda")


def check_device(device: Any) -> None:
    """Check that a CUDA device that is named is there; what is no CUDA device concerns the model alone.

    Raises:
        DeviceError: it cannot be used.
    """
    if is_cuda(device):
        from fastlane_rag.device import Device

        Device(device)


def device_engine(device: Any, policy: SearchPolicy) -> DeviceEngine | None:
    """The engine of a CUDA device; None for the host's.

    Raises:
        DeviceError: the device cannot be used.
    """
    if not is_cuda(device):
        return None
    from fastlane_rag.device import Device
    from fastlane_rag.search.engines.device import DeviceEngine

    return DeviceEngine(Device(device), policy.device_share)
