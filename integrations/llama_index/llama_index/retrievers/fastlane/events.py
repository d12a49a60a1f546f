"""What a search took, as an event of LlamaIndex's instrumentation."""

from llama_index.core import instrumentation
from llama_index.core.instrumentation.events import BaseEvent

from fastlane_rag.search.result import SearchResult

_dispatcher = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]


class FastLaneSearchEvent(BaseEvent):
    """A search of the index, between the start and the end of a retrieval.

    Attributes:
        lane: how candidates were gathered.
        hits: how many were found.
        candidates: documents that were refined.
        comparisons: of a query token with a document token.
        milliseconds: of each stage, as `fastlane_rag.search.result.SearchResult` has them.
        hint: why the filter matched nothing, where its keys or types tell.
    """

    lane: str
    hits: int
    candidates: int
    comparisons: int
    milliseconds: dict[str, float]
    hint: str = ""

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises the event."""
        return "FastLaneSearchEvent"


def report(results: list[SearchResult]) -> list[SearchResult]:
    """Send an event for each of these results, and give them back."""
    for result in results:
        _dispatcher.event(FastLaneSearchEvent(**result.summary()))
    return results
