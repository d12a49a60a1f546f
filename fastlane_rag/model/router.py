"""The learnable token routers of FastLane (arXiv 2601.06389, section 3) as sentence-transformers modules.

A router gives every token of a text one score, ``s_i = w . SelfAttention(H)_i + a . prior(token_i)``, from the
contextual token states H the transformer left in ``features["token_embeddings"]``. It sits between the transformer
and the projection, so it sees the full hidden width.

``w`` starts at zero, so an untrained router ranks tokens by the prior alone: by how rare they are. Rare tokens carry
the information of a query (Robertson's argument for IDF), so this is a sensible start. Training adds the context.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.model.stand_ins import stand_ins
from fastlane_rag.model.token_weights import QueryWeights

__all__ = [
    "CONTEXT_MOST",
    "DocumentRouter",
    "QueryRouter",
    "TokenRouter",
    "gumbel_top_k",
    "takes_context",
    "toward_views",
    "vocabulary_prior",
]

_WORD = re.compile(r"[^\W_]")
_RESERVED = re.compile(r"^[\[<].*[\]>]$")


def vocabulary_prior(tokens: Sequence[str]) -> Tensor:
    """Estimate the rarity of each token from its place in the vocabulary.

    WordPiece, BPE and Unigram vocabularies list their words roughly from frequent to rare, so by Zipf's law
    ``log(1 + rank)`` grows like an inverse document frequency. Only entries with two or more word characters are
    ranked; single characters, punctuation and reserved entries carry little and get 0.

    Args:
        tokens: the vocabulary in id order.

    Returns:
        float32 tensor of shape (len(tokens),), in nats.
    """
    is_word = torch.tensor([len(_WORD.findall(t)) > 1 and not _RESERVED.match(t) for t in tokens], dtype=torch.float32)
    return torch.log1p(is_word.cumsum(0)) * is_word


def gumbel_top_k(scores: Tensor, k: int | Tensor, temperature: float, *, noise: bool = True) -> Tensor:
    """A hard choice of k tokens in the forward pass, a soft one in the backward pass (straight-through).

    ``p = softmax((s + g) / tau)`` with ``g ~ Gumbel(0, 1)``; ``z = topk_one_hot(p) + p - stop_grad(p)``
    (arXiv 2601.06389, section 3.2).

    Args:
        scores: (B, L) router scores, ``-inf`` where a token may not be picked.
        k: how many tokens to pick; a (B,) integer tensor gives each row its own number. A row with fewer candidates
            picks them all.
        temperature: tau > 0; lower is closer to the hard choice.
        noise: False leaves the Gumbel noise out (evaluation).

    Returns:
        (B, L) weights that are exactly 0 or 1, with the gradient of p.

    Raises:
        ValueError: temperature is not above 0.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    candidates = torch.isfinite(scores)
    perturbed = scores
    if noise:
        uniform = torch.rand_like(scores, dtype=torch.float32).clamp_(1e-9, 1.0 - 1e-7)
        perturbed = scores - torch.log(-torch.log(uniform))
    p = torch.softmax(perturbed.float() / temperature, dim=-1).masked_fill(~candidates, 0.0)
    # Ranked by score, not by p: at a low temperature p underflows to ties.
    rank = perturbed.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    limit = k if isinstance(k, Tensor) else torch.full((len(scores),), k, device=scores.device)
    hard = ((rank < limit[:, None]) & candidates).to(p.dtype)
    # The order matters: (hard + p) - p would round, so that weights were not exactly 0 or 1.
    return hard + (p - p.detach())


class TokenRouter(Module):
    """Scores tokens by self-attention over their contextual states plus a vocabulary prior.

    Writes ``features["routing_scores"]``: (B, L) float32, ``-inf`` where a token may not be routed (padding always;
    special tokens unless ``route_special_tokens``). A text that has only special tokens may route those.

    Args:
        hidden_size: width h of the token states.
        inner_size: width of the attention.
        num_heads: attention heads; divides ``inner_size``.
        vocabulary_size: rows of the prior; 0 for none.
        route_special_tokens: let [CLS], [SEP] and expansion masks compete too.
    """

    config_keys: list[str] = [  # noqa: RUF012 - the base class declares it so
        "hidden_size",
        "inner_size",
        "num_heads",
        "vocabulary_size",
        "route_special_tokens",
    ]
    forward_kwargs: set[str] = {"task"}  # noqa: RUF012
    tasks: ClassVar[tuple[str | None, ...]] = ()

    def __init__(
        self,
        hidden_size: int,
        inner_size: int = 128,
        num_heads: int = 4,
        vocabulary_size: int = 0,
        route_special_tokens: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        if hidden_size < 1 or inner_size < 1 or inner_size % num_heads:
            raise ValueError(
                f"router sizes do not fit: hidden_size={hidden_size}, inner_size={inner_size}, "
                f"num_heads={num_heads} (inner_size must be a positive multiple of num_heads)"
            )
        self.hidden_size = hidden_size
        self.inner_size = inner_size
        self.num_heads = num_heads
        self.vocabulary_size = vocabulary_size
        self.route_special_tokens = route_special_tokens
        self.norm = nn.LayerNorm(hidden_size)
        self.inner = nn.Linear(hidden_size, inner_size)
        self.qkv = nn.Linear(inner_size, 3 * inner_size)
        self.out = nn.Linear(inner_size, inner_size)
        self.score = nn.Linear(inner_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        self.prior_weight = nn.Parameter(torch.ones(()))
        self.register_buffer("prior", torch.zeros(vocabulary_size))
        self._special_ids = torch.empty(0, dtype=torch.long)

    @property
    def trained(self) -> bool:
        """Whether it has learned anything: a fresh router ranks tokens by its prior alone."""
        return bool(self.score.weight.any())

    def on_model_ready(self, model: Any) -> None:
        """Read the special token ids from the tokenizer (sentence-transformers calls this once it is final)."""
        ids = set(getattr(model.tokenizer, "all_special_ids", None) or [])
        # The token that stands for a patch of an image is special to tokenizers. Its states are the image's content.
        ids -= {getattr(model.processor, "image_token_id", None)}
        self._special_ids = torch.tensor(sorted(ids), dtype=torch.long)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Add ``routing_scores`` to the features of a task this router serves."""
        if task in self.tasks:
            features["routing_scores"] = self.score_tokens(
                features["token_embeddings"], features["attention_mask"].bool(), features.get("input_ids")
            )
        return features

    def score_tokens(self, states: Tensor, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        """Router scores (B, L) float32 from states (B, L, h), mask (B, L) bool and ids (B, L)."""
        return self._scores(self._attended(states, mask), mask, input_ids)

    def score_text(self, states: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Score one text without padding; faster than :meth:`score_tokens`.

        Args:
            states: (L, h).
            input_ids: (L,).

        Returns:
            (L,) float32 scores, and the (L, inner_size) output of the attention.
        """
        routable = self.routable(input_ids.tolist())
        attended = self._attended(states[None], None)
        scores = self._unmasked(attended, input_ids[None])[0]
        masked = torch.full_like(scores, float("-inf"))
        masked[routable] = scores[routable]
        return masked, attended[0]

    def _attended(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, inner_size) output of the attention; a mask of None means no padding."""
        batch, length, _ = states.shape
        x = self.inner(self.norm(states.to(self.score.weight.dtype)))
        heads = (batch, length, 3, self.num_heads, self.inner_size // self.num_heads)
        q, k, v = self.qkv(x).view(heads).permute(2, 0, 3, 1, 4)
        attend = None
        if mask is not None and (states.device.type != "cpu" or not mask.all()):  # on the CPU, this check is cheap
            # Let a row without tokens attend everywhere: a softmax over nothing is NaN. The row is masked below.
            attend = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        mixed = mixed.transpose(1, 2).reshape(batch, length, self.inner_size)
        return nn.functional.gelu(x + self.out(mixed))

    def _unmasked(self, attended: Tensor, input_ids: Tensor | None) -> Tensor:
        scores: Tensor = self.score(attended).squeeze(-1).float()
        if self.vocabulary_size and input_ids is not None:
            scores = scores + self.prior_weight.float() * self.prior[input_ids].float()
        return scores

    def _scores(self, attended: Tensor, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        scores = self._unmasked(attended, input_ids)
        return scores.masked_fill(~self._candidates(mask, input_ids), float("-inf"))

    def _candidates(self, mask: Tensor, input_ids: Tensor | None) -> Tensor:
        if self.route_special_tokens or input_ids is None or not len(self._special_ids):
            return mask
        special = input_ids[..., None] == self._special_ids.to(input_ids.device)  # faster than isin for few ids
        content = mask & ~special.any(-1)
        return torch.where(content.any(dim=1, keepdim=True), content, mask)

    def routable(self, ids: Sequence[int]) -> list[int]:
        """Positions of the tokens of one text that may be routed: those whose scores are above ``-inf``."""
        special = set() if self.route_special_tokens else set(self._special_ids.tolist())
        content = [position for position, token in enumerate(ids) if token not in special]
        return content or list(range(len(ids)))

    def set_prior(self, prior: Tensor) -> None:
        """Replace the vocabulary prior, for example by IDF measured on a corpus.

        Args:
            prior: (vocabulary_size,) float.

        Raises:
            ValueError: the shape is another one.
        """
        if prior.shape != self.prior.shape:
            raise ValueError(f"prior has shape {tuple(prior.shape)}, the router's is {tuple(self.prior.shape)}")
        self.prior.copy_(prior)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write config.json and model.safetensors into a folder."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=True)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> TokenRouter:  # type: ignore[override]
        """Read what :meth:`save` wrote, from a directory or a hub id."""
        hub = {k: v for k, v in kwargs.items() if k in {"token", "cache_folder", "revision", "local_files_only"}}
        config = cls.load_config(model_name_or_path, subfolder=subfolder, **hub)
        router = cls(**config)
        cls.load_torch_weights(model_name_or_path, subfolder=subfolder, model=router, **hub)
        return router


CONTEXT_MOST = 8
"""With more routed tokens than this, tokens are compared by their own embeddings: each would stand for too little."""


def takes_context(routed: int | Tensor, tokens: int | Tensor) -> bool | Tensor:
    """Whether `routed` of a query's `tokens` tokens are compared by rows in context.

    If all tokens are routed, there are no others to stand for.
    """
    return (routed > 0) & (routed <= CONTEXT_MOST) & (routed < tokens)


def toward_views(embeddings: Tensor, views: Tensor, share: float | Tensor) -> Tensor:
    """``normalise(Q_i + share * (view_i - Q_i))``: (..., L, dim) rows in context.

    Args:
        embeddings: (..., L, dim), L2-normalised.
        views: (..., L, dim), the contextual views of the same tokens.
        share: 1 over the number of routed tokens; 0 returns the embeddings unchanged.
    """
    return nn.functional.normalize(embeddings + (views - embeddings) * share, dim=-1)


class QueryContext(nn.Module):
    """Contextual views: rows by which routed tokens stand for the rest of the query.

    One token of a question seldom says enough alone. Its contextual view is its own embedding, plus the weighted mean
    of the query's embeddings, plus a learned shift; see :meth:`QueryRouter.views`. Views change how candidates are
    gathered; documents, their index and the refinement are the same without them.

    Args:
        hidden_size: width h of the token states.
        inner_size: width of the router's attention.
        dim: width of the token embeddings.
        rank: inner width of the two linear maps that compute the shift.
    """

    def __init__(self, hidden_size: int, inner_size: int, dim: int, rank: int) -> None:
        super().__init__()
        self.weight = nn.Linear(inner_size, 1, bias=False)
        self.prior_weight = nn.Parameter(torch.full((), 0.3))
        self.log_share = nn.Parameter(torch.full((), math.log(1.5)))
        self.token_in, self.token_out = nn.Linear(inner_size, rank), nn.Linear(rank, dim, bias=False)
        self.query_in, self.query_out = nn.Linear(hidden_size, rank), nn.Linear(rank, dim, bias=False)
        for layer in (self.weight, self.token_out, self.query_out):
            nn.init.zeros_(layer.weight)

    def forward(self, attended: Tensor, pooled: Tensor, mask: Tensor | None, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (B, L), which sum to 1 over the mask, and shifts (B, L, dim).

        Args:
            attended: (B, L, inner_size), the output of the router's attention.
            pooled: (B, h), the sum of the query's token states.
            mask: (B, L) bool; None where nothing is padding.
            prior: (B, L) of the tokens.
        """
        logits = self.weight(attended).squeeze(-1).float() + self.prior_weight.float() * prior.float()
        if mask is not None:
            anywhere = mask | ~mask.any(dim=1, keepdim=True)
            logits = logits.masked_fill(~anywhere, float("-inf"))
        weights = torch.softmax(logits, dim=1)
        # Give the sum the scale of one token state, whatever the query's length: unit length times sqrt(h).
        pooled = nn.functional.normalize(pooled, dim=-1) * math.sqrt(pooled.shape[-1])
        of_query = self.query_out(nn.functional.gelu(self.query_in(pooled)))
        of_token = self.token_out(nn.functional.gelu(self.token_in(attended)))
        return weights, (self.log_share.exp() * of_query[:, None] + of_token).float()


class QueryRouter(TokenRouter):
    """Picks the few query tokens worth comparing, and weighs all of them for the refinement.

    Args:
        context_dim: width of the token embeddings, for a router with contextual views (:class:`QueryContext`); 0 for a
            router without.
        context_rank: inner width of the context.
        weights_size: inner width of the weights (:class:`QueryWeights`); 0 for a router without, whose tokens all have
            the weight 1.
        *args: as for :class:`TokenRouter`.
        **kwargs: as for :class:`TokenRouter`.
    """

    config_keys: list[str] = [*TokenRouter.config_keys, "context_dim", "context_rank", "weights_size"]  # noqa: RUF012
    tasks: ClassVar[tuple[str | None, ...]] = ("query",)

    def __init__(
        self, *args: Any, context_dim: int = 0, context_rank: int = 128, weights_size: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if context_dim < 0 or context_rank < 1:
            raise ValueError(f"context_dim={context_dim} must not be negative, context_rank={context_rank} at least 1")
        if weights_size < 0:
            raise ValueError(f"weights_size={weights_size} must not be negative")
        self.context_dim = context_dim
        self.context_rank = context_rank
        self.context: QueryContext | None = None
        if context_dim:
            self.give_context(context_dim, context_rank)
        self.weights_size = weights_size
        self.token_weights: QueryWeights | None = None
        if weights_size:
            self.give_weights(weights_size)

    def give_context(self, dim: int, rank: int) -> None:
        """Add an untrained context, on the router's device; replaces an earlier one.

        Args:
            dim: width of the token embeddings, at least 1.
            rank: inner width of the context, at least 1.
        """
        self.context_dim, self.context_rank = dim, rank
        self.context = QueryContext(self.hidden_size, self.inner_size, dim, rank).to(self.score.weight.device)

    def give_weights(self, size: int) -> None:
        """Add untrained weights, all 1, on the router's device; replaces earlier ones.

        Args:
            size: inner width of the weights, at least 1.
        """
        self.weights_size = size
        self.token_weights = QueryWeights(self.hidden_size, size).to(self.score.weight.device)

    def weight_logits(self, states: Tensor, input_ids: Tensor | None) -> Tensor:
        """Logits (..., L) float32 of the tokens' weights: :func:`mean_one` of those that are scored gives the weights.

        Args:
            states: (..., L, h).
            input_ids: (..., L); None where they are not known.

        Raises:
            ValueError: this router has no weights.
        """
        if self.token_weights is None:
            raise ValueError("this router has no weights: make it with weights_size")
        logits: Tensor = self.token_weights(states, self._prior_of(input_ids, states))
        return logits

    def _prior_of(self, input_ids: Tensor | None, like: Tensor) -> Tensor:
        """The prior of the tokens, 0 where it is not known."""
        if self.vocabulary_size and input_ids is not None:
            prior: Tensor = self.prior[input_ids]
            return prior
        return torch.zeros(like.shape[:-1], device=like.device)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Add ``routing_scores``, ``routing_norms`` (of the states), and with a context what :meth:`views` needs.

        That is ``routing_attended``, (B, L, inner_size), and ``routing_pooled``, (B, h). The views are computed on
        demand, because a search that routes many tokens does not use them. With ``routing_later`` the scores are
        computed on demand as well: only the token states are kept, as ``routing_states``. A router with weights adds
        their logits, as ``routing_weights``.
        """
        if task not in self.tasks:
            return features
        if features.get("routing_later"):
            features["routing_states"] = features["token_embeddings"]
            return features
        states, mask = features["token_embeddings"].to(self.score.weight.dtype), features["attention_mask"].bool()
        attended = self._attended(states, mask)
        features["routing_scores"] = self._scores(attended, mask, features.get("input_ids"))
        features["routing_norms"] = states.float().norm(dim=-1)
        if self.context is not None:
            pooled = (mask[:, None].to(states.dtype) @ states)[:, 0]
            features["routing_attended"], features["routing_pooled"] = attended, pooled
        if self.token_weights is not None:
            features["routing_weights"] = self.weight_logits(states, features.get("input_ids"))
        return features

    def of_text(self, states: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        """The features that :meth:`forward` adds, for one text, without the batch dimension.

        Args:
            states: (L, h), in the router's number format.
            input_ids: (L,).
        """
        scores, attended = self.score_text(states, input_ids)
        features = {"routing_scores": scores}
        if self.context is not None:
            features |= {"routing_attended": attended, "routing_pooled": states.sum(0)}
        return features

    def views(self, embeddings: Tensor, features: dict[str, Any]) -> Tensor:
        """Contextual views of a query's tokens: ``normalise(Q_i + share * normalise(weights . Q) + shift_i)``.

        Args:
            embeddings: (B, L, dim) L2-normalised.
            features: from :meth:`forward`; without attention_mask where there is no padding. :class:`QueryContext`
                computes weights and shifts from them.

        Returns:
            (B, L, dim), L2-normalised.

        Raises:
            ValueError: this router has no context.
        """
        if self.context is None:
            raise ValueError("this router has no context: make it with context_dim")
        mask = features.get("attention_mask")
        mask = None if mask is None else mask.bool()
        prior = self._prior_of(features.get("input_ids"), embeddings)
        weights, shifts = self.context(features["routing_attended"], features["routing_pooled"], mask, prior)
        mean = nn.functional.normalize((weights[..., None] * embeddings).sum(-2, keepdim=True), dim=-1)
        return nn.functional.normalize(embeddings + self.context.log_share.exp() * mean + shifts, dim=-1)


class DocumentRouter(TokenRouter):
    """Keeps the document tokens that best represent all, to make an index smaller.

    Other arguments are those of :class:`TokenRouter`.

    Args:
        budget: tokens to keep of a document: a number from 1 on counts tokens, one below 1 is a share of the document's
            tokens (rounded up), None keeps all.
    """

    config_keys: list[str] = [*TokenRouter.config_keys, "budget"]  # noqa: RUF012
    tasks: ClassVar[tuple[str | None, ...]] = ("document", None)

    def __init__(self, *args: Any, budget: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budget = budget

    @property
    def budget(self) -> float | None:
        """Tokens to keep of each document; see the class."""
        return self._budget

    @budget.setter
    def budget(self, value: float | None) -> None:
        # Numbers of numpy are numbers; 1.0 is no budget, for it may mean one token or all of them.
        whole = isinstance(value, Integral) and not isinstance(value, bool) and value >= 1
        share = isinstance(value, Real) and not isinstance(value, Integral) and 0 < value < 1
        if not (value is None or whole or share):
            raise InvalidInputError(
                f"document budget must be None, a count of tokens >= 1 or a share in (0, 1), got {value!r}"
            )
        self._budget = None if value is None else int(value) if whole else float(value)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Add ``routing_scores`` to documents, where a budget or training needs them."""
        if self.budget is None and not self.training:
            return features
        return super().forward(features, task=task)

    def condense(self, features: dict[str, Any], task: str | None) -> dict[str, Any]:
        """Reduce documents to their budget, once they have token embeddings: mask the other tokens.

        See :mod:`fastlane_rag.model.stand_ins`. In training all tokens stay, because the loss routes by itself.
        """
        if self.budget is not None and task in self.tasks and not self.training:
            rows, scores = features["token_embeddings"], features["routing_scores"]
            with torch.autocast(rows.device.type, enabled=False):  # choose in full precision
                kept, stored = stand_ins(rows, scores, self.budget)
            features["token_embeddings"] = stored.to(rows.dtype)
            features["attention_mask"] = features["attention_mask"].bool() & kept
        return features
