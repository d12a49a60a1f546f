"""Ranking given texts without an index: by SumMaxSim, and for variety.

This module imports torch only when a function is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.lengths import check_batch_size, check_text, check_texts, chunks, kind, one_warning, warn_caller
from fastlane_rag.search.options import check_count, check_flag, check_share, check_weight
from fastlane_rag.search.result import SearchResult, relevance

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.search.query import DocumentEncoder
    from fastlane_rag.search.result import Hit

__all__ = ["Ranked", "diversify", "relevance", "relevances", "rerank"]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A text's place in a ranking.

    Attributes:
        position: position of the text among the given ones.
        score: SumMaxSim over all query tokens, weighted or not; higher is better.
        relevance: the score on a scale from 0 to 1 that allows comparison across queries; see `relevance`.
    """

    position: int
    score: float
    relevance: float


def rerank(
    query: str,
    texts: Iterable[str],
    *,
    model: FastLaneModel,
    batch_size: int | None = None,
    weighted: bool = True,
    score_threshold: float | None = None,
) -> list[Ranked]:
    """Rank texts by SumMaxSim with all tokens of query and text: best first, ties in the given order.

    Texts of any length are scored to their end, or to the model's `max_document_tokens`.

    Args:
        query: the query.
        texts: the texts.
        model: encodes both.
        batch_size: texts to encode at once; None lets the model choose.
        weighted: whether each query token counts by the router's weight, as in a search.
        score_threshold: leave out texts of lower relevance.

    Raises:
        InvalidInputError: an argument is not what it must be.
    """
    least = check_share(score_threshold, "score_threshold") or 0.0
    weighted, query = check_flag(weighted, "weighted"), check_text("query", query)
    texts, batch_size = check_texts(texts), check_batch_size(batch_size)
    _check_encodes(model, "encode_routed")
    if not query.strip():
        warn_caller("the query is empty: how texts rank for it means nothing")
    if not texts:
        return []
    import torch

    from fastlane_rag.scoring import maxsim

    scores: list[float] = []
    with torch.inference_mode(), one_warning():
        (encoded,) = model.encode_routed([query])
        rows, weights = encoded.embeddings, encoded.weights if weighted else None
        for some in chunks(texts):
            packed, offsets = _pack(model.encode_documents(list(some), batch_size=batch_size))
            scores += maxsim(rows, packed, document_offsets=offsets, query_weights=weights)[0].tolist()
    ranked = [Ranked(i, score, relevance(score, len(rows))) for i, score in enumerate(scores)]
    return sorted((one for one in ranked if one.relevance >= least), key=lambda one: -one.score)


def relevances(result: SearchResult) -> list[float]:
    """The relevance (0 to 1) of each hit of a search."""
    return [hit.relevance for hit in result.hits]


def diversify(result: SearchResult, k: int, *, model: DocumentEncoder, relevance_weight: float = 0.5) -> list[Hit]:
    """Maximal marginal relevance: pick up to k hits of a search, each relevant but unlike those picked before.

    The similarity of two texts is the mean, over the tokens of both, of each token's best match in the other text,
    mapped to [0, 1] as a relevance. The texts are encoded again, which takes as long as adding them.

    Args:
        result: the hits to choose from.
        k: how many hits to pick.
        model: the index's model.
        relevance_weight: 1 ranks by relevance alone; 0, after the most relevant hit, by variety alone.

    Returns:
        Hits in the order they were picked; of equals the earlier one is picked.

    Raises:
        InvalidInputError: `relevance_weight` is not from 0 to 1, or `k` is no whole number from 0.
    """
    wanted, weight = check_count(k), check_weight(relevance_weight, "relevance_weight")
    if not isinstance(result, SearchResult):
        raise InvalidInputError(f"result must be what search_detailed returns, not {kind(result)}")
    _check_encodes(model, "encode_documents")
    hits = result.hits
    if not hits or not wanted:
        return []
    likeness = _likeness(model.encode_documents([hit.text for hit in hits]))
    relevant = np.array(relevances(result))
    picked = [int(relevant.argmax())]
    while len(picked) < min(wanted, len(hits)):
        value = weight * relevant - (1 - weight) * likeness[:, picked].max(axis=1)
        value[picked] = -np.inf
        picked.append(int(value.argmax()))
    return [hits[position] for position in picked]


def _check_encodes(model: Any, method: str) -> None:
    """Refuse what is no model, such as the name of one.

    Raises:
        InvalidInputError: it does not encode.
    """
    if not hasattr(model, method):
        raise InvalidInputError(f"model must be a FastLaneModel or an object that encodes, not {kind(model)}")


def _likeness(documents: Sequence[torch.Tensor | npt.NDArray[np.floating]]) -> npt.NDArray[np.float32]:
    import torch

    from fastlane_rag.scoring import maxsim

    with torch.inference_mode():
        packed, offsets = _pack(documents)
        best = maxsim(packed, packed, query_offsets=offsets, document_offsets=offsets)
        mean = best / offsets.diff().to(best)[:, None]
        return ((mean + mean.T) / 4 + 0.5).cpu().numpy()


def _pack(documents: Sequence[torch.Tensor | npt.NDArray[np.floating]]) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of all documents, and where each begins. An object that encodes may give arrays."""
    import torch

    rows = [torch.as_tensor(document) for document in documents]
    lengths = torch.tensor([len(one) for one in rows])
    return torch.cat(rows), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
