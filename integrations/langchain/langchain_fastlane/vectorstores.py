"""The vector store: add, delete and search by LangChain's interface."""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Self, Unpack

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore, VectorStoreRetriever

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.protocol import AnyIndex, check_index
from fastlane_rag.rerank import diversify, relevances
from fastlane_rag.search.options import SearchKeywords, SearchOptions, call_filter
from fastlane_rag.storage.filters import Filter
from langchain_fastlane._documents import add_documents, to_document

# What LangChain's types of search take besides the options of a search.
_OF_SEARCH_TYPES = ("fetch_k", "lambda_mult", "score_threshold")


class FastLaneStoreRetriever(VectorStoreRetriever):
    """LangChain's retriever over a store, whose own filter a call's narrows instead of replacing it."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return super()._get_relevant_documents(query, run_manager=run_manager, **self._joined(kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await super()._aget_relevant_documents(query, run_manager=run_manager, **self._joined(kwargs))

    def _joined(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        override = kwargs.pop("override_filter", False)
        found = call_filter(self.search_kwargs.get("filter"), kwargs.get("filter"), override=override)
        return kwargs | {"filter": found}


class FastLaneVectorStore(VectorStore):
    """A vector store with one vector per token, over a `FastLaneIndex`, or a `RemoteIndex` on a server.

    All searches take `k` and the search options: `filter` (a dict such as `{"year": {"$gte": 2020}}`, or a
    callable on the metadata, applied before ranking), `route_k`, `hybrid` and the others that
    `fastlane_rag.search.options.SearchOptions` documents. Scores are SumMaxSim, higher is better; relevance scores
    are from 0 to 1. A text has no single vector here, so no method takes or returns one.

    Example:
        ```python
        store = FastLaneVectorStore.from_texts(["Cats purr.", "Dogs bark."])
        store.as_retriever(k=1).invoke("what does a cat do?")
        ```
    """

    def __init__(self, index: AnyIndex | None = None, *, model: Any = None) -> None:
        """Wrap an index.

        Args:
            index: from `FastLaneIndex.create` or `open`, or a `RemoteIndex`; None creates an empty one in memory.
            model: for an index created here, anything that `FastLaneModel.from_pretrained` takes.
        """
        if index is not None and model is not None:
            raise ValueError("an index brings its own model: give index or model, not both")
        self.index: AnyIndex = FastLaneIndex.create(model=model) if index is None else check_index(index)

    @classmethod
    def from_texts(  # type: ignore[override]
        cls,
        texts: Iterable[str],
        embedding: Any = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        batch_size: int | None = None,
        max_document_tokens: int | None = None,
    ) -> Self:
        """Build an index and a store over it.

        Args:
            texts: the passages.
            embedding: a late-interaction model, anything that `FastLaneModel.from_pretrained` takes; None for the
                bundled one. A dense `Embeddings` object of LangChain, as other stores need it, is ignored with a
                warning.
            metadatas: one JSON-like dict per text.
            ids: one id per text; None, for all or for single texts, generates ids.
            path: a new directory for the index; None keeps the index in memory.
            overwrite: replace an index in `path`.
            batch_size: how many texts to encode at once.
            max_document_tokens: tokens to encode of a text; the rest is cut, with a warning. None encodes all.
        """
        with FastLaneIndex.build(
            path, model=_late_interaction(embedding), overwrite=overwrite, max_document_tokens=max_document_tokens
        ) as index:
            store = cls(index)
            store.add_texts(texts, metadatas, ids=ids, batch_size=batch_size)
        return store

    @classmethod
    def from_documents(  # type: ignore[override]
        cls,
        documents: Iterable[Document],
        embedding: Any = None,
        *,
        ids: Sequence[str | None] | None = None,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        batch_size: int | None = None,
        max_document_tokens: int | None = None,
    ) -> Self:
        """As `from_texts`, with ids and metadata of the documents; `ids` take precedence over their own."""
        with FastLaneIndex.build(
            path, model=_late_interaction(embedding), overwrite=overwrite, max_document_tokens=max_document_tokens
        ) as index:
            store = cls(index)
            store.add_documents(documents, ids=ids, batch_size=batch_size)
        return store

    @classmethod
    async def afrom_texts(cls, texts: Iterable[str], embedding: Any = None, *args: Any, **kwargs: Any) -> Self:
        """As `from_texts`, off the event loop."""
        return await run_in_executor(None, cls.from_texts, texts, embedding, *args, **kwargs)

    @classmethod
    async def afrom_documents(cls, documents: Iterable[Document], embedding: Any = None, **kwargs: Any) -> Self:
        """As `from_documents`, off the event loop."""
        return await run_in_executor(None, cls.from_documents, documents, embedding, **kwargs)

    @property
    def embeddings(self) -> None:
        """None, because a text has no single vector here. The model is `store.index.model`."""
        return None

    def add_texts(  # type: ignore[override]
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Add texts, replacing those with the same id.

        Args:
            texts: the passages.
            metadatas: one JSON-like dict per text.
            ids: one id per text; None, for all or for single texts, generates ids.
            batch_size: how many texts to encode at once.

        Returns:
            The ids, in the order of the texts.

        Raises:
            ValueError: the number of `metadatas` or `ids` differs from that of the texts; nothing is stored.
        """
        return self.index.add(texts, ids=ids, metadatas=metadatas, batch_size=batch_size)

    def add_documents(  # type: ignore[override]
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """As `add_texts`, with ids and metadata of the documents; `ids` take precedence over their own."""
        return add_documents(self.index, documents, ids, batch_size)

    def delete(  # type: ignore[override]
        self, ids: Sequence[str] | None = None, *, filter: Filter | None = None
    ) -> bool:
        """Delete documents; ids that are not stored are ignored.

        Args:
            ids: the documents to delete. An empty list deletes nothing; None, without a filter, deletes ALL, as
                LangChain's `VectorStore` documents.
            filter: delete only documents that match, of `ids` or of all.

        Returns:
            True.
        """
        self.index.delete(ids, filter={} if ids is None and filter is None else filter)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in this order, without ids that are not stored."""
        return [to_document(stored) for stored in self.index.get(ids)]

    def as_retriever(self, **kwargs: Any) -> VectorStoreRetriever:
        """A retriever over this store.

        A filter given to a call of the retriever narrows its own: both are applied. `override_filter=True` puts the
        call's in place of the own one.

        Args:
            **kwargs: `search_type` ("similarity", "mmr" or "similarity_score_threshold"), other fields of LangChain's
                retriever, and the options of its searches: `k`, `filter`, `route_k`, ..., `fetch_k`, `lambda_mult` or
                `score_threshold`, here or in `search_kwargs`.

        Raises:
            UnknownOptionError: a keyword is none of these.
            InvalidInputError: an option is given here and in `search_kwargs`.
        """
        given = {name: kwargs.pop(name) for name in list(kwargs) if name not in VectorStoreRetriever.model_fields}
        within = dict(kwargs.pop("search_kwargs", None) or {})
        if twice := given.keys() & within.keys():
            raise InvalidInputError(f"{min(twice)!r} is given to as_retriever and in search_kwargs; give it once")
        options = within | given
        SearchOptions.of(**{name: value for name, value in options.items() if name not in _OF_SEARCH_TYPES})
        tags = kwargs.pop("tags", None) or [*self._get_retriever_tags()]
        return FastLaneStoreRetriever(vectorstore=self, tags=tags, search_kwargs=options, **kwargs)

    def similarity_search(  # type: ignore[override]
        self,
        query: str,
        k: int = 4,
        **options: Unpack[SearchKeywords],
    ) -> list[Document]:
        """The k best documents, best first; fewer only when fewer match the filter."""
        hits = self.index.search(query, k, **options)
        return [to_document(hit) for hit in hits]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        **options: Unpack[SearchKeywords],
    ) -> list[tuple[Document, float]]:
        """As `similarity_search`, each with its SumMaxSim: a sum over the query's tokens, higher is better."""
        hits = self.index.search(query, k, **options)
        return [(to_document(hit), hit.score) for hit in hits]

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        # Not by LangChain's score function, because relevance also depends on how many tokens a SumMaxSim adds up.
        result = self.index.search_detailed(query, k, **kwargs)
        documents = [to_document(hit) for hit in result.hits]
        return list(zip(documents, relevances(result), strict=True))

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        return await run_in_executor(None, self._similarity_search_with_relevance_scores, query, k, **kwargs)

    def max_marginal_relevance_search(  # type: ignore[override]
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        **options: Unpack[SearchKeywords],
    ) -> list[Document]:
        """Pick k of the `fetch_k` best documents, each relevant but unlike those picked before.

        Args:
            query: the query.
            k: how many to return.
            fetch_k: how many to choose from.
            lambda_mult: 1 ranks by relevance alone, 0 by variety alone.
            **options: as in `similarity_search`.
        """
        result = self.index.search_detailed(query, max(fetch_k, k), **options)
        picked = diversify(result, k, model=self.index.model, relevance_weight=lambda_mult)
        return [to_document(hit) for hit in picked]


def _late_interaction(embedding: Any) -> Any:
    """The model that was given, and None, with a warning, for a dense one."""
    if isinstance(embedding, Embeddings):
        warnings.warn(
            f"FastLane encodes one vector a token with its own model; {type(embedding).__name__} is not "
            "used. Pass None, or a late-interaction model.",
            stacklevel=3,
        )
        return None
    return embedding
