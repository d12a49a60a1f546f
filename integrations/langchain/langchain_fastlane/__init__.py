"""FastLane for LangChain: late-interaction retrieval behind LangChain's own interfaces.

A name is imported when it is first used, so importing this package is cheap.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_fastlane.query_constructors import FastLaneTranslator
    from langchain_fastlane.rerankers import FastLaneReranker
    from langchain_fastlane.retrievers import FastLaneRetriever
    from langchain_fastlane.vectorstores import FastLaneVectorStore

__all__ = ["FastLaneReranker", "FastLaneRetriever", "FastLaneTranslator", "FastLaneVectorStore"]

_HOMES = {
    "FastLaneReranker": "langchain_fastlane.rerankers",
    "FastLaneRetriever": "langchain_fastlane.retrievers",
    "FastLaneTranslator": "langchain_fastlane.query_constructors",
    "FastLaneVectorStore": "langchain_fastlane.vectorstores",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
