"""Late-interaction retrieval at the price of a dense retriever.

Heavy libraries load when a name that needs them is first used, so importing this package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.remote import RemoteIndex
    from fastlane_rag.search.result import Hit

__version__ = "0.1.0"
__all__ = ["FastLaneIndex", "FastLaneModel", "Hit", "RemoteIndex", "__version__"]

_HOMES = {
    "FastLaneIndex": "fastlane_rag.index",
    "FastLaneModel": "fastlane_rag.model",
    "Hit": "fastlane_rag.search.result",
    "RemoteIndex": "fastlane_rag.remote",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
