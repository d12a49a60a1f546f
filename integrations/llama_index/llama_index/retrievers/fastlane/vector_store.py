"""The vector store, for VectorStoreIndex, IngestionPipeline and StorageContext."""

import asyncio
import math
import os
from collections.abc import Iterable
from numbers import Real
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
from llama_index.retrievers.fastlane.events import report
from llama_index.retrievers.fastlane.filters import to_filter
from llama_index.retrievers.fastlane.nodes import SOURCE_KEY, add_nodes, to_node, with_score

from fastlane_rag.errors import IndexExistsError, InvalidInputError
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.given import index_of
from fastlane_rag.index.options import IndexKeywords
from fastlane_rag.index.protocol import AnyIndex
from fastlane_rag.lengths import check_text, check_texts, kind
from fastlane_rag.rerank import diversify
from fastlane_rag.search.options import (
    SearchKeywords,
    SearchOptions,
    call_filter,
    check_count,
    check_flag,
    check_keywords,
    check_weight,
)
from fastlane_rag.storage.filters import Filter, all_of
from fastlane_rag.storage.folder import index_path

_OPTIONS = tuple(name for name in SearchOptions.names() if name != "k")
# More nodes, or times as many, than there can be.
_MOST = 10**12
_BY_WORDS = (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE)


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

    Scores are relevances from 0 to 1, or SumMaxSim with `normalize_scores=False`. The query modes are `default`, `mmr`,
    `hybrid`, which heeds `alpha` (1 for vectors alone, 0 for words alone; without it, what `hybrid=True` weighs), and
    `text_search` or `sparse`, by words (BM25) alone. There `hybrid_top_k` and `sparse_top_k` come before
    `similarity_top_k`.

    LlamaIndex hands a store a query's text, but not the texts that HyDE makes of it: for these give
    `FastLaneRetriever(store.client)` to the query engine in place of `index.as_retriever()`.
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    _index: AnyIndex = PrivateAttr()
    _normalize_scores: bool = PrivateAttr(default=True)
    _score_key: str | None = PrivateAttr(default=None)

    def __init__(
        self,
        index: AnyIndex | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        normalize_scores: bool = True,
        score_key: str | None = None,
        **options: Unpack[IndexKeywords],
    ) -> None:
        """Wrap an index, or open or create one.

        Args:
            index: from `FastLaneIndex.create`, `open` or `open_or_create`, or a `RemoteIndex`.
            path: of an index to open, or to create where there is none yet. Without path and index, one in memory.
            normalize_scores: whether nodes are scored by relevance, from 0 to 1; False gives SumMaxSim.
            score_key: if set, SumMaxSim goes into the metadata of each node that is found, under this key, where models
                do not see it.
            **options: what it is made with: `model`, `device`, ..., see `fastlane_rag.index.options.IndexOptions`.

        Raises:
            ModelMismatchError: the index at `path` was made with another model.
            InvalidInputError: it was made with another option; or an index is given and a path or an option as well;
                or `index` is no index. The message says what to give.
        """
        super().__init__(stores_text=True)
        self._index = index_of(index, path, **options)
        self._normalize_scores = check_flag(normalize_scores, "normalize_scores")
        self._score_key = None if score_key is None else check_text("score_key", score_key)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | os.PathLike[str] = DEFAULT_PERSIST_DIR,
        namespace: str = DEFAULT_VECTOR_STORE,
        *,
        model: Any = None,
        device: str | None = None,
        read_only: bool = False,
    ) -> Self:
        """Open the store that `StorageContext.persist(persist_dir)` wrote.

        `StorageContext.from_defaults(persist_dir=..., vector_store=FastLaneVectorStore.from_persist_dir(...))`
        then opens the rest.

        Args:
            persist_dir: the storage context's directory.
            namespace: the store's name in the storage context.
            model: the model that the index was made with; None for the bundled one.
            device: where it runs.
            read_only: open for reading only.
        """
        name = f"{namespace}{NAMESPACE_SEP}{DEFAULT_PERSIST_FNAME}"
        return cls.from_persist_path(Path(persist_dir) / name, model=model, device=device, read_only=read_only)

    @classmethod
    def from_persist_path(
        cls,
        persist_path: str | os.PathLike[str],
        *,
        model: Any = None,
        device: str | None = None,
        read_only: bool = False,
    ) -> Self:
        """Open the store that `persist(persist_path)` wrote."""
        return cls(FastLaneIndex.open(_directory(persist_path), model=model, device=device, read_only=read_only))

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises the component."""
        return "FastLaneVectorStore"

    @property
    def client(self) -> AnyIndex:
        """The index."""
        return self._index

    def add(  # type: ignore[override]
        self, nodes: Iterable[BaseNode], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[str]:
        """Add nodes, replacing those with the same id; their embeddings are not used. Returns their ids."""
        return add_nodes(self._index, nodes, batch_size=batch_size, show_progress=show_progress)

    async def async_add(self, nodes: Iterable[BaseNode], **kwargs: Any) -> list[str]:
        """As `add`, off the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str) -> None:  # type: ignore[override]
        """Delete the nodes made from this document, if there are any."""
        self._index.delete(filter={SOURCE_KEY: check_text("ref_doc_id", ref_doc_id)})

    async def adelete(self, ref_doc_id: str, **kwargs: Any) -> None:
        """As `delete`, off the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id, **kwargs)

    def delete_nodes(  # type: ignore[override]
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> None:
        """Delete the nodes with these ids that match the filters.

        An empty list deletes nothing; `clear` deletes everything.

        Raises:
            InvalidInputError: neither ids nor filters are given.
        """
        filter_ = to_filter(filters)
        if node_ids is None and (filters is None or not filters.filters):
            raise InvalidInputError("give node_ids or filters; to delete every node call clear()")
        self._index.delete(node_ids, filter=filter_)

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
        ids = node_ids = None if node_ids is None else check_texts(node_ids, "node_ids")
        if node_ids is None or filters is not None:
            ids = self._index.ids(to_filter(filters))
            if node_ids is not None:
                matching = set(ids)
                ids = [node_id for node_id in node_ids if node_id in matching]
        return [to_node(stored) for stored in self._index.get(ids or [])]

    def get(
        self, where: MetadataFilters | Filter | None = None, limit: int | None = None, offset: int = 0
    ) -> list[BaseNode]:
        """Read nodes without a query, in the order of their first addition.

        Args:
            where: LlamaIndex's filters, or one in the index's own language; None does not restrict.
            limit: how many nodes at most.
            offset: how many to leave out first.
        """
        filter_ = to_filter(where) if isinstance(where, MetadataFilters) else where
        return [to_node(stored) for stored in self._index.find(filter_, limit, offset)]

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
            InvalidInputError: the query has no text, another mode, or what its mode does not heed.
        """
        if not isinstance(query, VectorStoreQuery):
            raise InvalidInputError(
                f"query must be a VectorStoreQuery, not {kind(query)}; FastLaneRetriever(store.client).retrieve "
                "takes a text"
            )
        if query.query_str is None:
            raise InvalidInputError(
                "FastLane searches by text, and this query has only an embedding: give query_str. To search by the "
                "texts of HyDE, use FastLaneRetriever(store.client)"
            )
        check_keywords(options, _OPTIONS, "a query, which has k as its similarity_top_k")
        top_k, of_mode = query.similarity_top_k, SearchKeywords()
        if query.mode in _BY_WORDS:
            of_mode["lane"], top_k = "words", query.sparse_top_k or top_k
        elif query.mode == VectorStoreQueryMode.HYBRID:
            of_mode["hybrid"], top_k = _weight(query.alpha), query.hybrid_top_k or top_k
        elif query.mode not in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
            mode = getattr(query.mode, "value", query.mode)
            raise InvalidInputError(f"FastLane has the query modes default, mmr, hybrid and text_search, not {mode}")
        if twice := options.keys() & of_mode.keys():
            name, mode = min(twice), VectorStoreQueryMode(query.mode).value
            advice = "alpha weighs vectors there" if name == "hybrid" else "leave it out"
            raise InvalidInputError(f"vector_store_query_mode={mode!r} sets {name!r} itself; {advice}")
        options.update(of_mode)
        varied = query.mode == VectorStoreQueryMode.MMR
        _refuse_unheeded("alpha", query.alpha, heeded=query.mode == VectorStoreQueryMode.HYBRID, mode="hybrid")
        for given in (mmr_threshold, query.mmr_threshold):
            _refuse_unheeded("mmr_threshold", given, heeded=varied, mode="mmr")
        asked = call_filter(to_filter(query.filters), options.get("filter"), override=override_filter)
        options["filter"] = all_of(asked, *_named(query))
        top_k = check_count(top_k, "similarity_top_k")
        fetched = max(top_k, round(min(top_k, _MOST) * _factor(mmr_prefetch_factor))) if varied else top_k
        [result] = report([self._index.search_detailed(query.query_str, fetched, **options)])
        hits = result.hits
        if varied:
            weights = (mmr_threshold, query.mmr_threshold, 0.5)
            weight = check_weight(next(given for given in weights if given is not None), "mmr_threshold")
            hits = diversify(result, top_k, model=self._index.model, relevance_weight=weight)
        return VectorStoreQueryResult(
            nodes=[with_score(to_node(hit), hit.score, self._score_key) for hit in hits],
            similarities=[hit.relevance if self._normalize_scores else hit.score for hit in hits],
            ids=[hit.id for hit in hits],
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """As `query`, off the event loop."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def persist(self, persist_path: str | os.PathLike[str], fs: fsspec.AbstractFileSystem | None = None) -> None:
        """Save the index, replacing what `persist` wrote there before.

        LlamaIndex passes the name of a file, `default__vector_store.json`. An index is a directory, and gets that name
        without `.json`. An index that was created there, `FastLaneIndex.create("storage/default__vector_store")`, is
        not copied.

        Raises:
            InvalidInputError: the file system is not the local one.
            IndexExistsError: another vector store's file has that name; LlamaIndex would load it in place of the index.
        """
        if fs is not None and not isinstance(fs, LocalFileSystem):
            raise InvalidInputError(
                f"an index lives in a local directory, not in {type(fs).__name__}: persist it locally"
            )
        directory = _directory(persist_path)
        if Path(os.fsdecode(persist_path)).is_file():
            raise IndexExistsError(
                f"{os.fsdecode(persist_path)} is what another vector store persisted, and LlamaIndex would load it in "
                "place of this one: move it away, or persist into another directory"
            )
        self._index.save(directory, overwrite=True)

    # BaseComponent drops whatever does not pickle from the copy AND from the live object, without an error.
    def __getstate__(self) -> dict[str, Any]:
        return BaseModel.__getstate__(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseModel.__setstate__(self, state)


def _refuse_unheeded(name: str, value: Any, *, heeded: bool, mode: str) -> None:
    if value is not None and not heeded:
        raise InvalidInputError(f"{name}={value!r} counts with vector_store_query_mode={mode!r} alone; give both")


def _factor(value: Any) -> float:
    number: Any = value if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    if not 0 <= number < math.inf:
        raise InvalidInputError(f"mmr_prefetch_factor must be a number from 0, not {value!r}")
    return float(min(number, _MOST))


def _weight(alpha: float | None) -> bool | float:
    """What words weigh in a hybrid search where LlamaIndex gives the weight of vectors."""
    return True if alpha is None else 1 - check_weight(alpha, "alpha")


def _named(query: VectorStoreQuery) -> list[Filter]:
    """The filters of a query that names nodes or source documents."""
    named = (("$id", "node_ids", query.node_ids), (SOURCE_KEY, "doc_ids", query.doc_ids))
    return [{key: {"$in": check_texts(ids, name)}} for key, name, ids in named if ids]


def _directory(persist_path: str | os.PathLike[str]) -> Path:
    whole = index_path(persist_path)
    if not Path(os.fsdecode(persist_path)).name:
        raise InvalidInputError(
            f"persist_path must name a file, as storage/default__vector_store.json does, not {persist_path!r}"
        )
    return whole.with_suffix("") if whole.suffix == ".json" else whole
