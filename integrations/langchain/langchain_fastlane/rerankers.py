"""The document compressor: reranks the documents of any retriever, without an index."""

import os
from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, field_validator

from fastlane_rag.model import FastLaneModel
from fastlane_rag.rerank import rerank


class FastLaneReranker(BaseDocumentCompressor):
    """Rerank another retriever's documents by SumMaxSim, with all tokens of the query and of each document.

    Example:
        ```python
        retriever = ContextualCompressionRetriever(
            base_compressor=FastLaneReranker(top_n=4),
            base_retriever=dense_store.as_retriever(search_kwargs={"k": 50}),
        )
        ```

    Attributes:
        model: anything that `FastLaneModel.from_pretrained` takes; None for the bundled model.
        top_n: how many documents to return.
        score_threshold: leave out documents of lower relevance, 0 to 1.
        batch_size: how many texts to encode at once; None lets the model choose.
        weighted: whether each query token counts by the router's weight, as in a search.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: FastLaneModel = Field(default=None, repr=False, exclude=True, validate_default=True)
    top_n: int = Field(default=4, ge=0)
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    batch_size: int | None = None
    weighted: bool = True

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            model: FastLaneModel | str | os.PathLike[str] | Any = None,
            top_n: int = 4,
            score_threshold: float | None = None,
            batch_size: int | None = None,
        ) -> None: ...

    @field_validator("model", mode="before")
    @classmethod
    def _load(cls, model: Any) -> FastLaneModel:
        return FastLaneModel.from_pretrained(model)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> Sequence[Document]:
        """Copies of the `top_n` best documents, best first, with their relevance (0 to 1) as `relevance_score`."""
        documents = list(documents)
        texts = [document.page_content for document in documents]
        ranking = rerank(
            query,
            texts,
            model=self.model,
            batch_size=self.batch_size,
            weighted=self.weighted,
            score_threshold=self.score_threshold,
        )
        best = []
        for one in ranking[: self.top_n]:
            document = documents[one.position]
            metadata = {**deepcopy(document.metadata), "relevance_score": one.relevance}
            best.append(document.model_copy(update={"metadata": metadata}))
        return best
