"""The learnable token routers of FastLane (arXiv 2601.06389, section 3) as sentence-transformers modules.

A router gives every token of a text one score, ``s_i = w . SelfAttention(H)_i + a . prior(token_i)``, from the
contextual token states H the transformer left in ``features["token_embeddings"]``. It sits between the transformer
and the projection, so it sees the full hidden width.

The prior is what an untrained router goes by. ``w`` starts at zero, so until it is trained the ranking of tokens is
exactly the prior's: how rare the token is. Rare tokens carry the information of a query (Robertson's IDF argument),
and gathering by them is the sensible start; training then adds what context says.
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
    """Rarity of each token from its place in the vocabulary, for a tokenizer of which nothing else is known.

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
        k: how many tokens to pick; a (B,) integer tensor gives each row its own. Rows with fewer candidates pick
            them all.
        temperature: tau > 0; lower is closer to the hard choice.
        noise: False leaves the Gumbel noise out (evaluation).

    Returns:
        (B, L) weights that are exactly 0 or 1, with the gradient of p.
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
    # hard + (p - p) in this order: adding p to hard first would leave rounding residue in the 0s and 1s.
    return hard + (p - p.detach())


class TokenRouter(Module):
    """Scores tokens by self-attention over their contextual states plus a vocabulary prior.

    Writes ``features["routing_scores"]``: (B, L) float32, ``-inf`` where a token may not be routed (padding always;
    special tokens unless ``route_special_tokens``). A text with nothing but special tokens may route those.

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

    def on_model_ready(self, model: Any) -> None:
        """Learn the special token ids once the tokenizer is final (called by sentence-transformers)."""
        ids = getattr(model.tokenizer, "all_special_ids", None) or []
        self._special_ids = torch.tensor(sorted(set(ids)), dtype=torch.long)

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
        """What :meth:`score_tokens` gives for a text alone, without the work that padding takes.

        Args:
            states: (L, h).
            input_ids: (L,).

        Returns:
            (L,) float32 scores, and what the router knows of each token: (L, inner_size).
        """
        routable = self.routable(input_ids.tolist())
        attended = self._attended(states[None], None)
        scores = self._unmasked(attended, input_ids[None])[0]
        masked = torch.full_like(scores, float("-inf"))
        masked[routable] = scores[routable]
        return masked, attended[0]

    def _attended(self, states: Tensor, mask: Tensor | None) -> Tensor:
        """What the router knows of each token: (B, L, inner_size). Without a mask there is no padding."""
        batch, length, _ = states.shape
        x = self.inner(self.norm(states.to(self.score.weight.dtype)))
        heads = (batch, length, 3, self.num_heads, self.inner_size // self.num_heads)
        q, k, v = self.qkv(x).view(heads).permute(2, 0, 3, 1, 4)
        attend = None
        if mask is not None and (states.device.type != "cpu" or not mask.all()):  # looking is free on the CPU
            # A row without any token would be softmax over nothing (NaN); such a row attends everywhere and is
            # masked below.
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
        special = input_ids[..., None] == self._special_ids.to(input_ids.device)  # few: faster than isin
        content = mask & ~special.any(-1)
        return torch.where(content.any(dim=1, keepdim=True), content, mask)

    def routable(self, ids: Sequence[int]) -> list[int]:
        """Positions of the tokens of one text that may be routed: those whose scores are above ``-inf``."""
        special = set() if self.route_special_tokens else set(self._special_ids.tolist())
        content = [position for position, token in enumerate(ids) if token not in special]
        return content or list(range(len(ids)))

    def set_prior(self, prior: Tensor) -> None:
        """Replace the vocabulary prior, e.g. by an IDF measured on a corpus (shape (vocabulary_size,))."""
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
"""More routed tokens than this are compared as they are: the share of the rest that each would take is too small."""


def takes_context(routed: int | Tensor, tokens: int | Tensor) -> bool | Tensor:
    """Whether a number of routed tokens, of a query with a number of tokens, is compared in context.

    Where every token is compared there is no rest to stand for.
    """
    return (routed > 0) & (routed <= CONTEXT_MOST) & (routed < tokens)


def toward_views(embeddings: Tensor, views: Tensor, share: float | Tensor) -> Tensor:
    """``normalise(Q_i + share * (view_i - Q_i))``: (..., L, dim) rows that take this share of the rest along.

    Args:
        embeddings: (..., L, dim), L2-normalised; views: the same tokens in context.
        share: 1 over the number of routed tokens; 0 leaves the embeddings as they are.
    """
    return nn.functional.normalize(embeddings + (views - embeddings) * share, dim=-1)


class QueryContext(nn.Module):
    """What a routed token takes along of the tokens that are not compared.

    One token of a question seldom says enough alone. Its contextual view is the token's own embedding, plus the
    weighted mean of the query's embeddings, plus a learned shift; see :meth:`QueryRouter.views`. Documents, their
    index and the refinement by all tokens are as they would be without.

    Args:
        hidden_size: width h of the token states.
        inner_size: width of the router's attention.
        dim: width of the token embeddings.
        rank: width inside the two maps that make the shift.
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
            attended: (B, L, inner_size), the router's own view of the tokens.
            pooled: (B, h), the sum of the query's token states.
            mask: (B, L) bool; None where nothing is padding.
            prior: (B, L) of the tokens.
        """
        logits = self.weight(attended).squeeze(-1).float() + self.prior_weight.float() * prior.float()
        if mask is not None:
            anywhere = mask | ~mask.any(dim=1, keepdim=True)
            logits = logits.masked_fill(~anywhere, float("-inf"))
        weights = torch.softmax(logits, dim=1)
        # At the scale of one token state, whatever the length: unit length times the root of the width.
        pooled = nn.functional.normalize(pooled, dim=-1) * math.sqrt(pooled.shape[-1])
        of_query = self.query_out(nn.functional.gelu(self.query_in(pooled)))
        of_token = self.token_out(nn.functional.gelu(self.token_in(attended)))
        return weights, (self.log_share.exp() * of_query[:, None] + of_token).float()


class QueryRouter(TokenRouter):
    """Picks the few query tokens worth comparing.

    Args:
        context_dim: width of the token embeddings, for a router that gives its tokens a contextual view
            (:class:`QueryContext`); 0 for none.
        context_rank: width inside the context.
        *args: as for :class:`TokenRouter`.
        **kwargs: as for :class:`TokenRouter`.
    """

    config_keys: list[str] = [*TokenRouter.config_keys, "context_dim", "context_rank"]  # noqa: RUF012
    tasks: ClassVar[tuple[str | None, ...]] = ("query",)

    def __init__(self, *args: Any, context_dim: int = 0, context_rank: int = 128, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if context_dim < 0 or context_rank < 1:
            raise ValueError(f"context_dim={context_dim} must not be negative, context_rank={context_rank} at least 1")
        self.context_dim = context_dim
        self.context_rank = context_rank
        self.context: QueryContext | None = None
        if context_dim:
            self.give_context(context_dim, context_rank)

    def give_context(self, dim: int, rank: int) -> None:
        """Start a fresh context, on the router's device; an earlier one is lost.

        Args:
            dim: width of the token embeddings, at least 1.
            rank: width inside the context, at least 1.
        """
        self.context_dim, self.context_rank = dim, rank
        self.context = QueryContext(self.hidden_size, self.inner_size, dim, rank).to(self.score.weight.device)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Add ``routing_scores``, and with a context what :meth:`views` needs of the token states.

        That is ``routing_attended``, (B, L, inner_size), and ``routing_pooled``, (B, h). The views themselves are
        only made for who asks for them: where many tokens are routed nobody does. With ``routing_later`` only the
        states are kept, as ``routing_states``, for whoever asks for scores.
        """
        if task not in self.tasks:
            return features
        if features.get("routing_later"):
            features["routing_states"] = features["token_embeddings"]
            return features
        states, mask = features["token_embeddings"].to(self.score.weight.dtype), features["attention_mask"].bool()
        attended = self._attended(states, mask)
        features["routing_scores"] = self._scores(attended, mask, features.get("input_ids"))
        if self.context is not None:
            pooled = (mask[:, None].to(states.dtype) @ states)[:, 0]
            features["routing_attended"], features["routing_pooled"] = attended, pooled
        return features

    def of_text(self, states: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
        """What :meth:`forward` adds to the features of a text alone, without the dimension of the batch.

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
            features: as :meth:`forward` leaves them, without attention_mask where nothing is padding; weights and
                shifts are what :class:`QueryContext` makes of them.

        Returns:
            (B, L, dim), L2-normalised.

        Raises:
            ValueError: this router has no context.
        """
        if self.context is None:
            raise ValueError("this router has no context: make it with context_dim")
        mask, ids = features.get("attention_mask"), features.get("input_ids")
        mask = None if mask is None else mask.bool()
        known = self.vocabulary_size and ids is not None
        prior = self.prior[ids] if known else torch.zeros(embeddings.shape[:-1], device=embeddings.device)
        weights, shifts = self.context(features["routing_attended"], features["routing_pooled"], mask, prior)
        mean = nn.functional.normalize((weights[..., None] * embeddings).sum(-2, keepdim=True), dim=-1)
        return nn.functional.normalize(embeddings + self.context.log_share.exp() * mean + shifts, dim=-1)


class DocumentRouter(TokenRouter):
    """Keeps the document tokens that stand best for all, so that an index is smaller.

    Args:
        budget: how many tokens a document keeps: an int counts tokens, a float in (0, 1) is a share of its length
            (rounded up), None keeps all. Other arguments as for :class:`TokenRouter`.
    """

    config_keys: list[str] = [*TokenRouter.config_keys, "budget"]  # noqa: RUF012
    tasks: ClassVar[tuple[str | None, ...]] = ("document", None)

    def __init__(self, *args: Any, budget: float | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budget = budget

    @property
    def budget(self) -> float | None:
        """Tokens kept per document; see the class."""
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
        """Add ``routing_scores`` to documents, where a budget or training asks for them."""
        if self.budget is None and not self.training:
            return features
        return super().forward(features, task=task)

    def condense(self, features: dict[str, Any], task: str | None) -> dict[str, Any]:
        """Spend the budget on documents whose token embeddings are made: the rest leaves the scoring mask.

        See :mod:`fastlane_rag.model.stand_ins`. In training all tokens stay: the loss does its own routing.
        """
        if self.budget is not None and task in self.tasks and not self.training:
            rows, scores = features["token_embeddings"], features["routing_scores"]
            with torch.autocast(rows.device.type, enabled=False):  # the choice is made in full precision
                kept, stored = stand_ins(rows, scores, self.budget)
            features["token_embeddings"] = stored.to(rows.dtype)
            features["attention_mask"] = features["attention_mask"].bool() & kept
        return features
