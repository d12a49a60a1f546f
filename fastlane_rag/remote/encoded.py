"""Encoded queries, as they are sent and as searches take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsIndex

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.remote.messages import EncodedQueryMessage, Matrix, rows_of, to_packed

if TYPE_CHECKING:
    from fastlane_rag.search.query import EncodedQuery

__all__ = ["AskedQuery", "matrix", "query_message", "received_query"]


def received_query(message: EncodedQueryMessage, where: str = "the query") -> EncodedQuery:
    """The query that was sent. Without scores there is no router, and all its tokens gather.

    Raises:
        InvalidInputError: its parts do not fit together.
    """
    import torch

    from fastlane_rag.index.outside import PlainQuery
    from fastlane_rag.model import RoutedQuery

    rows = rows_of(message.embeddings)
    views = None if message.views is None else torch.from_numpy(rows_of(message.views))
    lists = [one for one in (message.scores, message.tokens, message.weights, message.norms) if one is not None]
    if any(len(one) != len(rows) for one in lists) or (views is not None and views.shape != rows.shape):
        raise InvalidInputError(f"{where}: embeddings, scores, tokens, views, weights and norms must be of one length")
    if message.scores is None:
        plain = PlainQuery.of(rows, rows.shape[1], where)
        plain.tokens = message.tokens or plain.tokens
        return plain
    scores = torch.tensor(message.scores)
    if not torch.isfinite(scores).any() or scores.isnan().any():
        raise InvalidInputError(f"the scores of {where} must be numbers, one of them finite")
    weights, norms = (None if one is None else torch.tensor(one) for one in (message.weights, message.norms))
    return RoutedQuery(torch.from_numpy(rows), scores, message.tokens or [""] * len(rows), views, weights, norms)


def query_message(query: EncodedQuery, *, packed: bool = True) -> EncodedQueryMessage:
    """An encoded query as it is sent. What no router has seen is sent without scores."""
    from fastlane_rag.index.outside import PlainQuery

    if isinstance(query, PlainQuery):
        return EncodedQueryMessage(embeddings=matrix(query.embeddings, packed=packed), tokens=query.tokens)
    views, norms = getattr(query, "views", None), getattr(query, "norms", None)
    return EncodedQueryMessage(
        embeddings=matrix(query.embeddings, packed=packed),
        scores=query.scores.tolist(),
        tokens=query.tokens,
        views=None if views is None else matrix(views, packed=packed),
        weights=query.weights.tolist(),
        norms=None if norms is None else norms.tolist(),
    )


class AskedQuery:
    """The query of a search on a server: an `EncodedQuery` that is encoded when more than its tokens is asked for.

    Args:
        tokens: its tokens.
        encode: encodes it.
    """

    def __init__(self, tokens: list[str], encode: Callable[[], EncodedQuery]) -> None:
        self.tokens = tokens
        self._encode = encode

    @cached_property
    def encoded(self) -> EncodedQuery:
        """The query, encoded."""
        return self._encode()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.encoded, name)

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return self.encoded.__reduce_ex__(protocol)


def matrix(rows: Any, *, packed: bool) -> Matrix:
    """A matrix of torch or NumPy as it is sent."""
    array = rows.detach().float().cpu().numpy() if hasattr(rows, "detach") else rows
    if packed:
        return to_packed(array)
    listed: list[list[float]] = array.tolist()
    return listed
