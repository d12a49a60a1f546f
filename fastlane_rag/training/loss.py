"""The routed late-interaction loss: contrastive, distilled and routed terms over one batch of embeddings."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import torch
from sentence_transformers.multi_vector_encoder.losses import CachedMultiVectorMultipleNegativesRankingLoss
from torch import Tensor, nn
from torch.nn import functional as F

from fastlane_rag.model.encoder import RoutedEncoder
from fastlane_rag.model.router import QueryRouter, gumbel_top_k, takes_context, toward_views
from fastlane_rag.scoring import maxsim, token_maxima
from fastlane_rag.training.config import LossWeights, RoutingConfig

__all__ = ["CachedRoutedLoss", "RoutedLoss", "RoutedTerms"]

_UNROUTABLE = -1e4  # replaces -inf where a score must be finite to have a gradient


class RoutedTerms:
    """The loss as a function of embeddings and router scores.

    Scores are mean MaxSim, SumMaxSim divided by the number of query tokens, so that all k have the same scale.

    Args:
        weights: weight of each term.
        routing: k, document share and temperature.
        scale: factor before a softmax over scores.
        seed: of the draws of k and of the document share.
        labelled: whether the target of the term ``expected`` is the positive; False makes it the full ranking.
    """

    def __init__(
        self, weights: LossWeights, routing: RoutingConfig, scale: float, seed: int, *, labelled: bool = True
    ) -> None:
        self.weights = weights
        self.routing = routing
        self.scale = scale
        self.seed = seed
        self.labelled = labelled
        self.step = 0
        self.last_step = 1
        self.terms: dict[str, float] = {}
        self.routed_positions: Tensor = torch.empty(0)

    @property
    def temperature(self) -> float:
        """Gumbel-Softmax temperature of the current step (geometric annealing)."""
        first, last = self.routing.temperature
        return float(first * (last / first) ** min(1.0, self.step / max(self.last_step, 1)))

    def __call__(
        self,
        queries: Tensor,
        query_mask: Tensor,
        query_scores: Tensor,
        documents: Tensor,
        document_mask: Tensor,
        document_scores: Tensor,
        positives: Tensor,
        *,
        training: bool,
        anchor: tuple[Tensor, Tensor] | None = None,
        views: Tensor | None = None,
        teacher: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum of the terms.

        Args:
            queries: (B, Lq, d) token embeddings.
            query_mask: (B, Lq) bool, true at real tokens.
            query_scores: (B, Lq) router scores, -inf where a token may not be routed.
            documents: (N, Ld, d) token embeddings of all documents of the batch.
            document_mask: (N, Ld) bool, true at real tokens.
            document_scores: (N, Ld) router scores.
            positives: (B,) index of each query's positive.
            training: draw Gumbel noise and random budgets; False takes the middle of each.
            anchor: ``queries`` and ``documents`` as embedded by the model that the run started from.
            views: (B, Lq, d) contextual views of the query tokens, for a router that has them. Routed tokens are then
                compared by the same rows as in search; see :meth:`RoutedQuery.compared`.
            teacher: (B, 1 + n) an outside teacher's scores of the positive and the n negatives of each query. Those
                of query b are documents b, B + b, 2 B + b and so on.
        """
        # The draws depend only on seed and step, so a resumed run repeats them.
        draw = random.Random(f"{self.seed}-{self.step}") if training else random.Random(self.seed)
        w = self.weights
        lengths = query_mask.sum(1).clamp(min=1)
        mean = query_mask / lengths[:, None]
        maxima = _token_maxima(queries, query_mask, documents, document_mask)
        full = torch.einsum("bl,bln->bn", mean, maxima)
        target = full.detach() * self.scale
        terms = {"full": F.cross_entropy(full * self.scale, positives)}
        if anchor is not None:
            terms |= _anchor_terms(
                queries, query_mask, query_scores, documents, document_mask, full, anchor, self.scale
            )

        if teacher is not None:
            own = full.reshape(len(full), -1, len(full)).diagonal(dim1=0, dim2=2).T
            terms["teacher"] = _divergence(own * self.scale, teacher.float())

        k = draw.choices(list(self.routing.k), weights=list(self.routing.k.values()))[0]
        z = gumbel_top_k(query_scores, k, self.temperature, noise=training)
        count = z.detach().sum(1, keepdim=True).clamp(min=1)
        compared = maxima
        if views is not None:
            share = torch.where(torch.as_tensor(takes_context(count, lengths[:, None])), 1 / count, 0.0)
            rows = toward_views(queries, views, share[..., None])
            compared = _token_maxima(rows, query_mask, documents, document_mask)
        routed = torch.einsum("bl,bln->bn", z / count, compared)
        terms["routed"] = F.cross_entropy(routed * self.scale, positives)
        terms["distill"] = _divergence(routed * self.scale, target)
        if w.expected:
            wanted = F.one_hot(positives, full.shape[1]).float() if self.labelled else torch.softmax(target, 1)
            alone = compared
            if views is not None and k > 1:
                alone = _token_maxima(views, query_mask, documents, document_mask)
            terms["expected"] = _expected_loss(query_scores, alone * self.scale, wanted)
        if w.collapse:
            terms["collapse"] = _position_concentration(query_scores, self.temperature)
        if w.document or w.document_alignment:
            terms |= self._document_terms(
                queries, query_mask, mean, documents, document_mask, document_scores, positives, target, draw
            )
        with torch.no_grad():
            self.routed_positions = query_scores.argmax(1)
            self.terms = {name: float(value) for name, value in terms.items()}
            hit = torch.stack([full.argmax(1), routed.argmax(1)]) == positives
            self.terms |= {"full_hit": float(hit[0].float().mean()), f"routed_hit_k{k}": float(hit[1].float().mean())}
        total = torch.zeros((), device=queries.device)
        for name, value in terms.items():
            total = total + getattr(w, name) * value
        return total

    def _document_terms(
        self,
        queries: Tensor,
        query_mask: Tensor,
        mean: Tensor,
        documents: Tensor,
        document_mask: Tensor,
        document_scores: Tensor,
        positives: Tensor,
        target: Tensor,
        draw: random.Random,
    ) -> dict[str, Tensor]:
        terms = {}
        low, high = self.routing.document_share
        scores = document_scores.masked_fill(~document_mask, float("-inf"))
        budget = (torch.isfinite(scores).sum(1) * draw.uniform(low, high)).ceil().clamp(min=1)
        z = gumbel_top_k(scores, budget, self.temperature)
        # A kept token has the weight 1. Multiplying by it gives the router the straight-through gradient: how much the
        # scores would lose without the token.
        kept = maxsim(
            queries,
            documents * z[..., None].to(documents.dtype),
            query_mask=query_mask,
            document_mask=z.detach() > 0.5,
            query_weights=mean,
        )
        terms["document"] = _divergence(kept * self.scale, target)
        if self.weights.document_alignment:
            own = scores[positives]
            wins = _wins(queries, query_mask, documents, document_mask, positives)
            wins = wins.masked_fill(~torch.isfinite(own), 0.0)
            log_p = torch.log_softmax(own, dim=1).masked_fill(wins == 0, 0.0)
            terms["document_alignment"] = -(wins * log_p).sum(1).mean()
        return terms


class RoutedLoss(nn.Module):
    """:class:`RoutedTerms` over a routed encoder; columns are (query, positive, negative_1, ...).

    Args:
        model: the encoder being trained.
        terms: the loss itself.
        anchor: a copy of the encoder at the start; the terms ``anchor`` and ``anchor_tokens`` compare with it.
    """

    def __init__(self, model: RoutedEncoder, terms: RoutedTerms, anchor: RoutedEncoder | None = None) -> None:
        super().__init__()
        self.model = model
        self.terms = terms
        self._anchor = _hidden(anchor)

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch; `labels` are an outside teacher's scores, (B, 1 + n), or None."""
        features = list(sentence_features)
        anchor = _anchor_embeddings(self._anchor, features)
        return _batch_loss(self.terms, _embed_all(self.model, features), self.training, anchor, labels)

    def get_config_dict(self) -> dict[str, Any]:
        """Settings for the model card."""
        return {"weights": self.terms.weights.model_dump(), "scale": self.terms.scale}


class CachedRoutedLoss(CachedMultiVectorMultipleNegativesRankingLoss):
    """:class:`RoutedLoss` with cached gradients: large batches in the memory of ``mini_batch_size`` texts."""

    def __init__(
        self, model: RoutedEncoder, terms: RoutedTerms, mini_batch_size: int, anchor: RoutedEncoder | None = None
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size)
        self._anchor = _hidden(anchor)
        self._anchored: tuple[Tensor, Tensor] | None = None
        self._teacher: Tensor | None = None
        self._routers = (model.query_router, model.document_router)
        self.terms = terms

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        """The loss of one batch; `labels` are an outside teacher's scores, (B, 1 + n), or None."""
        features = list(sentence_features)
        self._anchored = _anchor_embeddings(self._anchor, features, self.mini_batch_size)
        self._teacher = labels
        return super().forward(features, labels)

    def embed_minibatch(self, sentence_feature: Any, begin: int, end: int, *args: Any, **kwargs: Any) -> Any:
        """One tensor per text, which is cached: embeddings, contextual views if there are any, and router scores."""
        stash: list[dict[str, Tensor]] = []
        handles = [
            router.register_forward_hook(lambda _m, _i, out: stash.append(dict(out)))
            for router in self._routers
            if sentence_feature.get("task") in router.tasks
        ]
        try:
            embeddings, mask, state = super().embed_minibatch(sentence_feature, begin, end, *args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        # Cache the views, not their inputs: then the second pass gives their parameters all gradients.
        views = _views(self._routers[0], embeddings, stash[0])
        scores = stash[0]["routing_scores"].clamp(min=_UNROUTABLE)[..., None]
        parts = [embeddings, scores] if views is None else [embeddings, views, scores]
        return torch.cat([part.to(embeddings.dtype) for part in parts], dim=-1), mask, state

    def calculate_loss(self, reps: Any, masks_chunks: Any, *, with_backward: bool = False) -> Tensor:
        """The loss over cached embeddings."""
        columns: list[_Column] = []
        for chunks, masks in zip(reps, masks_chunks, strict=True):
            packed, mask = _pad_columns(chunks, masks)
            scores = packed[..., -1].float()
            scores = scores.masked_fill(~mask | (scores <= _UNROUTABLE / 2), float("-inf"))
            rows, views = packed[..., :-1], None
            if not columns and self._routers[0].context is not None:
                rows, views = rows.chunk(2, dim=-1)
            columns.append((rows, mask, scores, views))
        loss = _batch_loss(self.terms, columns, self.training, self._anchored, self._teacher)
        if with_backward:
            loss.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach()
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """Settings for the model card."""
        return {"weights": self.terms.weights.model_dump(), "mini_batch_size": self.mini_batch_size}


def _token_maxima(queries: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """(B, Lq, N): maximum of each query token in each document, 0 at padding. Routed scores are sums of these."""
    tokens = queries[query_mask]
    maxima = maxsim(tokens[:, None], documents, document_mask=document_mask)
    out = maxima.new_zeros(*query_mask.shape, maxima.shape[1])
    return out.masked_scatter(query_mask[..., None], maxima)


def _expected_loss(scores: Tensor, maxima: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of routing one token, averaged exactly over the router's distribution.

    It is the mean of the straight-through estimate at k = 1, without its variance: the maxima give the loss of every
    token. ``wanted`` is (B, N), the target distribution of each query over the documents.
    """
    of_token = -torch.einsum("bln,bn->bl", torch.log_softmax(maxima, 2), wanted)
    p = torch.softmax(scores, 1).masked_fill(~torch.isfinite(scores), 0.0)
    return (p * of_token).sum(1).mean()


# Embeddings (B, L, d), mask (B, L), router scores (B, L), and contextual views (B, L, d) of queries or None.
_Column = tuple[Tensor, Tensor, Tensor, Tensor | None]


def _views(router: QueryRouter, embeddings: Tensor, features: dict[str, Any]) -> Tensor | None:
    """(B, L, d) float32 contextual views of embedded queries; None for documents, and without a context."""
    if "routing_pooled" not in features:
        return None
    return router.views(embeddings.float(), features)


def _embed(model: RoutedEncoder, features: dict[str, Any], default_task: str) -> _Column:
    out = model(features, task=features.get("task", default_task))
    mask = out["attention_mask"].bool()
    views = _views(model.query_router, out["token_embeddings"], out)
    return out["token_embeddings"], mask, out["routing_scores"].masked_fill(~mask, float("-inf")), views


def _embed_all(model: RoutedEncoder, features: list[dict[str, Tensor]]) -> list[_Column]:
    return [_embed(model, dict(f), "query" if i == 0 else "document") for i, f in enumerate(features)]


def _hidden(anchor: RoutedEncoder | None) -> tuple[RoutedEncoder, ...]:
    """Put the anchor into a tuple, so that its weights are neither trained nor saved with the loss."""
    return () if anchor is None else (anchor.eval(),)


@torch.no_grad()
def _anchor_embeddings(
    anchor: tuple[RoutedEncoder, ...], features: list[dict[str, Tensor]], size: int | None = None
) -> tuple[Tensor, Tensor] | None:
    """Embed the queries (B, Lq, d) and documents (N, Ld, d) of a batch by the anchor, ``size`` texts at a time."""
    if not anchor:
        return None
    columns = []
    for i, column in enumerate(features):
        task = column.get("task", "query" if i == 0 else "document")
        count = len(column["input_ids"])
        step = size or count
        parts = [anchor[0](_rows(column, first, step), task=task) for first in range(0, count, step)]
        columns.append(
            _pad_columns([p["token_embeddings"] for p in parts], [p["attention_mask"].bool() for p in parts])
        )
    documents, _ = _pad_columns([c[0] for c in columns[1:]], [c[1] for c in columns[1:]])
    return columns[0][0].float(), documents.float()


def _anchor_terms(
    queries: Tensor,
    query_mask: Tensor,
    query_scores: Tensor,
    documents: Tensor,
    document_mask: Tensor,
    full: Tensor,
    anchor: tuple[Tensor, Tensor],
    scale: float,
) -> dict[str, Tensor]:
    old_queries, old_documents = (F.normalize(a, dim=-1) for a in anchor)
    mean = query_mask / query_mask.sum(1, keepdim=True).clamp(min=1)
    old = maxsim(old_queries, old_documents, query_mask=query_mask, document_mask=document_mask, query_weights=mean)
    routed = torch.softmax(query_scores.detach(), 1).masked_fill(~query_mask, 0.0)
    moved_queries = (1 - (queries * old_queries).sum(-1)) * (1 - routed) * mean
    moved_documents = (1 - (documents * old_documents).sum(-1))[document_mask]
    return {
        "anchor": _divergence(full * scale, old * scale),
        "anchor_tokens": moved_queries.sum(1).mean() + moved_documents.mean(),
    }


def _rows(features: dict[str, Any], first: int, count: int) -> dict[str, Any]:
    return {k: v[first : first + count] if isinstance(v, Tensor) else v for k, v in features.items()}


def _batch_loss(
    terms: RoutedTerms,
    columns: list[_Column],
    training: bool,
    anchor: tuple[Tensor, Tensor] | None = None,
    teacher: Tensor | None = None,
) -> Tensor:
    (queries, query_mask, query_scores, views), *others = columns
    documents, document_mask = _pad_columns([c[0] for c in others], [c[1] for c in others])
    width = documents.shape[1]
    scores = torch.cat([F.pad(c[2], (0, width - c[2].shape[1]), value=float("-inf")) for c in others])
    positives = torch.arange(len(queries), device=queries.device)
    return terms(
        queries.float(),
        query_mask,
        query_scores,
        documents.float(),
        document_mask,
        scores,
        positives,
        training=training,
        anchor=anchor,
        views=None if views is None else views.float(),
        teacher=teacher,
    )


def _pad_columns(embeddings: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor]:
    width = max(e.shape[1] for e in embeddings)
    return (
        torch.cat([F.pad(e, (0, 0, 0, width - e.shape[1])) for e in embeddings]),
        torch.cat([F.pad(m, (0, width - m.shape[1]), value=False) for m in masks]),
    )


def _divergence(scores: Tensor, target: Tensor) -> Tensor:
    """KL(target || scores), both as softmax over documents, averaged over queries."""
    return F.kl_div(torch.log_softmax(scores, 1), torch.log_softmax(target, 1), reduction="batchmean", log_target=True)


def _position_concentration(scores: Tensor, temperature: float) -> Tensor:
    """Concentration of routing on few positions over the batch: 0 if spread evenly, 1 if all on one position."""
    p = torch.softmax(scores / temperature, dim=1).masked_fill(~torch.isfinite(scores), 0.0)
    marginal = p.mean(0)
    reachable = torch.isfinite(scores).any(0).sum().clamp(min=2)
    entropy = -(marginal * torch.log(marginal.clamp(min=1e-9))).sum()
    return 1.0 - entropy / torch.log(reachable.float())


@torch.no_grad()
def _wins(queries: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor, positives: Tensor) -> Tensor:
    """(B, Ld): share of a query's tokens whose best match is each token of its positive."""
    wins = torch.zeros(len(queries), documents.shape[1], device=queries.device)
    for row, positive in enumerate(positives.tolist()):
        tokens = document_mask[positive].nonzero().squeeze(1)
        offsets = torch.tensor([0, len(tokens)])
        query = queries[row][query_mask[row]]
        _, argmax = token_maxima(query, documents[positive][tokens], offsets)
        wins[row].index_add_(0, tokens[argmax[0]], torch.full((len(query),), 1.0 / len(query), device=wins.device))
    return wins
