"""Who wants to know what searches took: `searches` collects their results, and OpenTelemetry gets spans.

Where OpenTelemetry's API is installed, each call that searches is a span.

The span `fastlane.search` has the attributes `fastlane.queries`, `fastlane.k`, `fastlane.hybrid`, `fastlane.filtered`,
`fastlane.lane` (of all queries), `fastlane.hits` and `fastlane.comparisons` (summed over queries). Each stage that ran
is an event with `fastlane.milliseconds`: `fastlane.encode`, and one for each of `fastlane_rag.search.result.STAGES`.
Neither queries nor documents are in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.result import STAGES

if TYPE_CHECKING:
    from fastlane_rag.search.result import SearchResult

__all__ = ["SearchSpan", "search_span", "searches"]

_heard: ContextVar[list[SearchResult] | None] = ContextVar("_heard", default=None)


@contextmanager
def searches() -> Iterator[list[SearchResult]]:
    """A list to which every search in the block adds its results, for callers between which and a search others are."""
    results: list[SearchResult] = []
    token = _heard.set(results)
    try:
        yield results
    finally:
        _heard.reset(token)


class SearchSpan:
    """The span of one call; does nothing where nobody records it.

    Args:
        span: of OpenTelemetry, or None.
    """

    def __init__(self, span: Any) -> None:
        self._span: Any = span if span is not None and span.is_recording() else None
        self._start = perf_counter()

    def encoded(self) -> None:
        """Note that the queries are encoded."""
        if self._span is not None:
            self._stage("encode", 1000 * (perf_counter() - self._start))

    def found(self, results: Sequence[SearchResult]) -> None:
        """Note what was found, and what it took."""
        if (heard := _heard.get()) is not None:
            heard += results
        if self._span is None:
            return
        self._span.set_attributes(
            {
                "fastlane.lane": ",".join(sorted({result.lane for result in results})),
                "fastlane.hits": sum(len(result.hits) for result in results),
                "fastlane.comparisons": sum(result.comparisons for result in results),
            }
        )
        for stage in STAGES:
            if taken := sum(result.milliseconds[stage] for result in results):
                self._stage(stage, taken)

    def _stage(self, name: str, milliseconds: float) -> None:
        self._span.add_event(f"fastlane.{name}", {"fastlane.milliseconds": milliseconds})


@contextmanager
def search_span(options: SearchOptions, queries: int) -> Iterator[SearchSpan]:
    """The span of one call, from here to the end of the block; an exception is recorded in it.

    Args:
        options: of the searches.
        queries: how many there are.
    """
    tracing = _tracing()
    if tracing is None:
        yield SearchSpan(None)
        return
    attributes = {
        "fastlane.queries": queries,
        "fastlane.k": options.k,
        "fastlane.hybrid": options.hybrid,
        "fastlane.filtered": options.filter is not None,
    }
    with tracing.get_tracer("fastlane_rag").start_as_current_span("fastlane.search", attributes=attributes) as span:
        yield SearchSpan(span)


@cache
def _tracing() -> Any:
    """The module `opentelemetry.trace`; None where it is not installed."""
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace
