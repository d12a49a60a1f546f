"""FastLane inside LlamaIndex's own engines and retrievers, as their users put it there."""

import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.llms import MockLLM
from llama_index.core.node_parser import HierarchicalNodeParser, TokenTextSplitter, get_leaf_nodes
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import AutoMergingRetriever, QueryFusionRetriever
from llama_index.core.schema import Document, TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.tools import QueryEngineTool, RetrieverTool
from llama_index.retrievers.fastlane import FastLaneRerank, FastLaneRetriever, FastLaneVectorStore

from fastlane_rag import FastLaneModel

QUERY = "how do I add an enumeration type?"


@pytest.fixture(scope="module")
def shared(model: FastLaneModel, corpus) -> FastLaneRetriever:
    nodes = [TextNode(id_=passage.id, text=passage.text, metadata=passage.metadata) for passage in corpus]
    return FastLaneRetriever.from_nodes(nodes, model=model)


@pytest.fixture
def retriever(shared: FastLaneRetriever) -> FastLaneRetriever:
    return FastLaneRetriever(shared.index, similarity_top_k=3)


async def test_a_query_engine_hands_the_passages_to_the_model(retriever):
    """The mock model repeats the prompt, so the answer shows what was retrieved."""
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM())
    expected = retriever.retrieve(QUERY)
    assert len(expected) == 3
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert response.source_nodes == expected
        assert all(scored.text in str(response) for scored in expected)


def test_a_query_engine_reranks(retriever, model):
    engine = RetrieverQueryEngine.from_args(
        FastLaneRetriever(retriever.index, similarity_top_k=12, route_k=1, refine=False),
        llm=MockLLM(),
        node_postprocessors=[FastLaneRerank(model, top_n=2)],
    )
    ids = [scored.node_id for scored in engine.query(QUERY).source_nodes]
    assert ids == [scored.node_id for scored in retriever.retrieve(QUERY)][:2]


@pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "dist_based_score", "simple"])
async def test_query_fusion_leaves_the_engines_scores_alone(retriever, mode):
    before = retriever.retrieve(QUERY)
    fusion = QueryFusionRetriever(
        [retriever, FastLaneRetriever(retriever.index, route_k=1, refine=False)],
        llm=MockLLM(),
        mode=mode,
        num_queries=1,
        use_async=False,
        similarity_top_k=3,
    )
    found = fusion.retrieve(QUERY)
    assert found[0].metadata["pep"] == 435
    assert [scored.node_id for scored in await fusion.aretrieve(QUERY)] == [scored.node_id for scored in found]
    assert retriever.retrieve(QUERY) == before


def test_auto_merging_climbs_to_the_parent(model):
    """Most children of one parent are found, so the parent comes back in their place."""
    text = "Enumerations give names to values. " * 12
    splitters = {str(size): TokenTextSplitter(chunk_size=size, chunk_overlap=0) for size in (128, 32)}
    parser = HierarchicalNodeParser.from_defaults(node_parser_ids=list(splitters), node_parser_map=splitters)
    nodes = parser.get_nodes_from_documents([Document(id_="enums", text=text), Document(id_="cats", text="Cats purr.")])
    docstore = SimpleDocumentStore()
    docstore.add_documents(nodes)
    leaves = get_leaf_nodes(nodes)
    base = FastLaneRetriever.from_nodes(leaves, model=model, similarity_top_k=len(leaves) - 1)
    merging = AutoMergingRetriever(base, StorageContext.from_defaults(docstore=docstore))
    found = merging.retrieve("enumerations")
    assert len(found) < len(base.retrieve("enumerations"))
    parents = {node.node_id for node in nodes} - {leaf.node_id for leaf in leaves}
    assert found[0].node_id in parents
    assert all(scored.score is not None for scored in found)


async def test_a_context_chat_engine_puts_the_passages_into_the_prompt(retriever):
    engine = ContextChatEngine.from_defaults(retriever=retriever, llm=MockLLM())
    expected = retriever.retrieve(QUERY)
    assert len(expected) == 3
    for response in (engine.chat(QUERY), await engine.achat(QUERY)):
        assert response.source_nodes == expected
        assert all(scored.text in str(response) for scored in expected)


async def test_tools_wrap_the_retriever_and_the_engine(retriever):
    tool = RetrieverTool.from_defaults(retriever, description="Searches the PEPs.")
    best = retriever.retrieve(QUERY)[0]
    assert best.text in tool.call(QUERY).content
    assert best.text in (await tool.acall(QUERY)).content
    engine = QueryEngineTool.from_defaults(RetrieverQueryEngine.from_args(retriever, llm=MockLLM()))
    assert best.text in engine.call(QUERY).content


async def test_an_evaluator_measures_the_retriever(retriever):
    evaluator = RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=retriever)
    first, second = (scored.node_id for scored in retriever.retrieve(QUERY)[:2])
    assert evaluator.evaluate(QUERY, [first]).metric_vals_dict == {"mrr": 1.0, "hit_rate": 1.0}
    assert (await evaluator.aevaluate(QUERY, [second])).metric_vals_dict == {"mrr": 0.5, "hit_rate": 1.0}
    assert evaluator.evaluate(QUERY, ["none"]).metric_vals_dict == {"mrr": 0.0, "hit_rate": 0.0}


def test_a_vector_store_index_becomes_a_query_engine_with_filters_and_streaming(model, corpus):
    nodes = [TextNode(id_=passage.id, text=passage.text, metadata=passage.metadata) for passage in corpus[:4]]
    context = StorageContext.from_defaults(vector_store=FastLaneVectorStore(model=model))
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=MockEmbedding(embed_dim=1))
    engine = index.as_query_engine(llm=MockLLM(), similarity_top_k=2)
    assert len(engine.query(QUERY).source_nodes) == 2
    streaming = index.as_query_engine(llm=MockLLM(), similarity_top_k=1, streaming=True).query(QUERY)
    assert streaming.source_nodes[0].text in "".join(streaming.response_gen)
