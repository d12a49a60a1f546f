"""The document compressor: reranks the documents of any retriever, without an index."""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Annotated, Any, Self

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from fastlane_rag.index.encoding import open_model
from fastlane_rag.lengths import check_batch_size
from fastlane_rag.rerank import rerank
from fastlane_rag.search.options import check_count
from langchain_fastlane._documents import given_documents


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
        model: the model, loaded; given as anything that `FastLaneModel.from_pretrained` takes, None for the bundled
            one, or as an object that encodes. What is given by name is shared with the indexes of the process.
        device: where a model that is given by name is to run; None takes CUDA or MPS when there is one, else the CPU.
            Once loaded, `model.device` says where.
        top_n: how many documents to return.
        score_threshold: leave out documents of lower relevance, 0 to 1.
        batch_size: how many texts to encode at once; None lets the model choose.
        weighted: whether each query token counts by the router's weight, as in a search.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    model: Any = Field(default=None, repr=False, exclude=True)
    device: str | None = Field(default=None, repr=False, exclude=True)
    top_n: Annotated[int, BeforeValidator(partial(check_count, name="top_n")), Field(ge=0)] = 4
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    batch_size: Annotated[int | None, BeforeValidator(check_batch_size)] = None
    weighted: bool = True

    @model_validator(mode="after")
    def _load(self) -> Self:
        self.model, self.device = open_model(self.model, device=self.device), None
        return self

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks = None
    ) -> Sequence[Document]:
        """Copies of the `top_n` best documents, best first, with their relevance (0 to 1) as `relevance_score`."""
        documents = given_documents(documents)
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
        for one in ranking[: check_count(self.top_n, "top_n")]:
            document = documents[one.position]
            metadata = {**deepcopy(document.metadata), "relevance_score": one.relevance}
            best.append(document.model_copy(update={"metadata": metadata}))
        return best
