"""FastLaneReranker as a document compressor."""

import asyncio
import threading
from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_fastlane import FastLaneReranker, FastLaneVectorStore
from pydantic import ValidationError

from fastlane_rag import FastLaneModel

QUERY = "how do I add an enumeration type?"


@pytest.fixture(scope="module")
def reranker(model: FastLaneModel) -> FastLaneReranker:
    return FastLaneReranker(model=model)


@pytest.fixture
def documents(corpus) -> list[Document]:
    return [Document(id=passage.id, page_content=passage.text, metadata=passage.metadata) for passage in corpus]


def test_ranks_by_relevance_and_keeps_the_best_four(reranker, documents):
    found = reranker.compress_documents(documents, QUERY)
    relevances = [document.metadata["relevance_score"] for document in found]
    assert found[0].metadata["pep"] == 435
    assert len(found) == 4
    assert relevances == sorted(relevances, reverse=True)
    assert all(type(relevance) is float and 0 <= relevance <= 1 for relevance in relevances)


async def test_async_returns_what_sync_returns(reranker, documents):
    assert await reranker.acompress_documents(documents, QUERY) == reranker.compress_documents(documents, QUERY)


@pytest.mark.parametrize("top_n", [0, 1, 12, 50])
def test_top_n_is_honoured(model, documents, top_n):
    assert len(FastLaneReranker(model=model, top_n=top_n).compress_documents(documents, QUERY)) == min(top_n, 12)


async def test_nothing_in_nothing_out(reranker):
    assert reranker.compress_documents([], QUERY) == []
    assert await reranker.acompress_documents([], QUERY) == []


def test_documents_are_copied_never_changed(reranker, documents):
    before = [document.model_copy(deep=True) for document in documents]
    found = reranker.compress_documents(documents, QUERY)
    found[0].metadata["tags"].append("changed")
    assert documents == before
    stored = {document.id: document for document in documents}
    for document in found[1:]:
        assert document.page_content == stored[document.id].page_content
        assert {key: document.metadata[key] for key in stored[document.id].metadata} == stored[document.id].metadata


def test_equal_documents_keep_their_order_and_the_batch_size_changes_nothing(model, documents):
    twins = [Document(page_content="Cats purr.", metadata={"n": n}) for n in range(3)]
    found = FastLaneReranker(model=model).compress_documents(twins, "cats")
    assert [document.metadata["n"] for document in found] == [0, 1, 2]
    one_by_one = FastLaneReranker(model=model, batch_size=1).compress_documents(documents, QUERY)
    together = FastLaneReranker(model=model).compress_documents(documents, QUERY)
    assert [document.id for document in one_by_one] == [document.id for document in together]
    assert [document.metadata["relevance_score"] for document in one_by_one] == pytest.approx(
        [document.metadata["relevance_score"] for document in together], abs=1e-3
    )


@pytest.mark.parametrize("query", ["", "word " * 1000])
@pytest.mark.parametrize("text", ["", "word " * 3000])
def test_odd_texts_still_get_a_relevance(reranker, query, text):
    (found,) = reranker.compress_documents([Document(page_content=text)], query)
    assert 0 <= found.metadata["relevance_score"] <= 1


def test_misspelt_arguments_are_refused_and_the_model_stays_out_of_dumps(model, reranker):
    with pytest.raises(ValidationError, match="Extra inputs"):
        FastLaneReranker(model=model, top_k=3)
    assert reranker.model_dump() == {"top_n": 4, "score_threshold": None, "batch_size": None, "weighted": True}
    assert "FastLaneModel" not in repr(reranker)


def test_behind_a_dense_retriever(model, documents):
    dense = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    dense.add_documents(documents)
    retriever = ContextualCompressionRetriever(
        base_compressor=FastLaneReranker(model=model, top_n=3),
        base_retriever=dense.as_retriever(search_kwargs={"k": 12}),
    )
    found = retriever.invoke(QUERY)
    assert len(found) == 3
    assert found[0].metadata["pep"] == 435


def test_relevance_is_on_the_stores_scale(model, reranker, documents):
    """Within what the index's codec rounds away."""
    store = FastLaneVectorStore.from_documents(documents, model)
    stored = {found.id: relevance for found, relevance in store.similarity_search_with_relevance_scores(QUERY, k=12)}
    ranked = reranker.compress_documents(documents, QUERY)
    assert ranked
    for document in ranked:
        assert document.metadata["relevance_score"] == pytest.approx(stored[document.id], abs=0.01)


def test_a_model_in_a_directory_is_loaded_by_path(model, documents, tmp_path):
    model.save(tmp_path / "model")
    from_directory = FastLaneReranker(model=str(tmp_path / "model"))
    expected = FastLaneReranker(model=model).compress_documents(documents, QUERY)
    assert [document.id for document in from_directory.compress_documents(documents, QUERY)] == [
        document.id for document in expected
    ]


async def test_async_leaves_the_event_loop_free(reranker, documents, monkeypatch):
    """Encoding that waits until the loop has moved on can only finish off the loop."""
    moved_on = threading.Event()
    encode = FastLaneModel.encode_documents

    def patient(self: FastLaneModel, *args: Any, **kwargs: Any) -> Any:
        assert moved_on.wait(10), "the event loop stood still while reranking"
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(FastLaneModel, "encode_documents", patient)
    task = asyncio.create_task(reranker.acompress_documents(documents, QUERY))
    await asyncio.sleep(0.01)
    moved_on.set()
    assert len(await task) == 4
