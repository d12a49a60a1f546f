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
from fastlane_rag.index.checks import check_ids
from fastlane_rag.index.given import index_of
from fastlane_rag.index.options import IndexKeywords
from fastlane_rag.index.protocol import AnyIndex
from fastlane_rag.lengths import check_text, check_texts
from fastlane_rag.rerank import diversify
from fastlane_rag.search.options import (
    RankingKeywords,
    SearchOptions,
    call_filter,
    check_count,
    check_share,
    check_weight,
)
from fastlane_rag.search.tracing import searches
from fastlane_rag.storage.filters import Filter, all_of
from langchain_fastlane._documents import add_documents, to_document, to_filter
from langchain_fastlane._reports import report

# What LangChain's types of search take besides the options of a search.
_OF_SEARCH_TYPES = ("fetch_k", "lambda_mult")


class FastLaneStoreRetriever(VectorStoreRetriever):
    """LangChain's retriever over a store, whose own filter a call's narrows instead of replacing it."""

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        with searches() as results:
            found = super()._get_relevant_documents(query, run_manager=run_manager, **self._joined(kwargs))
        report(run_manager, results)
        return found

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await run_in_executor(
            None, self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **kwargs
        )

    def _joined(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        override = kwargs.pop("override_filter", False)
        found = call_filter(self.search_kwargs.get("filter"), kwargs.get("filter"), override=override)
        return kwargs | {"filter": found}


class FastLaneVectorStore(VectorStore):
    """A vector store with one vector per token, over a `FastLaneIndex`, or a `RemoteIndex` on a server.

    All searches take `k` and the search options: `filter` (a dict such as `{"year": {"$gte": 2020}}`, or a function of
    a document's metadata or of the document, applied before ranking), `route_k`, `hybrid` and the others that
    `fastlane_rag.search.options.SearchOptions` documents. Scores are SumMaxSim, higher is better; relevance scores
    are from 0 to 1. A text has no single vector here, so no method takes or returns one.

    Example:
        ```python
        store = FastLaneVectorStore.from_texts(["Cats purr.", "Dogs bark."])
        store.as_retriever(k=1).invoke("what does a cat do?")
        ```
    """

    def __init__(
        self,
        index: AnyIndex | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        id_key: str | None = None,
        **options: Unpack[IndexKeywords],
    ) -> None:
        """Wrap an index, or open or create one.

        Args:
            index: from `FastLaneIndex.create`, `open` or `open_or_create`, or a `RemoteIndex`.
            path: of an index to open, or to create where there is none yet. Without path and index, one in memory.
            id_key: if set, each document that is returned has its id in its metadata under this key.
            **options: what it is made with: `model`, `device`, ..., see `fastlane_rag.index.options.IndexOptions`.

        Raises:
            ModelMismatchError: the index at `path` was made with another model.
            InvalidInputError: it was made with another option; or an index is given and a path or an option as well;
                or `index` is no index. The message says what to give.
        """
        self.id_key = None if id_key is None else check_text("id_key", id_key)
        self.index = index_of(index, path, **options)

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
        **options: Unpack[IndexKeywords],
    ) -> Self:
        """Build an index and a store over it.

        Args:
            texts: the passages.
            embedding: a late-interaction model, as the option `model` takes it; None for the bundled one. A dense
                `Embeddings` object of LangChain, as other stores need it, is ignored with a warning.
            metadatas: one JSON-like dict per text.
            ids: one id per text; None, for all or for single texts, generates ids.
            path: a new directory for the index; None keeps the index in memory. To add to an index that is there:
                `FastLaneVectorStore(path=path).add_texts(texts)`.
            overwrite: replace an index in `path`.
            batch_size: how many texts to encode at once.
            **options: what the index is made with, see `fastlane_rag.index.options.IndexOptions`.
        """
        with FastLaneIndex.build(path, overwrite=overwrite, **_with_model(options, embedding)) as index:
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
        **options: Unpack[IndexKeywords],
    ) -> Self:
        """As `from_texts`, with ids and metadata of the documents; `ids` take precedence over their own."""
        with FastLaneIndex.build(path, overwrite=overwrite, **_with_model(options, embedding)) as index:
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
        self.index.delete(ids, filter={} if ids is None and filter is None else to_filter(filter))
        return True

    def delete_collection(self) -> None:
        """Delete every document."""
        self.index.delete(filter={})

    def update_document(self, document_id: str, document: Document) -> None:
        """As `update_documents`, for one."""
        self.update_documents([document_id], [document])

    def update_documents(self, ids: Iterable[str], documents: Iterable[Document]) -> None:
        """Replace stored documents. To add what is not stored yet as well, call `add_documents`.

        Args:
            ids: of the documents to replace, all of them stored.
            documents: what replaces each.

        Raises:
            InvalidInputError: an id is not stored, or lengths differ; nothing is changed.
        """
        ids = check_texts(ids, "ids")
        stored = {document.id for document in self.index.get(ids)}
        for id_ in ids:
            if id_ not in stored:
                raise InvalidInputError(f"no document has the id {id_!r}; add_documents adds new ones")
        add_documents(self.index, documents, ids)

    def get(
        self,
        ids: Iterable[str] | None = None,
        where: Any = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Document]:
        """Read documents without a query, in the order of their first addition.

        Args:
            ids: of the documents; None does not restrict.
            where: a filter, as in a search.
            limit: how many documents at most.
            offset: how many to leave out first.
        """
        named = None if ids is None else {"$id": {"$in": check_ids(ids)}}
        found = self.index.find(all_of(named, to_filter(where)), limit, offset)
        return [to_document(stored, self.id_key) for stored in found]

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in this order, without ids that are not stored."""
        return [to_document(stored, self.id_key) for stored in self.index.get(ids)]

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
        told = SearchOptions.of(**{name: value for name, value in options.items() if name not in _OF_SEARCH_TYPES})
        if told.score_threshold is not None:
            options["score_threshold"] = told.score_threshold  # LangChain takes nothing but a float of Python
        tags = kwargs.pop("tags", None) or [*self._get_retriever_tags()]
        return FastLaneStoreRetriever(vectorstore=self, tags=tags, search_kwargs=options, **kwargs)

    def similarity_search(  # type: ignore[override]
        self,
        query: str,
        k: int = 4,
        filter: Any = None,
        **options: Unpack[RankingKeywords],
    ) -> list[Document]:
        """The k best documents, best first; fewer only when fewer match the filter."""
        hits = self.index.search(query, k, filter=to_filter(filter), **options)
        return [to_document(hit, self.id_key) for hit in hits]

    def similarity_search_with_score(
        self,
        query: str,
        k: int = 4,
        filter: Any = None,
        **options: Unpack[RankingKeywords],
    ) -> list[tuple[Document, float]]:
        """As `similarity_search`, each with its SumMaxSim: a sum over the query's tokens, higher is better."""
        hits = self.index.search(query, k, filter=to_filter(filter), **options)
        return [(to_document(hit, self.id_key), hit.score) for hit in hits]

    def similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search`, each with its relevance from 0 to 1; `score_threshold` leaves out what has less."""
        kwargs["score_threshold"] = check_share(kwargs.get("score_threshold"), "score_threshold")
        return super().similarity_search_with_relevance_scores(query, k, **kwargs)

    async def asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """As `similarity_search_with_relevance_scores`, off the event loop."""
        return await run_in_executor(None, self.similarity_search_with_relevance_scores, query, k, **kwargs)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Refused, because a text has no single vector here.

        Raises:
            InvalidInputError: always; the message says what to call.
        """
        raise InvalidInputError(
            "FastLane has one vector a token, and searches by no single one: give similarity_search the text, or "
            "store.index.search_embeddings the token embeddings of a query"
        )

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Refused, as `similarity_search_by_vector`; `max_marginal_relevance_search` takes the text."""
        return self.similarity_search_by_vector(embedding, k)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        # Not by LangChain's score function, because relevance also depends on how many tokens a SumMaxSim adds up.
        kwargs["filter"] = to_filter(kwargs.get("filter"))
        hits = self.index.search(query, k, **kwargs)
        return [(to_document(hit, self.id_key), hit.relevance) for hit in hits]

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
        filter: Any = None,
        **options: Unpack[RankingKeywords],
    ) -> list[Document]:
        """Pick k of the `fetch_k` best documents, each relevant but unlike those picked before.

        Args:
            query: the query.
            k: how many to return.
            fetch_k: how many to choose from.
            lambda_mult: 1 ranks by relevance alone, 0 by variety alone.
            filter: as in `similarity_search`.
            **options: as in `similarity_search`.
        """
        fetched = max(check_count(fetch_k, "fetch_k"), check_count(k))
        check_weight(lambda_mult, "lambda_mult")
        result = self.index.search_detailed(query, fetched, filter=to_filter(filter), **options)
        picked = diversify(result, k, model=self.index.model, relevance_weight=lambda_mult)
        return [to_document(hit, self.id_key) for hit in picked]


def _with_model(options: IndexKeywords, embedding: Any) -> IndexKeywords:
    """The options, with the model that was given as `embedding`; a dense one is left out, with a warning."""
    if isinstance(embedding, Embeddings):
        warnings.warn(
            f"FastLane encodes one vector a token with its own model; {type(embedding).__name__} is not "
            "used. Pass None, or a late-interaction model.",
            stacklevel=3,
        )
        return options
    if embedding is None:
        return options
    if options.get("model") is not None:
        raise InvalidInputError("the model is given as embedding and as model; give it once")
    return {**options, "model": embedding}
