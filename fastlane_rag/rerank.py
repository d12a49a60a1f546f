"""Ranking texts that are already at hand, without an index: by SumMaxSim, and for variety.

torch loads when a function is called, not when this module is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastlane_rag.lengths import chunks, one_warning

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.search.result import Hit, SearchResult

__all__ = ["Ranked", "diversify", "relevance", "relevances", "rerank"]


@dataclass(frozen=True, slots=True)
class Ranked:
    """A text's place in a ranking.

    Attributes:
        position: which of the given texts this is.
        score: SumMaxSim over all query tokens; higher is better.
        relevance: the score as a number from 0 to 1 that compares across queries, see `relevance`.
    """

    position: int
    score: float
    relevance: float


def relevance(score: float, tokens: int) -> float:
    """The mean similarity of `tokens` scored query tokens, moved from [-1, 1] to [0, 1] and kept there."""
    return min(max((score / tokens + 1) / 2, 0.0), 1.0)


def rerank(query: str, texts: Sequence[str], *, model: FastLaneModel, batch_size: int | None = None) -> list[Ranked]:
    """Score every text against the query with all tokens of both; best first, equal scores in the given order.

    Texts of any length are scored to their end, or to the model's `max_document_tokens`.
    """
    if not texts:
        return []
    import torch

    from fastlane_rag.scoring import maxsim

    scores: list[float] = []
    with torch.inference_mode(), one_warning():
        (query_tokens,) = model.encode_queries([query])
        for some in chunks(texts):
            packed, offsets = _pack(model.encode_documents(list(some), batch_size=batch_size))
            scores += maxsim(query_tokens.to(packed.device), packed, document_offsets=offsets)[0].tolist()
    ranked = [Ranked(i, score, relevance(score, len(query_tokens))) for i, score in enumerate(scores)]
    return sorted(ranked, key=lambda one: -one.score)


def relevances(result: SearchResult) -> list[float]:
    """The relevance of each hit of a search, by the query tokens its score sums over."""
    tokens = len(result.routed.embeddings) if result.refined else len(result.selected)
    return [relevance(hit.score, tokens) for hit in result.hits]


def diversify(result: SearchResult, k: int, *, model: FastLaneModel, relevance_weight: float = 0.5) -> list[Hit]:
    """Maximal marginal relevance: up to k hits of a search, each relevant yet unlike those before it.

    The likeness of two texts is the mean, over the tokens of both, of each token's best match in the other,
    moved to [0, 1] like a relevance. The texts are encoded again, so the cost is that of adding them.

    Args:
        result: the hits to choose from.
        k: how many to pick.
        model: the index's.
        relevance_weight: 1 looks at relevance alone, 0 at variety alone (after the first, the most relevant).

    Returns:
        Hits in the order they were picked; equals go to the earlier one.
    """
    if not 0 <= relevance_weight <= 1:
        raise ValueError(f"the weight of relevance must be from 0 to 1, not {relevance_weight}")
    hits = result.hits
    if not hits or k <= 0:
        return []
    likeness = _likeness(model.encode_documents([hit.text for hit in hits]))
    relevant = np.array(relevances(result))
    picked = [int(relevant.argmax())]
    while len(picked) < min(k, len(hits)):
        value = relevance_weight * relevant - (1 - relevance_weight) * likeness[:, picked].max(axis=1)
        value[picked] = -np.inf
        picked.append(int(value.argmax()))
    return [hits[position] for position in picked]


def _likeness(documents: Sequence[torch.Tensor]) -> npt.NDArray[np.float32]:
    import torch

    from fastlane_rag.scoring import maxsim

    with torch.inference_mode():
        packed, offsets = _pack(documents)
        best = maxsim(packed, packed, query_offsets=offsets, document_offsets=offsets)
        mean = best / offsets.diff().to(best)[:, None]
        return ((mean + mean.T) / 4 + 0.5).cpu().numpy()


def _pack(documents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    lengths = torch.tensor([len(document) for document in documents])
    return torch.cat(list(documents)), torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
