"""Spans of OpenTelemetry and the results that callers collect."""

import builtins
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FilterError
from fastlane_rag.search import tracing

TEXTS = ["Cats purr when they are content.", "Dogs bark at strangers.", "Birds sing in the morning."]


@pytest.fixture(scope="module")
def index(model):
    with FastLaneIndex.create(model=model) as made:
        made.add(TEXTS, ["cat", "dog", "bird"], [{"legs": 4}, {"legs": 4}, {"legs": 2}])
        yield made


@pytest.fixture
def exporter(monkeypatch):
    """Spans of a provider of the test's own."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


def stages(span: Any) -> dict[str, float]:
    return {event.name: event.attributes["fastlane.milliseconds"] for event in span.events}


def test_a_search_is_a_span_with_an_event_for_each_stage(index, exporter):
    result = index.search_detailed("what does a cat do?", 2, filter={"legs": 4}, hybrid=0.3)
    [span] = exporter.get_finished_spans()
    assert span.name == "fastlane.search"
    assert dict(span.attributes) == {
        "fastlane.queries": 1,
        "fastlane.k": 2,
        "fastlane.hybrid": 0.3,
        "fastlane.filtered": True,
        "fastlane.lane": "exhaustive",
        "fastlane.hits": 2,
        "fastlane.comparisons": result.comparisons,
    }
    ran = {f"fastlane.{stage}": taken for stage, taken in result.milliseconds.items() if taken}
    taken = stages(span)
    assert taken.pop("fastlane.encode") > 0
    assert taken == ran
    assert "fastlane.words" in ran


def test_a_batch_is_one_span_and_belongs_to_the_span_around_it(index, exporter):
    with trace.get_tracer("test").start_as_current_span("request") as request:
        results = index.search_batch_detailed(["cat", "dog", "bird"], 1)
    span, outer = exporter.get_finished_spans()
    assert outer.name == "request"
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.attributes["fastlane.queries"] == span.attributes["fastlane.hits"] == 3
    assert span.attributes["fastlane.comparisons"] == sum(result.comparisons for result in results)
    fetched = sum(result.milliseconds["fetch"] for result in results)
    assert stages(span)["fastlane.fetch"] == pytest.approx(fetched)


def test_words_encode_nothing(index, exporter):
    index.search("cats", lane="words")
    [span] = exporter.get_finished_spans()
    assert span.attributes["fastlane.lane"] == "words"
    assert set(stages(span)) >= {"fastlane.words", "fastlane.fetch"}


def test_an_error_is_recorded(index, exporter):
    with pytest.raises(FilterError):
        index.search("cat", filter={"legs": {"$near": 4}})
    [span] = exporter.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR
    assert "$near" in span.events[-1].attributes["exception.message"]


def test_searches_go_on_without_the_library(index, monkeypatch):
    expected = index.search("cat")
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("opentelemetry"):
            raise ImportError(name)
        return real(name, *rest, **more)

    tracing._tracing.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    assert index.search("cat") == expected
    assert tracing._tracing() is None
    monkeypatch.undo()
    tracing._tracing.cache_clear()


def test_results_of_searches_in_a_block_are_collected(index):
    with tracing.searches() as outer:
        first = index.search_detailed("cat")
        with tracing.searches() as inner:
            index.search_batch(["dog", "bird"])
        last = index.search_detailed("bird")
    index.search("cat")
    assert outer == [first, last]
    assert [result.hits[0].id for result in inner] == ["dog", "bird"]
