"""The vector store: FastLane where LangChain wants to add, delete and search."""

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Self, Unpack

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import run_in_executor
from langchain_core.vectorstores import VectorStore

from fastlane_rag.index import FastLaneIndex
from fastlane_rag.rerank import diversify, relevances
from fastlane_rag.search.options import SearchKeywords
from fastlane_rag.storage.filters import Filter
from langchain_fastlane._documents import add_documents, to_document


class FastLaneVectorStore(VectorStore):
    """A vector store whose vectors are one a token, over a `FastLaneIndex`.

    All searches take `k` and the options of a search: `filter` (a dict such as `{"year": {"$gte": 2020}}`, or a
    callable on the metadata, applied before ranking), `route_k`, `hybrid` and the others that
    `fastlane_rag.search.options.SearchOptions` documents. Scores are SumMaxSim, higher is better; relevance scores
    are from 0 to 1. There is no single vector for a text, so nothing here takes or gives one.

    Example:
        ```python
        store = FastLaneVectorStore.from_texts(["Cats purr.", "Dogs bark."])
        store.as_retriever(search_kwargs={"k": 1}).invoke("what does a cat do?")
        ```
    """

    def __init__(self, index: FastLaneIndex | None = None, *, model: Any = None) -> None:
        """Wrap an index.

        Args:
            index: from `FastLaneIndex.create` or `open`; None makes an empty one in memory.
            model: for the index made here, whatever `FastLaneModel.from_pretrained` takes.
        """
        if index is not None and model is not None:
            raise ValueError("an index brings its own model: give index or model, not both")
        self.index = FastLaneIndex.create(model=model) if index is None else index

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
            embedding: a late-interaction model, whatever `FastLaneModel.from_pretrained` takes; None is the
                bundled one. LangChain's dense `Embeddings`, which a line written for another store hands
                over, cannot serve here: they are passed over with a warning.
            metadatas: one JSON-like dict a text.
            ids: one id a text; None, whole or single, is generated.
            path: the index's new directory; None keeps it in memory.
            overwrite: replace an index that `path` already holds.
            batch_size: how many texts are encoded at a time.
            max_document_tokens: tokens that are encoded of a text; the rest is cut, with a warning. None encodes all.
        """
        store = cls._create(embedding, path, overwrite, max_document_tokens)
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
        """As `from_texts`, with the ids and metadata the documents carry; `ids` beat theirs."""
        store = cls._create(embedding, path, overwrite, max_document_tokens)
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

    @classmethod
    def _create(
        cls,
        embedding: Any,
        path: str | os.PathLike[str] | None,
        overwrite: bool,
        max_document_tokens: int | None,
    ) -> Self:
        if isinstance(embedding, Embeddings):
            warnings.warn(
                f"FastLane encodes one vector a token with its own model; {type(embedding).__name__} is not "
                "used. Pass None, or a late-interaction model.",
                stacklevel=3,
            )
            embedding = None
        return cls(
            FastLaneIndex.create(path, model=embedding, overwrite=overwrite, max_document_tokens=max_document_tokens)
        )

    @property
    def embeddings(self) -> None:
        """None: a text has no single vector here. The model is `store.index.model`."""
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
            metadatas: one JSON-like dict a text.
            ids: one id a text; None, whole or single, is generated.
            batch_size: how many texts are encoded at a time.

        Returns:
            The ids, in the order of the texts.

        Raises:
            ValueError: `metadatas` or `ids` are not as many as the texts; nothing is stored.
        """
        return self.index.add(texts, ids=ids, metadatas=metadatas, batch_size=batch_size)

    def add_documents(  # type: ignore[override]
        self,
        documents: Iterable[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """As `add_texts`, with the ids and metadata the documents carry; `ids` beat theirs."""
        return add_documents(self.index, documents, ids, batch_size)

    def delete(  # type: ignore[override]
        self, ids: Sequence[str] | None = None, *, filter: Filter | None = None
    ) -> bool:
        """Delete documents; ids the store does not have are passed over.

        Args:
            ids: which documents. An empty list deletes nothing; None, without a filter, deletes ALL of them,
                as LangChain's `VectorStore` has it.
            filter: delete what matches instead (or, of `ids`, only what matches).

        Returns:
            True.
        """
        self.index.delete(ids, filter={} if ids is None and filter is None else filter)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """The documents with these ids, in their order; ids the store does not have are left out."""
        return [to_document(stored) for stored in self.index.get(ids)]

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
        # Not by LangChain's score function: what a SumMaxSim means depends on how many tokens it sums over.
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
        """k of the `fetch_k` best documents, each relevant yet unlike those before it.

        Args:
            query: the query.
            k: how many to return.
            fetch_k: how many to choose from.
            lambda_mult: 1 looks at relevance alone, 0 at variety alone.
            **options: as in `similarity_search`.
        """
        result = self.index.search_detailed(query, max(fetch_k, k), **options)
        picked = diversify(result, k, model=self.index.model, relevance_weight=lambda_mult)
        return [to_document(hit) for hit in picked]
