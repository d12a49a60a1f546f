"""The retriever, a drop-in replacement for a dense one."""

import os
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManager,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import RunnableConfig, run_in_executor
from langchain_core.runnables.config import get_config_list
from pydantic import ConfigDict, Field, PlainValidator

from fastlane_rag import Hit
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.protocol import AnyIndex, check_index
from fastlane_rag.search.fields import SearchFields
from fastlane_rag.search.options import SearchOptions, call_filter
from langchain_fastlane._documents import add_documents, to_document


class FastLaneRetriever(SearchFields, BaseRetriever):
    """Late-interaction retriever over a `FastLaneIndex`, or a `RemoteIndex` on a server.

    Besides the fields below it has one for each option of a search (`filter`, `route_k`, `hybrid`, ...), as
    `fastlane_rag.search.options.SearchOptions` documents them. `k` and these can also be given for one call:
    `retriever.invoke("query", k=2, filter={"lang": "en"})`, and the same with `ainvoke`, `batch` and `bind`. A call's
    filter narrows the retriever's own: both are applied. `override_filter=True` puts it in place of the own one.

    Example:
        ```python
        retriever = FastLaneRetriever.from_texts(["Cats purr.", "Dogs bark."], k=1)
        retriever.invoke("what does a cat do?")[0].page_content  # 'Cats purr.'
        ```

    Attributes:
        index: the engine; safe to share between retrievers, stores and threads.
        k: how many documents to return; fewer only when fewer match.
        score_key: if set, each document's score is put into its metadata under this key.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    index: Annotated[AnyIndex, PlainValidator(check_index)] = Field(repr=False, exclude=True)
    k: int = Field(default=4, ge=0)
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
        max_document_tokens: int | None = None,
        **fields: Any,
    ) -> Self:
        """Build an index and a retriever over it.

        Args:
            texts: the passages.
            metadatas: one JSON-like dict per text.
            ids: one id per text; None, for all or for single texts, generates ids.
            path: a new directory for the index; None keeps the index in memory.
            model: anything that `FastLaneModel.from_pretrained` takes; None for the bundled model.
            overwrite: replace an index in `path`. To open it instead:
                `FastLaneRetriever(index=FastLaneIndex.open(path))`.
            max_document_tokens: tokens to encode of a text; the rest is cut, with a warning. None encodes all.
            **fields: fields of the retriever, such as `k`.
        """
        with FastLaneIndex.build(
            path, model=model, overwrite=overwrite, max_document_tokens=max_document_tokens
        ) as index:
            retriever = cls(index=index, **fields)
            index.add(texts, ids=ids, metadatas=metadatas)
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
        max_document_tokens: int | None = None,
        **fields: Any,
    ) -> Self:
        """As `from_texts`, with ids and metadata of the documents; `ids` take precedence over their own."""
        with FastLaneIndex.build(
            path, model=model, overwrite=overwrite, max_document_tokens=max_document_tokens
        ) as index:
            retriever = cls(index=index, **fields)
            add_documents(index, documents, ids)
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
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        (documents,) = self._search([query], **options)
        return documents

    def _search(self, queries: list[str], **options: Any) -> list[list[Document]]:
        """The documents of each query."""
        results = self.index.search_batch(queries, **self._options(**options))
        return [[self._document(hit) for hit in hits] for hits in results]

    def _options(self, *, override_filter: bool = False, **options: Any) -> dict[str, Any]:
        """The options of a search; one that is missing or None is the retriever's own."""
        own = {name: getattr(self, name) for name in SearchOptions.names()}
        given = {name: value for name, value in options.items() if value is not None}
        given["filter"] = call_filter(self.filter, options.get("filter"), override=override_filter)
        return own | given

    def _document(self, hit: Hit) -> Document:
        document = to_document(hit)
        if self.score_key is not None:
            document.metadata[self.score_key] = hit.score
        return document

    def batch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """Search for several queries in one call, which shares work; callbacks get a start and an end for each query.

        The options hold for all queries, so an error in them fails all queries.
        """
        configs = get_config_list(config, len(inputs))
        runs = [self._started(query, one, kwargs) for query, one in zip(inputs, configs, strict=True)]
        try:
            found = self._search(inputs, **kwargs)
        except Exception as error:
            for run in runs:
                run.on_retriever_error(error)
            if return_exceptions:
                return [error for _ in inputs]  # type: ignore[misc]  # as the base class has it
            raise
        for run, documents in zip(runs, found, strict=True):
            run.on_retriever_end(documents)
        return found

    def _started(self, query: str, config: RunnableConfig, kwargs: dict[str, Any]) -> CallbackManagerForRetrieverRun:
        """Report the start of one query of a batch, as `invoke` does."""
        manager = CallbackManager.configure(
            config.get("callbacks"),
            inheritable_tags=config.get("tags"),
            local_tags=self.tags,
            inheritable_metadata={**(config.get("metadata") or {}), **self._get_ls_params(**kwargs)},
            local_metadata=self.metadata,
        )
        return manager.on_retriever_start(None, query, name=config.get("run_name") or self.get_name())

    # BaseRetriever's asynchronous method takes no options, so `ainvoke(query, k=2)` would raise TypeError.
    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        asearch_batch = getattr(self.index, "asearch_batch", None)
        if asearch_batch is not None:
            (hits,) = await asearch_batch([query], **self._options(**options))
            return [self._document(hit) for hit in hits]
        return await run_in_executor(
            None, self._get_relevant_documents, query, run_manager=run_manager.get_sync(), **options
        )
