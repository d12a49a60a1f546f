"""Token rows resident on a CUDA device, and searches over them."""

from fastlane_rag.device.memory import Device
from fastlane_rag.device.resident import Collection, Resident, Source
from fastlane_rag.device.searching import Asked, Chosen, search
from fastlane_rag.device.vectors import ResidentVectors

__all__ = ["Asked", "Chosen", "Collection", "Device", "Resident", "ResidentVectors", "Source", "search"]
