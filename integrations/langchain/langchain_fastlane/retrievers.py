"""The retriever: one line in place of a dense one."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import run_in_executor
from pydantic import ConfigDict, Field

from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.filters import Filter
from fastlane_rag.search import RouteK
from langchain_fastlane._documents import add_documents, to_document


class FastLaneRetriever(BaseRetriever):
    """Late-interaction retriever over a `FastLaneIndex`.

    Everything below except `index` and `score_key` can also be given for one call:
    `retriever.invoke("query", k=2, filter={"lang": "en"})`, and the same with `ainvoke`, `batch` and `bind`.

    Example:
        ```python
        retriever = FastLaneRetriever.from_texts(["Cats purr.", "Dogs bark."], k=1)
        retriever.invoke("what does a cat do?")[0].page_content  # 'Cats purr.'
        ```

    Attributes:
        index: the engine; safe to share between retrievers, stores and threads.
        k: how many documents to return; fewer only when fewer match.
        filter: a metadata filter such as `{"year": {"$gte": 2020}}`, or a callable that takes a document's
            metadata and says whether it may be returned. Applied before ranking.
        route_k: how many query tokens gather candidates; "auto" lets the router decide, None is the index's own.
        refine: whether the candidates are scored again with all query tokens.
        score_key: if set, each document's SumMaxSim is put in its metadata under this key.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    index: FastLaneIndex = Field(repr=False, exclude=True)
    k: int = Field(default=4, ge=0)
    filter: Filter | None = None
    route_k: RouteK | None = None
    refine: bool = True
    score_key: str | None = None

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        ids: Sequence[str | None] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        model: Any = None,
        overwrite: bool = False,
        **fields: Any,
    ) -> Self:
        """Build an index and a retriever over it.

        Args:
            texts: the passages.
            metadatas: one JSON-like dict a text.
            ids: one id a text; None, whole or single, is generated.
            path: the index's new directory; None keeps it in memory.
            model: whatever `FastLaneModel.from_pretrained` takes; None is the bundled model.
            overwrite: replace an index that `path` already holds. To open it instead:
                `FastLaneRetriever(index=FastLaneIndex.open(path))`.
            **fields: the retriever's own, such as `k`.
        """
        retriever = cls(index=FastLaneIndex.create(path, model=model, overwrite=overwrite), **fields)
        retriever.index.add(texts, ids=ids, metadatas=metadatas)
        return retriever

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        ids: Sequence[str | None] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        model: Any = None,
        overwrite: bool = False,
        **fields: Any,
    ) -> Self:
        """As `from_texts`, with the ids and metadata the documents carry; `ids` beat theirs."""
        retriever = cls(index=FastLaneIndex.create(path, model=model, overwrite=overwrite), **fields)
        add_documents(retriever.index, documents, ids)
        return retriever

    def add_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """Add documents to the index, replacing those with the same id; returns their ids in input order."""
        return add_documents(self.index, documents, ids, batch_size)

    async def aadd_documents(
        self,
        documents: list[Document],
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
    ) -> list[str]:
        """As `add_documents`, off the event loop."""
        return await run_in_executor(None, self.add_documents, documents, ids=ids, batch_size=batch_size)

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = "FastLane"
        params["ls_embedding_provider"] = "FastLane"
        params["ls_embedding_model"] = self.index.model.name
        return params

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,
        route_k: RouteK | None = None,
        refine: bool | None = None,
    ) -> list[Document]:
        hits = self.index.search(
            query,
            k=self.k if k is None else k,
            filter=self.filter if filter is None else filter,
            route_k=self.route_k if route_k is None else route_k,
            refine=self.refine if refine is None else refine,
        )
        documents = [to_document(hit) for hit in hits]
        if self.score_key is not None:
            for document, hit in zip(documents, hits, strict=True):
                document.metadata[self.score_key] = hit.score
        return documents

    # BaseRetriever reads the arguments it passes on from the synchronous signature alone, and its own
    # asynchronous method takes none of them: without this one `ainvoke(query, k=2)` is a TypeError.
    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        filter: Filter | None = None,
        route_k: RouteK | None = None,
        refine: bool | None = None,
    ) -> list[Document]:
        return await run_in_executor(
            None,
            self._get_relevant_documents,
            query,
            run_manager=run_manager.get_sync(),
            k=k,
            filter=filter,
            route_k=route_k,
            refine=refine,
        )
