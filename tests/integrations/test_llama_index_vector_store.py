"""FastLaneVectorStore under VectorStoreIndex, StorageContext and IngestionPipeline."""

import asyncio
import pickle
import threading
from typing import Any

import fsspec
import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.schema import Document, IndexNode, NodeRelationship, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from llama_index.retrievers.fastlane import FastLaneRetriever, FastLaneVectorStore

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import IndexExistsError

QUERY = "how do I add an enumeration type?"


def make_nodes(corpus) -> list[TextNode]:
    return [
        TextNode(
            id_=passage.id,
            text=passage.text,
            metadata=passage.metadata,
            excluded_embed_metadata_keys=["tags"],
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=f"doc-{passage.metadata['pep']}")},
        )
        for passage in corpus
    ]


@pytest.fixture(scope="module")
def nodes(corpus) -> list[TextNode]:
    return make_nodes(corpus)


@pytest.fixture(scope="module")
def store(model, nodes) -> FastLaneVectorStore:
    """The corpus; only read."""
    store = FastLaneVectorStore(model=model)
    store.add(nodes)
    return store


@pytest.fixture
def empty(model: FastLaneModel) -> FastLaneVectorStore:
    return FastLaneVectorStore(model=model)


def over(store: FastLaneVectorStore, nodes: list[Any] | None = None) -> VectorStoreIndex:
    context = StorageContext.from_defaults(vector_store=store)
    return VectorStoreIndex(nodes or [], storage_context=context, embed_model=MockEmbedding(embed_dim=1))


def where(key: str, value: Any, operator: FilterOperator = FilterOperator.EQ) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


def cats_and_dogs() -> list[TextNode]:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="animals")}
    return [
        TextNode(id_="cat", text="Cats purr.", metadata={"legs": 4}, relationships=source),
        TextNode(id_="dog", text="Dogs bark.", metadata={"legs": 3}),
    ]


# --- query -------------------------------------------------------------------------------------------------------


async def test_query_returns_fresh_nodes_scores_and_ids(store, nodes):
    added = {node.node_id: node for node in nodes}
    query = VectorStoreQuery(query_str=QUERY, similarity_top_k=3)
    for result in (store.query(query), await store.aquery(query)):
        hits = store.client.search(QUERY, 3)
        assert result.ids == [hit.id for hit in hits]
        assert result.similarities == [hit.relevance for hit in hits]
        assert [node.model_dump() for node in result.nodes] == [added[id_].model_dump() for id_ in result.ids]
        result.nodes[0].metadata["tags"].append("changed")


def test_restrictions_come_before_ranking_and_empty_lists_restrict_nothing(store, corpus):
    def ids(**options: Any) -> list[str]:
        return store.query(VectorStoreQuery(query_str=QUERY, similarity_top_k=3, **options)).ids

    chosen = [passage.id for passage in corpus if passage.metadata["pep"] < 350]
    unrestricted = ids()
    assert len(unrestricted) == 3
    assert ids(node_ids=[], doc_ids=[]) == unrestricted
    assert len(ids(node_ids=chosen)) == 3
    assert set(ids(node_ids=chosen)) <= set(chosen)
    assert ids(doc_ids=["doc-8", "doc-484", "none"], node_ids=[corpus[0].id]) == [corpus[0].id]
    assert len(ids(doc_ids=["doc-8", "doc-484"])) == 2
    assert ids(doc_ids=["none"]) == []
    assert set(ids(filters=where("pep", 350, FilterOperator.LT))) <= set(chosen)


def test_restrictions_join_filters_only_a_function_can_say(store, corpus):
    query = VectorStoreQuery(
        query_str=QUERY,
        similarity_top_k=12,
        node_ids=[corpus[0].id, corpus[1].id],
        filters=where("title", "style guide", FilterOperator.TEXT_MATCH_INSENSITIVE),
    )
    assert store.query(query).ids == [corpus[0].id]


@pytest.mark.parametrize("filter", [{"pep": {"$gt": 300}}, lambda metadata: metadata["pep"] > 300])
@pytest.mark.parametrize(
    "own", [where("pep", 400, FilterOperator.LT), where("title", "er", FilterOperator.TEXT_MATCH_INSENSITIVE)]
)
def test_a_filter_among_the_keywords_narrows_the_own_filters_in_whatever_forms(store, corpus, own, filter):
    retriever = FastLaneRetriever(store.client, similarity_top_k=12, filters=own)
    allowed = {found.node_id for found in retriever.retrieve(QUERY)}
    late = {passage.id for passage in corpus if passage.metadata["pep"] > 300}
    assert 0 < len(allowed & late) < min(len(allowed), len(late))

    def ids(**options: Any) -> set[str]:
        keywords = {"filter": filter, **options}
        found = over(store).as_retriever(similarity_top_k=12, filters=own, vector_store_kwargs=keywords)
        return {node.node_id for node in found.retrieve(QUERY)}

    assert ids() == allowed & late
    assert ids(override_filter=True) == late
    retriever.filter = filter
    assert {found.node_id for found in retriever.retrieve(QUERY)} == allowed & late


def test_options_pass_through_as_vector_store_kwargs(store):
    options = {"route_k": 1, "refine": False}
    retriever = over(store).as_retriever(similarity_top_k=5, vector_store_kwargs=options)
    expected = store.client.search(QUERY, 5, **options)
    assert [(found.node_id, found.score) for found in retriever.retrieve(QUERY)] == [
        (hit.id, hit.relevance) for hit in expected
    ]
    with pytest.raises(TypeError, match="unexpected keyword"):
        over(store).as_retriever(vector_store_kwargs={"route": 1}).retrieve(QUERY)


def test_mmr_prefers_variety_over_repetition(empty):
    texts = ["Cats purr when content.", "Cats purr when they are content.", "Dogs bark at strangers."]
    empty.add([TextNode(id_=id_, text=text) for id_, text in zip("abc", texts, strict=True)])

    def ids(**options: Any) -> list[str]:
        retriever = over(empty).as_retriever(similarity_top_k=2, **options)
        return [found.node_id for found in retriever.retrieve("when do cats purr?")]

    assert set(ids()) == {"a", "b"}
    varied = ids(vector_store_query_mode="mmr", vector_store_kwargs={"mmr_threshold": 0.3})
    assert varied == [ids()[0], "c"]
    assert ids(vector_store_query_mode="mmr", vector_store_kwargs={"mmr_threshold": 1.0}) == ids()


@pytest.mark.parametrize("mode", [VectorStoreQueryMode.SEMANTIC_HYBRID, VectorStoreQueryMode.SVM])
def test_modes_without_meaning_here_are_refused(store, mode):
    with pytest.raises(ValueError, match=mode.value):
        store.query(VectorStoreQuery(query_str=QUERY, mode=mode))


def test_a_query_without_text_is_refused(store):
    with pytest.raises(ValueError, match="query_str"):
        store.query(VectorStoreQuery(query_embedding=[0.1]))


async def test_async_leaves_the_event_loop_free(store, monkeypatch):
    """Searches that wait until the loop has moved on can only finish off the loop."""
    moved_on = threading.Event()
    encode = FastLaneModel.encode_routed

    def patient(self: FastLaneModel, *args: Any, **kwargs: Any) -> Any:
        assert moved_on.wait(10), "the event loop stood still during a search"
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(FastLaneModel, "encode_routed", patient)
    retriever = over(store).as_retriever(similarity_top_k=4)
    tasks = [asyncio.create_task(retriever.aretrieve(QUERY)) for _ in range(3)]
    await asyncio.sleep(0.01)
    moved_on.set()
    assert [len(found) for found in await asyncio.gather(*tasks)] == [4, 4, 4]


# --- add, get, delete --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_nodes_are_added_read_and_deleted(empty, asynchronous):
    """Every method and its asynchronous twin."""

    async def call(name: str, *args: Any, **kwargs: Any) -> Any:
        if not asynchronous:
            return getattr(empty, name)(*args, **kwargs)
        return await getattr(empty, "async_add" if name == "add" else f"a{name}")(*args, **kwargs)

    async def left() -> list[str]:
        return [node.node_id for node in await call("get_nodes")]

    nodes = cats_and_dogs()
    assert await call("add", nodes, batch_size=1) == ["cat", "dog"]
    assert [node.model_dump() for node in await call("get_nodes", ["dog", "none", "cat"])] == [
        nodes[1].model_dump(),
        nodes[0].model_dump(),
    ]
    assert [node.node_id for node in await call("get_nodes", None, where("legs", 4))] == ["cat"]
    assert [node.node_id for node in await call("get_nodes", ["dog"], where("legs", 4))] == []
    assert await call("get_nodes", []) == []
    await call("delete", "none")
    await call("delete_nodes", [])
    await call("delete_nodes", ["none"])
    await call("delete_nodes", ["dog"], where("legs", 4))
    assert await left() == ["cat", "dog"]
    await call("delete", "animals")
    assert await left() == ["dog"]
    await call("add", nodes)
    await call("delete_nodes", None, where("legs", 4))
    assert await left() == ["dog"]
    await call("delete_nodes", ["dog"])
    assert await left() == []
    await call("add", nodes)
    await call("clear")
    assert await left() == []


@pytest.mark.parametrize("filters", [None, MetadataFilters(filters=[])])
def test_deleting_everything_has_to_be_said(empty, filters):
    empty.add(cats_and_dogs())
    with pytest.raises(ValueError, match="clear"):
        empty.delete_nodes(filters=filters)
    assert len(empty.get_nodes()) == 2


# --- VectorStoreIndex --------------------------------------------------------------------------------------------


async def test_a_vector_store_index_retrieves_what_the_retriever_retrieves(empty, nodes):
    index = over(empty, nodes)
    expected = FastLaneRetriever(empty.client, similarity_top_k=4).retrieve(QUERY)
    assert index.as_retriever(similarity_top_k=4).retrieve(QUERY) == expected
    assert await index.as_retriever(similarity_top_k=4).aretrieve(QUERY) == expected
    assert len(index.as_retriever(similarity_top_k=4).retrieve("")) == 4


def test_no_embedding_model_is_asked_for_a_query(store):
    class Refusing(MockEmbedding):
        def _get_query_embedding(self, query: str) -> list[float]:
            raise AssertionError("a query was embedded")

    context = StorageContext.from_defaults(vector_store=store)
    index = VectorStoreIndex([], storage_context=context, embed_model=Refusing(embed_dim=1))
    assert len(index.as_retriever(similarity_top_k=2).retrieve(QUERY)) == 2


async def test_documents_are_inserted_updated_and_deleted_by_their_id(empty):
    index = over(empty)
    index.insert(Document(id_="animals", text="Cats purr."))
    await index.ainsert(Document(id_="others", text="Dogs bark."))
    index.update_ref_doc(Document(id_="animals", text="Cats hiss."))
    assert {node.get_content() for node in empty.get_nodes()} == {"Cats hiss.", "Dogs bark."}
    index.delete_ref_doc("animals")
    assert [node.get_content() for node in empty.get_nodes()] == ["Dogs bark."]
    await index.adelete_ref_doc("others")
    assert empty.get_nodes() == []


async def test_building_asynchronously_stores_the_same_nodes(empty, nodes):
    index = over(empty)
    await index.ainsert_nodes(nodes)
    assert [node.node_id for node in empty.get_nodes()] == [node.node_id for node in nodes]


def test_from_vector_store_needs_no_storage_context(store):
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=1))
    assert index.as_retriever(similarity_top_k=1).retrieve(QUERY)[0].metadata["pep"] == 435


def test_index_nodes_lead_to_what_they_stand_for(empty, store):
    retriever = FastLaneRetriever(store.client, similarity_top_k=1)
    index = over(empty)
    index.insert_nodes([IndexNode(text="Everything about enumerations.", index_id="enums", obj=retriever)])
    assert index.as_retriever(similarity_top_k=1).retrieve(QUERY)[0].metadata["pep"] == 435


# --- keeping -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True])
def test_storage_context_persists_and_loads(model, nodes, tmp_path, on_disk):
    engine = FastLaneIndex.create(tmp_path / "engine" if on_disk else None, model=model)
    index = over(FastLaneVectorStore(engine), nodes)
    expected = index.as_retriever(similarity_top_k=4).retrieve(QUERY)
    index.storage_context.persist(tmp_path / "storage")
    index.storage_context.persist(tmp_path / "storage")
    engine.close()
    loaded = FastLaneVectorStore.from_persist_dir(tmp_path / "storage", model=model)
    context = StorageContext.from_defaults(persist_dir=str(tmp_path / "storage"), vector_store=loaded)
    again = load_index_from_storage(context, embed_model=MockEmbedding(embed_dim=1))
    assert again.as_retriever(similarity_top_k=4).retrieve(QUERY) == expected
    again.insert_nodes([TextNode(text="Cats purr.")])
    assert again.as_retriever(similarity_top_k=1).retrieve("cat")[0].text == "Cats purr."
    loaded.client.close()


def test_an_index_that_lives_in_the_storage_context_is_not_copied(model, tmp_path):
    home = tmp_path / "storage" / "default__vector_store"
    with FastLaneIndex.create(home, model=model) as engine:
        index = over(FastLaneVectorStore(engine), cats_and_dogs())
        index.storage_context.persist(tmp_path / "storage")
        assert engine.ids() == ["cat", "dog"]
    with FastLaneIndex.open(home, model=model) as engine:
        assert engine.ids() == ["cat", "dog"]


def test_loading_without_the_vector_store_fails_instead_of_finding_nothing(store, tmp_path):
    over(store).storage_context.persist(tmp_path / "storage")
    context = StorageContext.from_defaults(persist_dir=str(tmp_path / "storage"))
    with pytest.raises(KeyError):
        load_index_from_storage(context, embed_model=MockEmbedding(embed_dim=1))


def test_another_stores_file_of_that_name_is_not_left_beside_the_index(store, tmp_path):
    """Loaded as before the swap, it was opened in place of the index, and nothing was found."""
    dense = VectorStoreIndex([TextNode(text="dense")], embed_model=MockEmbedding(embed_dim=1))
    dense.storage_context.persist(tmp_path / "storage")
    with pytest.raises(IndexExistsError, match="another vector store persisted"):
        over(store).storage_context.persist(tmp_path / "storage")
    assert not (tmp_path / "storage" / "default__vector_store").exists()


def test_names_with_dots_are_names_of_their_own(model, tmp_path):
    """The second one replaced the first."""
    for text in ("2024.05", "2024.06"):
        store = FastLaneVectorStore(model=model)
        store.add([TextNode(text=text)])
        store.persist(tmp_path / f"store-{text}")
    for text in ("2024.05", "2024.06"):
        (node,) = FastLaneVectorStore.from_persist_path(tmp_path / f"store-{text}", model=model).get()
        assert node.text == text


def test_a_remote_file_system_is_refused(store):
    with pytest.raises(ValueError, match="MemoryFileSystem"):
        store.persist("storage/default__vector_store.json", fs=fsspec.filesystem("memory"))


def test_pickling_reopens_an_index_on_disk_and_harms_nothing_in_memory(model, store, tmp_path):
    stored = FastLaneVectorStore(FastLaneIndex.create(tmp_path / "index", model=model))
    stored.add(cats_and_dogs())
    copy = pickle.loads(pickle.dumps(stored))
    assert [node.node_id for node in copy.get_nodes()] == ["cat", "dog"]
    assert copy.stores_text
    assert not copy.is_embedding_query
    with pytest.raises(Exception, match="memory"):
        pickle.dumps(store)
    assert len(store.get_nodes()) == 12


def test_serialisation_shows_no_engine_internals(store):
    assert store.to_dict() == {
        "stores_text": True,
        "is_embedding_query": False,
        "class_name": "FastLaneVectorStore",
    }


def test_an_index_and_a_model_together_are_refused(store, model):
    with pytest.raises(ValueError, match="not both"):
        FastLaneVectorStore(store.client, model=model)


# --- IngestionPipeline -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_an_ingestion_pipeline_stores_nodes_when_it_embeds_them(empty, asynchronous):
    """Without an embedding step LlamaIndex hands the store nothing, so a free one is documented."""
    documents = [Document(id_="cats", text="Cats purr. " * 40), Document(id_="dogs", text="Dogs bark. " * 40)]
    splitter = TokenTextSplitter(chunk_size=64, chunk_overlap=0)
    pipeline = IngestionPipeline(
        transformations=[splitter, MockEmbedding(embed_dim=1)], vector_store=empty, disable_cache=True
    )
    made = await pipeline.arun(documents=documents) if asynchronous else pipeline.run(documents=documents)
    assert len(made) > 2
    assert {node.node_id for node in empty.get_nodes()} == {node.node_id for node in made}
    assert {node.ref_doc_id for node in empty.get_nodes()} == {"cats", "dogs"}
    assert all(node.embedding is None for node in empty.get_nodes())
