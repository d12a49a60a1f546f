"""The retriever, a drop-in replacement for a dense one."""

import asyncio
import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Self, Unpack

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.ingestion import run_transformations
from llama_index.core.schema import BaseNode, Document, IndexNode, NodeWithScore, QueryBundle, TransformComponent
from llama_index.core.settings import Settings
from llama_index.core.vector_stores import MetadataFilters
from llama_index.retrievers.fastlane.events import report
from llama_index.retrievers.fastlane.filters import to_filter
from llama_index.retrievers.fastlane.nodes import add_nodes, given_nodes, to_scored_node

from fastlane_rag import Hit
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.options import IndexOptions
from fastlane_rag.index.protocol import AnyIndex, given_index
from fastlane_rag.lengths import check_text
from fastlane_rag.search.options import SearchKeywords, SearchOptions, check_count, check_flag, check_keywords
from fastlane_rag.search.result import SearchResult, with_relevance
from fastlane_rag.storage.filters import all_of

# Hits to find for each of several query texts, before their scores are averaged.
_FUSED_DEPTH = 100
_OPTIONS = tuple(name for name in SearchOptions.names() if name != "k")
_ARGUMENTS = (
    "similarity_top_k",
    "filters",
    *_OPTIONS,
    "normalize_scores",
    "score_key",
    "callback_manager",
    "object_map",
)


class FastLaneRetriever(BaseRetriever):
    """Late-interaction retriever over a `FastLaneIndex`, or a `RemoteIndex` on a server.

    LlamaIndex's `retrieve(query)` takes nothing but the query, so `similarity_top_k`, `filters` and each option of a
    search (`route_k`, `hybrid`, ...) are attributes that may be set between calls; another name is refused. A
    `QueryBundle` is searched by its text. If it has several `custom_embedding_strs`, as HyDE makes, each is searched
    and their scores are averaged. Its embedding is not used. What a search took (lane, comparisons, milliseconds a
    stage) is a `FastLaneSearchEvent`.

    Example:
        ```python
        retriever = FastLaneRetriever.from_nodes([TextNode(text="Cats purr."), TextNode(text="Dogs bark.")])
        retriever.retrieve("what does a cat do?")[0].text  # 'Cats purr.'
        ```

    Args:
        index: the engine; safe to share between retrievers, stores and threads.
        similarity_top_k: how many nodes to return; fewer only when fewer match.
        filters: metadata filters, every operator, nested as deep as wanted; applied before ranking. An option `filter`
            narrows them: both are applied.
        normalize_scores: whether nodes are scored by relevance, from 0 to 1, as LlamaIndex's cutoffs and fusions
            expect; False gives SumMaxSim, which grows with the length of the query.
        score_key: if set, SumMaxSim goes into each node's metadata under this key, where models do not see it. It is
            not there by default, because LlamaIndex's fusion takes nodes of other metadata for other nodes.
        callback_manager: LlamaIndex's.
        object_map: what index nodes stand for, by their `index_id`.
        objects: index nodes whose objects go into that map.
        verbose: print which object a retrieval enters.
        **options: search options (`route_k`, `hybrid`, ...), documented by `fastlane_rag.search.options.SearchOptions`.
    """

    def __init__(
        self,
        index: AnyIndex,
        similarity_top_k: int = 4,
        *,
        filters: MetadataFilters | None = None,
        normalize_scores: bool = True,
        score_key: str | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        verbose: bool = False,
        **options: Unpack[SearchKeywords],
    ) -> None:
        self.index: AnyIndex = given_index(index)
        self.normalize_scores = check_flag(normalize_scores, "normalize_scores")
        self.score_key = None if score_key is None else check_text("score_key", score_key)
        self.similarity_top_k = check_count(similarity_top_k, "similarity_top_k")
        to_filter(filters)  # says what is wrong with them
        self.filters = filters
        check_keywords(options, _ARGUMENTS, "FastLaneRetriever")
        told = SearchOptions.of(**options)
        for name in _OPTIONS:
            setattr(self, name, getattr(told, name))
        super().__init__(callback_manager, object_map, objects, verbose)

    def __setattr__(self, name: str, value: Any) -> None:
        # Arguments are attributes, and a misspelt one would change no search. Classes of users have their own.
        if type(self) is FastLaneRetriever and not name.startswith("_") and not hasattr(type(self), name):
            check_keywords([name], ("index", *_ARGUMENTS), "FastLaneRetriever, as an attribute too")
        super().__setattr__(name, value)

    @classmethod
    def from_nodes(
        cls,
        nodes: Iterable[BaseNode],
        *,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        show_progress: bool | None = None,
        **options: Any,
    ) -> Self:
        """Build an index and a retriever over it.

        Args:
            nodes: the nodes; their ids, relationships, templates and excluded keys are kept.
            path: a new directory for the index; None keeps the index in memory.
            overwrite: replace an index in `path`; `from_existing` opens it instead.
            show_progress: whether to show a progress bar while encoding.
            **options: arguments of the constructor, such as `similarity_top_k`, and what the index is made with:
                `model`, `device`, ..., see `fastlane_rag.index.options.IndexOptions`.
        """
        of_index, of_search = IndexOptions.divided(options)
        with FastLaneIndex.build(path, overwrite=overwrite, **of_index) as index:
            retriever = cls(index, **of_search)
            retriever.add_nodes(nodes, show_progress=show_progress)
        return retriever

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        *,
        transformations: list[TransformComponent] | None = None,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        show_progress: bool | None = None,
        **options: Any,
    ) -> Self:
        """As `from_nodes`, for documents; `transformations` (by default those of `Settings`) turn them into nodes."""
        nodes = run_transformations(
            given_nodes(documents),  # LlamaIndex makes no nodes of a generator
            Settings.transformations if transformations is None else transformations,
            show_progress=bool(show_progress),
        )
        return cls.from_nodes(nodes, path=path, overwrite=overwrite, show_progress=show_progress, **options)

    @classmethod
    def from_existing(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """A retriever over the index at `path`, which is created, empty, where there is none yet.

        Args:
            path: a directory with an index, a new or an empty one.
            **options: as in `from_nodes`.

        Raises:
            ModelMismatchError: the index was made with another model.
            InvalidInputError: it was made with another option.
        """
        of_index, of_search = IndexOptions.divided(options)
        return cls(FastLaneIndex.open_or_create(path, **of_index), **of_search)

    @classmethod
    def from_persist_dir(
        cls,
        persist_dir: str | os.PathLike[str],
        *,
        model: Any = None,
        device: str | None = None,
        read_only: bool = False,
        **options: Any,
    ) -> Self:
        """Open a retriever over the index that `persist`, `path=` or `fastlane index` stored in `persist_dir`."""
        return cls(FastLaneIndex.open(persist_dir, model=model, device=device, read_only=read_only), **options)

    def persist(self, persist_dir: str | os.PathLike[str]) -> None:
        """Save the index to a directory for `from_persist_dir`, in place of what `persist` wrote there before."""
        self.index.save(persist_dir, overwrite=True)

    def add_nodes(
        self,
        nodes: Iterable[BaseNode],
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """Add nodes, replacing those with the same id; returns the ids in input order.

        The object of an index node is stored with it if it is a node. A retriever, a query engine or another live
        object is only added to this retriever's `object_map`, and must be given again after a reload.
        """
        stored = []
        for node in given_nodes(nodes):
            if isinstance(node, IndexNode) and node.obj is not None and not isinstance(node.obj, BaseNode):
                self.object_map[node.index_id] = node.obj
                node = node.model_copy(update={"obj": None})
            stored.append(node)
        return add_nodes(self.index, stored, batch_size=batch_size, show_progress=show_progress)

    async def aadd_nodes(
        self,
        nodes: Iterable[BaseNode],
        *,
        batch_size: int | None = None,
        show_progress: bool | None = None,
    ) -> list[str]:
        """As `add_nodes`, off the event loop."""
        return await asyncio.to_thread(self.add_nodes, nodes, batch_size=batch_size, show_progress=show_progress)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        texts = _texts(query_bundle)
        return self._nodes(self.index.search_batch_detailed(texts, self._depth(texts), **self._options()))

    def _nodes(self, results: list[SearchResult]) -> list[NodeWithScore]:
        """The nodes of one text's search, or of several texts' together."""
        rankings = [result.hits for result in report(results)]
        hits = rankings[0] if len(rankings) == 1 else _mean(rankings, normalize=self.normalize_scores)
        return [
            to_scored_node(hit, normalize=self.normalize_scores, score_key=self.score_key)
            for hit in hits[: self.similarity_top_k]
        ]

    def _depth(self, texts: list[str]) -> int:
        """Hits to find for each text."""
        k = check_count(self.similarity_top_k, "similarity_top_k")
        return k if len(texts) == 1 else max(10 * k, _FUSED_DEPTH)

    def _options(self) -> SearchKeywords:
        options: SearchKeywords = {name: getattr(self, name) for name in _OPTIONS}  # type: ignore[assignment]
        options["filter"] = all_of(to_filter(self.filters), options["filter"])
        return options

    # BaseRetriever's own method would run `_retrieve` on the event loop and block it.
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        native = getattr(self.index, "asearch_batch_detailed", None)
        if native is None:
            return await asyncio.to_thread(self._retrieve, query_bundle)
        texts = _texts(query_bundle)
        return self._nodes(await native(texts, self._depth(texts), **self._options()))


def _texts(query_bundle: QueryBundle) -> list[str]:
    return query_bundle.embedding_strs or [query_bundle.query_str]


def _mean(rankings: list[list[Hit]], *, normalize: bool) -> list[Hit]:
    """One ranking by mean relevance, or mean score. A hit that a ranking lacks counts there as its last hit does."""
    found = {hit.id: hit for ranking in rankings for hit in ranking}
    totals = dict.fromkeys(found, (0.0, 0.0))
    for ranking in (ranking for ranking in rankings if ranking):
        has = {hit.id: hit for hit in ranking}
        for id_, (score, relevance) in totals.items():
            hit = has.get(id_, ranking[-1])
            totals[id_] = score + hit.score, relevance + hit.relevance
    fused = [
        with_relevance(replace(found[id_], score=score / len(rankings)), relevance / len(rankings))
        for id_, (score, relevance) in totals.items()
    ]
    return sorted(fused, key=lambda hit: (-(hit.relevance if normalize else hit.score), hit.id))
