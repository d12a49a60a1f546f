"""What users of such integrations complained about and no other test here holds: results that change when an index is
reopened (ColBERT#261), padding that inflates scores (rerankers#75), gradients kept while ranking (AutoRAG#424)."""

import pytest
import torch
from langchain_core.documents import Document
from langchain_fastlane import FastLaneReranker, FastLaneRetriever, FastLaneVectorStore
from llama_index.core import Document as LlamaDocument
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.retrievers.fastlane import FastLaneRerank
from llama_index.retrievers.fastlane import FastLaneRetriever as NodeRetriever

from fastlane_rag import FastLaneIndex, scoring

SHORT = "enum"
LONG = "which operator multiplies matrices, and why was a new one added to the language instead of using a method?"


def test_scores_are_the_same_after_reopening(model, corpus, tmp_path):
    """To the last bit, before and after the store was closed."""
    documents = [Document(id=passage.id, page_content=passage.text, metadata=passage.metadata) for passage in corpus]
    with FastLaneIndex.create(tmp_path / "index", model=model) as index:
        store = FastLaneVectorStore(index)
        store.add_documents(documents)
        before = [store.similarity_search_with_score(query, k=12) for query in (SHORT, LONG)]
    with FastLaneIndex.open(tmp_path / "index", model=model) as index:
        store = FastLaneVectorStore(index)
        assert [store.similarity_search_with_score(query, k=12) for query in (SHORT, LONG)] == before


def test_padding_beside_a_longer_text_inflates_no_score(model, corpus, index):
    """A short query or passage scores the same alone and in a batch with long ones."""
    retriever = FastLaneRetriever(index=index, k=3, score_key="score")
    together = retriever.batch([SHORT, LONG])
    for query, found in zip((SHORT, LONG), together, strict=True):
        alone = retriever.invoke(query)
        assert [one.id for one in found] == [one.id for one in alone]
        assert [one.metadata["score"] for one in found] == pytest.approx(
            [one.metadata["score"] for one in alone], abs=0.05
        )
    texts = [Document(page_content=SHORT), *(Document(page_content=passage.text) for passage in corpus)]
    beside = FastLaneReranker(model=model, top_n=len(texts)).compress_documents(texts, LONG)
    lonely = FastLaneReranker(model=model, top_n=1).compress_documents(texts[:1], LONG)
    (short,) = [one for one in beside if one.page_content == SHORT]
    assert short.metadata["relevance_score"] == pytest.approx(lonely[0].metadata["relevance_score"], abs=0.005)


def test_ranking_keeps_no_gradients(model, corpus, monkeypatch):
    """With gradients on for the whole process, no graph is built over what is scored."""
    recorded = []
    real = scoring.maxsim

    def watching(*tensors, **options):
        scores = real(*tensors, **options)
        recorded.append(any(tensor.requires_grad for tensor in (*tensors, scores)) or torch.is_grad_enabled())
        return scores

    monkeypatch.setattr(scoring, "maxsim", watching)
    nodes = [NodeWithScore(node=TextNode(text=passage.text)) for passage in corpus[:3]]
    with torch.enable_grad():
        FastLaneRerank(model, top_n=2).postprocess_nodes(nodes, query_str=LONG)
    assert recorded == [False]


@pytest.mark.parametrize("framework", ["langchain", "langchain store", "llama_index"])
def test_a_misspelt_or_failing_build_leaves_the_old_index(model, tmp_path, framework):
    """`overwrite=True` with an option that does not exist, or a text that is none, used to empty the index first."""
    path = tmp_path / "index"

    def build(texts, **options):
        if framework == "langchain":
            return FastLaneRetriever.from_texts(texts, path=path, model=model, overwrite=True, **options).index
        if framework == "langchain store":
            return FastLaneVectorStore.from_texts(texts, model, path=path, overwrite=True, **options).index
        nodes = [TextNode(text=text) if isinstance(text, str) else text for text in texts]
        return NodeRetriever.from_nodes(nodes, path=path, model=model, overwrite=True, **options).index

    kept = build(["Cats purr."])
    for texts, options in ((["new"], {"top_kk": 3}), (["new", 5], {})):
        with pytest.raises(Exception, match=r"top_kk|5|text|int"):
            build(texts, **options)
        assert [entry.name for entry in tmp_path.iterdir()] == ["index"]
        assert len(kept) == 1
        assert kept.search("cat", 1)[0].text.endswith("Cats purr.")
    again = build(["Dogs bark.", "Birds sing."])  # the cell runs once more, its old object still there
    assert len(again) == len(kept) == 2


@pytest.mark.parametrize("framework", ["langchain", "langchain store", "llama_index"])
def test_a_first_build_that_fails_leaves_nothing_and_the_next_one_works(model, tmp_path, framework):
    path = tmp_path / "index"

    def build(texts):
        if framework == "langchain":
            return FastLaneRetriever.from_texts(texts, path=path, model=model).index
        if framework == "langchain store":
            return FastLaneVectorStore.from_texts(texts, model, path=path).index
        nodes = [TextNode(text=text) if isinstance(text, str) else text for text in texts]
        return NodeRetriever.from_nodes(nodes, path=path, model=model).index

    with pytest.raises(Exception, match="5"):
        build(["Cats purr.", 5])
    assert list(tmp_path.iterdir()) == []
    assert build(["Cats purr."]).search("cat", 1)[0].text.endswith("Cats purr.")


def test_an_answer_at_the_end_of_a_long_text_is_found_and_ranked_first(model):
    filler = "The committee met again on a Tuesday and spoke about the budget of the library without any result. " * 60
    question = "What is the password of the vault in Zurich?"
    texts = [f"{filler}The password of the vault in Zurich is heliotrope." if i == 6 else filler for i in range(10)]
    ids = [str(i) for i in range(10)]

    documents = [LlamaDocument(text=text, id_=id_) for id_, text in zip(ids, texts, strict=True)]
    found = NodeRetriever.from_documents(documents, model=model, similarity_top_k=1).retrieve(question)
    assert [one.node.ref_doc_id for one in found] == ["6"]
    assert "heliotrope" in found[0].node.get_content()
    (first,) = FastLaneRetriever.from_texts(texts, ids=ids, model=model, k=1).invoke(question)
    assert first.id == "6"

    (best,) = FastLaneReranker(model=model, top_n=1).compress_documents(
        [Document(page_content=t) for t in texts], question
    )
    assert best.page_content == texts[6]
    nodes = [NodeWithScore(node=TextNode(text=text, id_=id_)) for id_, text in zip(ids, texts, strict=True)]
    (best,) = FastLaneRerank(model=model, top_n=1).postprocess_nodes(nodes, query_str=question)
    assert best.node.node_id == "6"

    summary = {"summary": filler[: len(filler) // 2]}
    nodes = [TextNode(text=text[-200:], id_=id_, metadata=summary) for id_, text in zip(ids, texts, strict=True)]
    (hit,) = NodeRetriever.from_nodes(nodes, model=model, similarity_top_k=1).retrieve(question)
    assert hit.node.node_id == "6"
