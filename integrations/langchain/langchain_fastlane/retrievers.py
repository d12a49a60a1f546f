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
from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator

from fastlane_rag import Hit
from fastlane_rag.index import FastLaneIndex
from fastlane_rag.index.options import IndexOptions
from fastlane_rag.index.protocol import AnyIndex, given_index
from fastlane_rag.lengths import check_list
from fastlane_rag.search.fields import SearchFields
from fastlane_rag.search.options import SearchOptions, call_filter, check_count
from fastlane_rag.search.result import SearchResult
from langchain_fastlane._documents import add_documents, to_document, to_filter
from langchain_fastlane._reports import report


class FastLaneRetriever(SearchFields, BaseRetriever):
    """Late-interaction retriever over a `FastLaneIndex`, or a `RemoteIndex` on a server.

    Besides the fields below it has one for each option of a search (`filter`, `route_k`, `hybrid`, ...), as
    `fastlane_rag.search.options.SearchOptions` documents them. `k` and these can also be given for one call:
    `retriever.invoke("query", k=2, filter={"lang": "en"})`, and the same with `ainvoke`, `batch` and `bind`. A call's
    filter narrows the retriever's own: both are applied. `override_filter=True` puts it in place of the own one. A
    filter may be a function of a document's metadata, or of the document.

    Callbacks find what a search took (lane, comparisons, milliseconds a stage) under `fastlane` in the run's metadata,
    and get it as the custom event `fastlane_search`.

    Example:
        ```python
        retriever = FastLaneRetriever.from_texts(["Cats purr.", "Dogs bark."], k=1)
        retriever.invoke("what does a cat do?")[0].page_content  # 'Cats purr.'
        ```

    Attributes:
        index: the engine; safe to share between retrievers, stores and threads.
        k: how many documents to return; fewer only when fewer match.
        score_key: if set, each document's score is put into its metadata under this key.
        id_key: if set, so is its id; `EnsembleRetriever(id_key=...)` tells documents apart by it.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    index: Annotated[AnyIndex, PlainValidator(given_index)] = Field(repr=False, exclude=True)
    k: Annotated[int, BeforeValidator(check_count), Field(ge=0)] = 4
    score_key: str | None = None
    id_key: str | None = None

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        ids: Sequence[str | None] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        **options: Any,
    ) -> Self:
        """Build an index and a retriever over it.

        Args:
            texts: the passages.
            metadatas: one JSON-like dict per text.
            ids: one id per text; None, for all or for single texts, generates ids.
            path: a new directory for the index; None keeps the index in memory.
            overwrite: replace an index in `path`; `from_existing` opens it instead.
            **options: fields of the retriever, such as `k`, and what the index is made with: `model`, `device`, ...,
                see `fastlane_rag.index.options.IndexOptions`.
        """
        of_index, fields = IndexOptions.divided(options)
        with FastLaneIndex.build(path, overwrite=overwrite, **of_index) as index:
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
        overwrite: bool = False,
        **options: Any,
    ) -> Self:
        """As `from_texts`, with ids and metadata of the documents; `ids` take precedence over their own."""
        of_index, fields = IndexOptions.divided(options)
        with FastLaneIndex.build(path, overwrite=overwrite, **of_index) as index:
            retriever = cls(index=index, **fields)
            add_documents(index, documents, ids)
        return retriever

    @classmethod
    def from_existing(cls, path: str | os.PathLike[str], **options: Any) -> Self:
        """A retriever over the index at `path`, which is created, empty, where there is none yet.

        Args:
            path: a directory with an index, a new or an empty one.
            **options: as in `from_texts`.

        Raises:
            ModelMismatchError: the index was made with another model.
            InvalidInputError: it was made with another option.
        """
        of_index, fields = IndexOptions.divided(options)
        return cls(index=FastLaneIndex.open_or_create(path, **of_index), **fields)

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
        (result,) = self._search([query], **options)
        report(run_manager, [result])
        return self._documents(result)

    def _search(self, queries: list[str], **options: Any) -> list[SearchResult]:
        """The result of each query."""
        return self.index.search_batch_detailed(queries, **self._options(**options))

    def _options(self, *, override_filter: bool = False, **options: Any) -> dict[str, Any]:
        """The options of a search; one that is missing or None is the retriever's own."""
        own = {name: getattr(self, name) for name in SearchOptions.names()}
        given = {name: value for name, value in options.items() if value is not None}
        given["filter"] = to_filter(call_filter(self.filter, options.get("filter"), override=override_filter))
        return own | given

    def _documents(self, result: SearchResult) -> list[Document]:
        return [self._document(hit) for hit in result.hits]

    def _document(self, hit: Hit) -> Document:
        document = to_document(hit, self.id_key)
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

        With `return_exceptions`, a query that fails has its error in place of its documents, and the others have
        theirs. The options hold for all queries, so an error in them fails all.
        """
        inputs = check_list("inputs", inputs)
        configs = get_config_list(config, len(inputs))
        runs = [self._started(query, one, kwargs) for query, one in zip(inputs, configs, strict=True)]
        try:
            results = self._search(inputs, **kwargs)
        except Exception as error:
            if return_exceptions:
                return [self._alone(query, run, kwargs) for query, run in zip(inputs, runs, strict=True)]
            for run in runs:
                run.on_retriever_error(error)
            raise
        return [self._ended(run, result) for run, result in zip(runs, results, strict=True)]

    async def abatch(
        self,
        inputs: list[str],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[list[Document]]:
        """As `batch`, each query in a call of its own."""
        queries = check_list("inputs", inputs)
        return await super().abatch(queries, config, return_exceptions=return_exceptions, **kwargs)

    def _alone(self, query: str, run: CallbackManagerForRetrieverRun, kwargs: dict[str, Any]) -> Any:
        """The documents of one query of a batch that failed together, or its error."""
        try:
            (result,) = self._search([query], **kwargs)
        except Exception as error:
            run.on_retriever_error(error)
            return error
        return self._ended(run, result)

    def _ended(self, run: CallbackManagerForRetrieverRun, result: SearchResult) -> list[Document]:
        """Report the end of one query of a batch, as `invoke` does, and give its documents."""
        documents = self._documents(result)
        report(run, [result])
        run.on_retriever_end(documents)
        return documents

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
        run = run_manager.get_sync()
        native = getattr(self.index, "asearch_batch_detailed", None)
        if native is None:
            return await run_in_executor(None, self._get_relevant_documents, query, run_manager=run, **options)
        (result,) = await native([query], **self._options(**options))
        await run_in_executor(None, report, run, [result])
        return self._documents(result)
