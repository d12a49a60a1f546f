"""The vector store, for VectorStoreIndex, IngestionPipeline and StorageContext."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, Unpack

import fsspec
from fsspec.implementations.local import LocalFileSystem
from llama_index.core.bridge.pydantic import BaseModel, PrivateAttr
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores import MetadataFilters, VectorStoreQuery, VectorStoreQueryResult
from llama_index.core.vector_stores.simple import DEFAULT_VECTOR_STORE, NAMESPACE_SEP
from llama_index.core.vector_stores.types import (
    DEFAULT_PERSIST_DIR,
    DEFAULT_PERSIST_FNAME,
    BasePydanticVectorStore,
    VectorStoreQueryMode,
)
from llama_index.retrievers.fastlane.filters import to_filter
from llama_index.retrievers.fastlane.nodes import ID_KEY, SOURCE_KEY, add_nodes, to_node

from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.protocol import AnyIndex, check_index
from fastlane_rag.rerank import diversify
from fastlane_rag.search.options import SearchKeywords, call_filter
from fastlane_rag.storage.filters import Filter, all_of


class FastLaneVectorStore(BasePydanticVectorStore):
    """A vector store with one vector per token, over a `FastLaneIndex`, or a `RemoteIndex` on a server.

    It encodes texts and queries itself, and stores the nodes. LlamaIndex still embeds every node before adding it, with
    a model from `Settings`; `MockEmbedding(embed_dim=1)` makes that free:

    Example:
        ```python
        store = FastLaneVectorStore()
        index = VectorStoreIndex(
            nodes,
            storage_context=StorageContext.from_defaults(vector_store=store),
            embed_model=MockEmbedding(embed_dim=1),
        )
        index.as_retriever(similarity_top_k=4).retrieve("query")
        ```

    Scores are SumMaxSim, higher is better. The query modes are `default` and `mmr`.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    _index: AnyIndex = PrivateAttr()

    def __init__(self, index: AnyIndex | None = None, *, model: Any = None) -> None:
        """Wrap an index.

        Args:
            index: from `FastLaneIndex.create` or `open`, or a `RemoteIndex`; None creates an empty one in memory.
            model: for an index created here, anything that `FastLaneModel.from_pretrained` takes.
        """
        if index is not None and model is not None:
            raise ValueError("an index brings its own model: give index or model, not both")
        super().__init__(stores_text=True)
        self._index = FastLaneIndex.create(model=model) if index is None else check_index(index)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | os.PathLike[str] = DEFAULT_PERSIST_DIR,
        namespace: str = DEFAULT_VECTOR_STORE,
        *,
        model: Any = None,
        read_only: bool = False,
    ) -> Self:
        """Open the store that `StorageContext.persist(persist_dir)` wrote.

        `StorageContext.from_defaults(persist_dir=..., vector_store=FastLaneVectorStore.from_persist_dir(...))`
        then opens the rest.

        Args:
            persist_dir: the storage context's directory.
            namespace: the store's name in the storage context.
            model: the model that the index was made with; None for the bundled one.
            read_only: open for reading only.
        """
        name = f"{namespace}{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}"
        return cls.from_persist_path(Path(persist_dir) / name, model=model, read_only=read_only)

    @classmethod
    def from_persist_path(
        cls, persist_path: str | os.PathLike[str], *, model: Any = None, read_only: bool = False
    ) -> Self:
        """Open the store that `persist(persist_path)` wrote."""
        return cls(FastLaneIndex.open(_directory(persist_path), model=model, read_only=read_only))

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises the component."""
        return "FastLaneVectorStore"

    @property
    def client(self) -> AnyIndex:
        """The index."""
        return self._index

    def add(  # type: ignore[override]
        self, nodes: Sequence[BaseNode], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[str]:
        """Add nodes, replacing those with the same id; their embeddings are not used. Returns their ids."""
        return add_nodes(self._index, nodes, batch_size=batch_size, show_progress=show_progress)

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`, off the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str) -> None:  # type: ignore[override]
        """Delete the nodes made from this document, if there are any."""
        self._index.delete(filter={SOURCE_KEY: ref_doc_id})

    async def adelete(self, ref_doc_id: str, **kwargs: Any) -> None:
        """As `delete`, off the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id, **kwargs)

    def delete_nodes(  # type: ignore[override]
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> None:
        """Delete the nodes with these ids that match the filters.

        An empty list deletes nothing; `clear` deletes everything.

        Raises:
            ValueError: neither ids nor filters are given.
        """
        if node_ids is None and (filters is None or not filters.filters):
            raise ValueError("give node_ids or filters; to delete every node call clear()")
        self._index.delete(node_ids, filter=to_filter(filters))

    async def adelete_nodes(  # type: ignore[override]
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> None:
        """As `delete_nodes`, off the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def clear(self) -> None:
        """Delete every node."""
        self._index.delete(filter={})

    async def aclear(self) -> None:
        """As `clear`, off the event loop."""
        await asyncio.to_thread(self.clear)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """The nodes with these ids, in this order, that match the filters; None does not restrict."""
        ids = node_ids
        if node_ids is None or filters is not None:
            ids = self._index.ids(to_filter(filters))
            if node_ids is not None:
                matching = set(ids)
                ids = [node_id for node_id in node_ids if node_id in matching]
        return [to_node(stored) for stored in self._index.get(ids or [])]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """As `get_nodes`, off the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def query(  # type: ignore[override]
        self,
        query: VectorStoreQuery,
        *,
        mmr_threshold: float | None = None,
        mmr_prefetch_factor: float = 4.0,
        override_filter: bool = False,
        **options: Unpack[SearchKeywords],
    ) -> VectorStoreQueryResult:
        """Search by the query's text; its embedding is not used.

        `VectorStoreIndex.as_retriever(vector_store_kwargs={...})` passes the keywords on; LlamaIndex drops what else it
        does not know, such as `k=` or `filter=` beside `vector_store_kwargs`.

        Args:
            query: an empty list in `node_ids` or `doc_ids` does not restrict, because LlamaIndex always sends one.
            mmr_threshold: in mode `mmr`, the weight of relevance against variety; 0.5 by default.
            mmr_prefetch_factor: in mode `mmr`, how many times `similarity_top_k` nodes to choose from.
            override_filter: put the option `filter` in place of the query's own `filters`.
            **options: of a search (`route_k`, `hybrid`, ...), as `fastlane_rag.search.options.SearchOptions` documents
                them. A `filter` among them narrows the query's own filters: both are applied.

        Raises:
            ValueError: the query has no text, or another mode.
        """
        if query.query_str is None:
            raise ValueError("FastLane searches by text, and this query has only an embedding: give query_str")
        top_k = query.similarity_top_k
        asked = call_filter(to_filter(query.filters), options.get("filter"), override=override_filter)
        options["filter"] = all_of(asked, *_named(query))
        if query.mode == VectorStoreQueryMode.DEFAULT:
            hits = self._index.search(query.query_str, top_k, **options)
        elif query.mode == VectorStoreQueryMode.MMR:
            fetched = max(top_k, round(top_k * mmr_prefetch_factor))
            result = self._index.search_detailed(query.query_str, fetched, **options)
            weights = (mmr_threshold, query.mmr_threshold, 0.5)
            weight = next(given for given in weights if given is not None)
            hits = diversify(result, top_k, model=self._index.model, relevance_weight=weight)
        else:
            raise ValueError(f"FastLane has the query modes default and mmr, not {query.mode.value}")
        return VectorStoreQueryResult(
            nodes=[to_node(hit) for hit in hits],
            similarities=[hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`, off the event loop."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def persist(self, persist_path: str | os.PathLike[str], fs: fsspec.AbstractFileSystem | None = None) -> None:
        """Save the index, replacing what `persist` wrote there before.

        LlamaIndex passes the name of a file, `default__vector_store.json`. An index is a directory, and gets that name
        without the suffix. An index that was created there, `FastLaneIndex.create("storage/default__vector_store")`, is
        not copied.

        Raises:
            ValueError: the file system is not the local one.
        """
        if fs is not None and not isinstance(fs, LocalFileSystem):
            raise ValueError(f"an index lives in a local directory, not in {type(fs).__name__}: persist it locally")
        self._index.save(_directory(persist_path), overwrite=True)

    # BaseComponent drops whatever does not pickle from the copy AND from the live object, without an error.
    def __getstate__(self) -> dict[str, Any]:
        return BaseModel.__getstate__(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseModel.__setstate__(self, state)


def _named(query: VectorStoreQuery) -> list[Filter]:
    """The filters of a query that names nodes or source documents."""
    named = ((ID_KEY, query.node_ids), (SOURCE_KEY, query.doc_ids))
    return [{key: {"$in": list(ids)}} for key, ids in named if ids]


def _directory(persist_path: str | os.PathLike[str]) -> Path:
    return Path(persist_path).with_suffix("")
