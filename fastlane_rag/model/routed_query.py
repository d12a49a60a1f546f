"""One encoded query, and its router's output, computed on first use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.model.router import QueryRouter, takes_context, toward_views
from fastlane_rag.model.selection import cover, needs
from fastlane_rag.model.token_weights import mean_one

__all__ = ["AUTO_MASS", "LazyRouting", "RoutedQuery", "Selection"]

AUTO_MASS = 0.8
"""Share of the router's mass that ``route_k="auto"`` collects before it stops.

On dev queries of six datasets it takes 5.5 of 12.0 tokens. Unrefined they find nDCG@10 .870, where 4 tokens find
.860 and 16 find .895 (examples/training/judge.py).
"""

Selection = int | Literal["auto"] | None
"""How many tokens `RoutedQuery.select` takes; None for all that may be routed."""


class RoutedQuery:
    """One encoded query, with everything search needs.

    Args:
        embeddings: (Lq, dim) float32, L2-normalised token embeddings.
        scores: (Lq,) float32 router scores, ``-inf`` where a token may not be routed; or a function that returns
            them, called on first use.
        tokens: the Lq token strings.
        context: the value of :attr:`views`, or a function that returns it, called on first use with the router as it
            is then; None for a router without context.
        weights: the value of :attr:`weights`, or a function that returns it, called on first use; None for a router
            without weights.
        norms: (Lq,) norms of the token states, which help to choose tokens; or a function that returns them.
        routable: positions of the tokens that may be routed, where they are known without the scores.

    Attributes:
        embeddings: as given.
        tokens: as given.
        context: as given.
    """

    __slots__ = ("_norms", "_routable", "_scores", "_weights", "context", "embeddings", "tokens")

    def __init__(
        self,
        embeddings: Tensor,
        scores: Tensor | Callable[[], Tensor],
        tokens: list[str],
        context: Tensor | Callable[[], Tensor] | None = None,
        weights: Tensor | Callable[[], Tensor] | None = None,
        norms: Tensor | Callable[[], Tensor] | None = None,
        *,
        routable: Sequence[int] | None = None,
    ) -> None:
        self.embeddings = embeddings
        self._scores = scores
        self.tokens = tokens
        self.context = context
        self._weights = weights
        self._norms = norms
        self._routable = routable

    @property
    def scores(self) -> Tensor:
        """(Lq,) float32 router scores; ``-inf`` where a token may not be routed."""
        if callable(self._scores):
            self._scores = self._scores()
        return self._scores

    @property
    def views(self) -> Tensor | None:
        """(Lq, dim) float32, L2-normalised contextual views of the tokens, for a router that has them."""
        return self.context() if callable(self.context) else self.context

    @property
    def weights(self) -> Tensor:
        """(Lq,) float32, at least 0, with the mean 1: how much each token counts in the refinement.

        All are 1 for a router without weights.
        """
        if self._weights is None:
            return self.embeddings.new_ones(len(self.embeddings))
        if callable(self._weights):
            self._weights = self._weights()
        return self._weights

    @property
    def norms(self) -> Tensor | None:
        """(Lq,) float32 norms of the token states; None where they are not known."""
        if callable(self._norms):
            self._norms = self._norms()
        return self._norms

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle scores, views, weights and norms as tensors, without the model that computes them."""
        return type(self), (self.embeddings, self.scores, self.tokens, self.views, self.weights, self.norms)

    def in_context(self, k: int) -> bool:
        """Whether k routed tokens are compared by other rows than their own embeddings."""
        return self.context is not None and bool(takes_context(k, len(self.embeddings)))

    def compared(self, selected: Tensor) -> Tensor:
        """The rows to compare the routed tokens by: (k, dim) float32, L2-normalised.

        A token routed alone stands for the whole query, so its row is its contextual view. Each of k tokens stands for
        1/k of the rest: ``normalise(Q_i + (view_i - Q_i) / k)``.

        Args:
            selected: (k,) int64 positions, as :meth:`select` gives them.
        """
        own = self.embeddings[selected]
        views = self.views if self.in_context(len(selected)) else None
        return own if views is None else toward_views(own, views[selected], 1 / len(selected))

    def to_cpu(self) -> RoutedQuery:
        """The query on the CPU; itself if it is there."""
        if self.embeddings.device.type == "cpu":
            return self
        make = self.context
        context = cache(lambda: make().cpu()) if callable(make) else None if make is None else make.cpu()
        norms = None if self.norms is None else self.norms.cpu()
        return RoutedQuery(self.embeddings.cpu(), self.scores.cpu(), self.tokens, context, self.weights.cpu(), norms)

    def select(self, k: Selection, *, ordered: bool = True) -> Tensor:
        """Positions of the routed tokens (int64): the first stands best for the query, each next adds most to them.

        Args:
            k: how many. ``"auto"`` takes tokens until their share of the router's mass passes `AUTO_MASS`; the mass is
                the softmax of the scores in standard deviations of the query. None takes all routable tokens. Never
                returns more than there are.
            ordered: False allows any order, and does not run the router where all tokens are taken.

        Raises:
            ValueError: k is below 1, or no number, "auto" or None.
        """
        if not ordered and self._routable is not None and isinstance(k, int) and k >= len(self._routable):
            return torch.tensor(self._routable, dtype=torch.int64)
        scores = self.scores.detach().float().cpu().numpy()  # numpy is faster than torch for so few numbers
        order = np.argsort(-scores, kind="stable")[: np.count_nonzero(np.isfinite(scores))]
        count = len(order)
        if k == "auto":
            # Routers differ in the scale of their scores. Unscaled, a trained one's softmax is almost all on one token.
            ranked = torch.from_numpy(scores[order])
            deviation = ranked.std(correction=int(len(ranked) > 1)).clamp(min=1e-6)
            mass = torch.softmax(ranked / deviation, dim=0).cumsum(0)
            count = min(int((mass < AUTO_MASS).sum()) + 1, len(order))
        elif k is not None:
            if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
                raise InvalidInputError(f"route_k must be a number from 1, 'auto' or None, not {k!r}")
            count = min(int(k), len(order))
        if ordered or count < len(order):
            norms = None if self.norms is None else self.norms.detach().float().cpu().numpy()
            rows = self.embeddings.detach().float().cpu().numpy()
            order = cover(rows, needs(scores, norms), order, count)
        return torch.from_numpy(order).to(self.scores.device)


class LazyRouting:
    """The router's output for one query's scored tokens, computed on first use; keeps no reference to the transformer.

    Args:
        router: computes scores and views.
        ids: (Lq,) token ids.
        embeddings: (Lq, dim) token embeddings.
        known: the features that the router computed from the token states, or the states themselves.
        dim: dimensions to keep of the views; None keeps all.
    """

    def __init__(
        self, router: QueryRouter, ids: Tensor, embeddings: Tensor, known: dict[str, Tensor], dim: int | None = None
    ) -> None:
        self._router, self._ids, self._embeddings, self._known = router, ids, embeddings, known
        self._dim = dim
        self._views: Tensor | None = None

    def scores(self) -> Tensor:
        """(Lq,) float32; all equal where no token may be routed."""
        scores = self._asked()["routing_scores"].to(self._embeddings.device).float().clone()
        return scores if math.isfinite(float(scores.max())) else torch.zeros_like(scores)

    @torch.inference_mode()
    def views(self) -> Tensor:
        """(Lq, dim) float32, L2-normalised."""
        if self._views is None:
            device = self._router.score.weight.device  # the model may have moved since
            known = {**self._asked(), "input_ids": self._ids}
            features = {
                name: known[name][None].to(device) for name in ("routing_attended", "routing_pooled", "input_ids")
            }
            views = self._router.views(self._embeddings[None].to(device), features)[0]
            if self._dim is not None:
                views = torch.nn.functional.normalize(views[:, : self._dim], dim=-1)
            self._views = views.to(self._embeddings.device)
        return self._views

    @torch.inference_mode()
    def norms(self) -> Tensor:
        """(Lq,) float32 norms of the token states."""
        found = self._known.get("routing_norms")
        norms = self._known["routing_states"].float().norm(dim=-1) if found is None else found
        return norms.to(self._embeddings.device)

    @torch.inference_mode()
    def weights(self) -> Tensor:
        """(Lq,) float32, with the mean 1."""
        logits = self._known.get("routing_weights")
        if logits is None:
            states, device = self._known["routing_states"], self._router.score.weight.device
            logits = self._router.weight_logits(states.to(device), self._ids.to(device))
        return mean_one(logits).to(self._embeddings.device)

    @torch.inference_mode()
    def _asked(self) -> dict[str, Tensor]:
        """The features that the router computes from the states, computed once."""
        if "routing_scores" not in self._known:
            weight = self._router.score.weight
            states = self._known["routing_states"].to(weight.device, weight.dtype)
            self._known = {**self._known, **self._router.of_text(states, self._ids.to(weight.device))}
        return self._known
