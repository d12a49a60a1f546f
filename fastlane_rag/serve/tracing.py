"""Spans of OpenTelemetry, where its libraries are installed. Without a provider set up they cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

__all__ = ["search_span"]


@contextmanager
def search_span(index: str, queries: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """The span `fastlane.answer` around a search, within the one that FastAPI has for the request.

    Args:
        index: the name of the index.
        queries: how many are answered.

    Yields:
        What takes the milliseconds of each stage, a query.
    """
    try:
        from opentelemetry import trace
    except ImportError:
        yield lambda milliseconds: None
        return
    attributes: dict[str, str | int] = {"fastlane.index": index, "fastlane.queries": queries}
    with trace.get_tracer("fastlane_rag").start_as_current_span("fastlane.answer", attributes=attributes) as span:
        yield lambda milliseconds: span.set_attributes({f"fastlane.{k}_ms": v for k, v in milliseconds.items()})
