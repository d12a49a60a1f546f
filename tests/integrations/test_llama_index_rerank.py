"""FastLaneRerank as a node postprocessor."""

import asyncio
import pickle
import threading
from typing import Any

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.retrievers.fastlane import FastLaneRerank, FastLaneRetriever

from fastlane_rag import FastLaneModel

QUERY = "how do I add an enumeration type?"


@pytest.fixture(scope="module")
def rerank(model: FastLaneModel) -> FastLaneRerank:
    return FastLaneRerank(model)


@pytest.fixture
def nodes(corpus) -> list[NodeWithScore]:
    return [
        NodeWithScore(node=TextNode(id_=passage.id, text=passage.text, metadata=passage.metadata), score=number / 100)
        for number, passage in enumerate(corpus)
    ]


class Recorder(BaseEventHandler):
    """Keeps every instrumentation event."""

    events: list[Any] = []  # noqa: RUF012

    def handle(self, event: Any, **kwargs: Any) -> None:
        self.events.append(event)


@pytest.fixture
def recorder():
    recorder = Recorder(events=[])
    root = get_dispatcher()
    root.add_event_handler(recorder)
    yield recorder
    root.event_handlers.remove(recorder)


def test_ranks_by_summaxsim_and_keeps_the_best_four(rerank, nodes):
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    scores = [scored.score for scored in found]
    assert found[0].metadata["pep"] == 435
    assert len(found) == 4
    assert scores == sorted(scores, reverse=True)
    assert all(type(score) is float for score in scores)


async def test_async_returns_what_sync_returns(rerank, nodes):
    found = await rerank.apostprocess_nodes(nodes, query_str=QUERY)
    assert found == rerank.postprocess_nodes(nodes, query_str=QUERY)


@pytest.mark.parametrize("top_n", [0, 1, 12, 50])
def test_top_n_is_honoured(model, nodes, top_n):
    assert len(FastLaneRerank(model, top_n).postprocess_nodes(nodes, query_str=QUERY)) == min(top_n, 12)


def test_nodes_are_copied_never_changed(rerank, nodes):
    before = [scored.model_copy(deep=True) for scored in nodes]
    found = rerank.postprocess_nodes(nodes, query_str=QUERY)
    found[0].metadata["tags"].append("changed")
    found[0].score = 0.0
    assert nodes == before


def test_the_first_score_can_be_kept(model, nodes):
    first = {scored.node_id: scored.score for scored in nodes}
    found = FastLaneRerank(model, keep_retrieval_score=True).postprocess_nodes(nodes, query_str=QUERY)
    assert all(scored.metadata["retrieval_score"] == first[scored.node_id] for scored in found)
    assert all("retrieval_score" not in scored.metadata for scored in nodes)


@pytest.mark.parametrize("count", [0, 12])
async def test_each_call_reports_one_start_and_one_end(model, nodes, recorder, count):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = FastLaneRerank(model, top_n=2, callback_manager=CallbackManager([debug]))
    found = rerank.postprocess_nodes(nodes[:count], query_str=QUERY)
    (start,) = [event for event in recorder.events if isinstance(event, ReRankStartEvent)]
    (end,) = [event for event in recorder.events if isinstance(event, ReRankEndEvent)]
    assert start.query == QueryBundle(QUERY)
    assert start.nodes == nodes[:count]
    assert start.top_n == 2
    assert start.model_name == model.name
    assert end.nodes == found
    assert len(found) == min(count, 2)
    assert len(debug.get_event_pairs(CBEventType.RERANKING)) == 1
    recorder.events.clear()
    assert await rerank.apostprocess_nodes(nodes[:count], query_str=QUERY) == found
    assert sum(isinstance(event, ReRankStartEvent | ReRankEndEvent) for event in recorder.events) == 2


def test_a_query_is_needed(rerank, nodes):
    with pytest.raises(ValueError, match="query_str"):
        rerank.postprocess_nodes(nodes)


def test_equal_nodes_keep_their_order(rerank):
    twins = [NodeWithScore(node=TextNode(id_=id_, text="Cats purr.")) for id_ in "cab"]
    assert [scored.node_id for scored in rerank.postprocess_nodes(twins, query_str="cats")] == ["c", "a", "b"]


def test_pickling_gives_a_working_copy_and_leaves_the_original_whole(rerank, nodes):
    copy = pickle.loads(pickle.dumps(rerank))
    expected = rerank.postprocess_nodes(nodes, query_str=QUERY)
    assert copy.top_n == 4
    assert copy.postprocess_nodes(nodes, query_str=QUERY) == expected


def test_serialisation_shows_no_model_internals(rerank):
    assert rerank.to_dict() == {
        "top_n": 4,
        "keep_retrieval_score": False,
        "normalize_scores": True,
        "score_key": None,
        "score_threshold": None,
        "batch_size": None,
        "weighted": True,
        "class_name": "FastLaneRerank",
    }


def test_scores_are_on_the_retrievers_scale(model, rerank, nodes):
    """Within what the index's codec rounds away."""
    retriever = FastLaneRetriever.from_nodes([scored.node for scored in nodes], model=model, similarity_top_k=12)
    for normalize in (True, False):
        retriever.normalize_scores = rerank.normalize_scores = normalize
        scores = {scored.node_id: scored.score for scored in retriever.retrieve(QUERY)}
        ranked = rerank.postprocess_nodes(nodes, query_str=QUERY)
        assert len(ranked) == 4
        assert all(0 <= scored.score <= 1 for scored in ranked) == normalize
        for scored in ranked:
            assert scored.score == pytest.approx(scores[scored.node_id], abs=0.05)
    rerank.normalize_scores = True


def test_behind_a_dense_index(model, nodes):
    dense = VectorStoreIndex([scored.node for scored in nodes], embed_model=MockEmbedding(embed_dim=4))
    engine_nodes = dense.as_retriever(similarity_top_k=12).retrieve(QUERY)
    found = FastLaneRerank(model, top_n=3).postprocess_nodes(engine_nodes, query_str=QUERY)
    assert len(found) == 3
    assert found[0].metadata["pep"] == 435


async def test_async_leaves_the_event_loop_free(rerank, nodes, monkeypatch):
    """Encoding that waits until the loop has moved on can only finish off the loop."""
    moved_on = threading.Event()
    encode = FastLaneModel.encode_documents

    def patient(self: FastLaneModel, *args: Any, **kwargs: Any) -> Any:
        assert moved_on.wait(10), "the event loop stood still while reranking"
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(FastLaneModel, "encode_documents", patient)
    task = asyncio.create_task(rerank.apostprocess_nodes(nodes, query_str=QUERY))
    await asyncio.sleep(0.01)
    moved_on.set()
    assert len(await task) == 4
