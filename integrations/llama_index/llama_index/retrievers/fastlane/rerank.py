"""The node postprocessor: reranks the nodes of any retriever, without an index."""

from copy import deepcopy
from functools import partial
from typing import Annotated, Any

from llama_index.core import instrumentation
from llama_index.core.bridge.pydantic import BaseModel, Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index.retrievers.fastlane.nodes import with_score
from pydantic import BeforeValidator

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.encoding import open_model
from fastlane_rag.lengths import check_batch_size, check_list, kind
from fastlane_rag.rerank import Ranked, rerank
from fastlane_rag.search.options import check_count

dispatcher = instrumentation.get_dispatcher(__name__)  # type: ignore[attr-defined]


class FastLaneRerank(BaseNodePostprocessor):
    """Rerank another retriever's nodes by SumMaxSim, with all tokens of the query and of each node.

    Example:
        ```python
        engine = RetrieverQueryEngine.from_args(
            index.as_retriever(similarity_top_k=50), llm=llm, node_postprocessors=[FastLaneRerank(top_n=5)]
        )
        ```

    Attributes:
        top_n: how many nodes to return.
        keep_retrieval_score: whether to put the first retriever's score into the metadata, as `retrieval_score`.
        normalize_scores: whether nodes are scored by relevance, from 0 to 1; False gives SumMaxSim.
        score_key: if set, SumMaxSim goes into each node's metadata under this key, where models do not see it.
        score_threshold: leave out nodes of lower relevance, 0 to 1.
        batch_size: how many texts to encode at once; None lets the model choose.
        weighted: whether each query token counts by the router's weight, as in a search.
    """

    top_n: Annotated[int, BeforeValidator(partial(check_count, name="top_n")), Field(ge=0)] = 4
    keep_retrieval_score: bool = False
    normalize_scores: bool = True
    score_key: str | None = None
    score_threshold: float | None = Field(default=None, ge=0, le=1)
    batch_size: Annotated[int | None, BeforeValidator(check_batch_size)] = None
    weighted: bool = True
    _model: Any = PrivateAttr()

    def __init__(
        self,
        model: Any = None,
        top_n: int = 4,
        *,
        keep_retrieval_score: bool = False,
        normalize_scores: bool = True,
        score_key: str | None = None,
        score_threshold: float | None = None,
        batch_size: int | None = None,
        weighted: bool = True,
        device: str | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        """Load the model, which the indexes of the process share where it is given by name.

        Args:
            model: anything that `FastLaneModel.from_pretrained` takes, None for the bundled one, or an object that
                encodes.
            device: where a model that is given by name runs; None takes CUDA or MPS when there is one, else the CPU.

        The other arguments are described at the class.
        """
        super().__init__(
            top_n=top_n,
            keep_retrieval_score=keep_retrieval_score,
            normalize_scores=normalize_scores,
            score_key=score_key,
            score_threshold=score_threshold,
            batch_size=batch_size,
            weighted=weighted,
            callback_manager=callback_manager or CallbackManager([]),
        )
        self._model = open_model(model, device=device)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises the component."""
        return "FastLaneRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if not isinstance(query_bundle, QueryBundle):
            raise InvalidInputError("FastLaneRerank ranks nodes against a query: give query_str or query_bundle")
        nodes = check_list("nodes", nodes)
        for i, one in enumerate(nodes):
            if not isinstance(one, NodeWithScore):
                raise InvalidInputError(f"nodes[{i}] must be a NodeWithScore, not {kind(one)}")
        dispatcher.event(
            ReRankStartEvent(query=query_bundle, nodes=nodes, top_n=self.top_n, model_name=self._model.name)
        )
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self._model.name,
            EventPayload.QUERY_STR: query_bundle.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            texts = [scored.node.get_content(metadata_mode=MetadataMode.EMBED) for scored in nodes]
            ranking = rerank(
                query_bundle.query_str,
                texts,
                model=self._model,
                batch_size=self.batch_size,
                weighted=self.weighted,
                score_threshold=self.score_threshold,
            )
            best = [self._scored_copy(nodes[one.position], one) for one in ranking[: check_count(self.top_n, "top_n")]]
            event.on_end(payload={EventPayload.NODES: best})
        dispatcher.event(ReRankEndEvent(nodes=best))
        return best

    def _scored_copy(self, scored: NodeWithScore, ranked: Ranked) -> NodeWithScore:
        metadata = deepcopy(scored.node.metadata)
        if self.keep_retrieval_score:
            metadata["retrieval_score"] = scored.score
        node = with_score(scored.node.model_copy(update={"metadata": metadata}), ranked.score, self.score_key)
        return NodeWithScore(node=node, score=ranked.relevance if self.normalize_scores else ranked.score)

    # BaseComponent drops values that do not pickle from the copy AND from the live object, without an error.
    def __getstate__(self) -> dict[str, Any]:
        return BaseModel.__getstate__(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        BaseModel.__setstate__(self, state)
