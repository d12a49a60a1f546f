"""Encoded queries, as they are sent and as searches take them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.remote.messages import EncodedQueryMessage, Matrix, rows_of, to_packed

if TYPE_CHECKING:
    from fastlane_rag.model import RoutedQuery
    from fastlane_rag.search.query import EncodedQuery

__all__ = ["matrix", "query_message", "routed_query"]


def routed_query(message: EncodedQueryMessage, where: str = "the query") -> RoutedQuery:
    """The query that was sent. Without scores all its tokens are alike.

    Raises:
        InvalidInputError: its parts do not fit together.
    """
    import torch

    from fastlane_rag.model import RoutedQuery

    rows = torch.from_numpy(rows_of(message.embeddings))
    scores = torch.zeros(len(rows)) if message.scores is None else torch.tensor(message.scores, dtype=torch.float32)
    tokens = [""] * len(rows) if message.tokens is None else message.tokens
    views = None if message.views is None else torch.from_numpy(rows_of(message.views))
    if not len(rows) == len(scores) == len(tokens) or (views is not None and views.shape != rows.shape):
        raise InvalidInputError(f"embeddings, scores, tokens and views of {where} must be of one length")
    if not torch.isfinite(scores).any() or scores.isnan().any():
        raise InvalidInputError(f"the scores of {where} must be numbers, one of them finite")
    return RoutedQuery(rows, scores, tokens, views)


def query_message(query: EncodedQuery, *, packed: bool = True) -> EncodedQueryMessage:
    """An encoded query as it is sent."""
    views = getattr(query, "views", None)
    return EncodedQueryMessage(
        embeddings=matrix(query.embeddings, packed=packed),
        scores=query.scores.tolist(),
        tokens=query.tokens,
        views=None if views is None else matrix(views, packed=packed),
    )


def matrix(rows: Any, *, packed: bool) -> Matrix:
    """A matrix of torch or NumPy as it is sent."""
    array = rows.detach().float().cpu().numpy() if hasattr(rows, "detach") else rows
    if packed:
        return to_packed(array)
    listed: list[list[float]] = array.tolist()
    return listed
