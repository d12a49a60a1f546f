"""The evidence for a score, as character spans of the document's text.

This module imports torch only when it explains something.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from fastlane_rag.errors import ModelError
from fastlane_rag.explain.matches import Span, TokenMatch
from fastlane_rag.explain.terminal import explanation_view
from fastlane_rag.explain.web import explanation_html
from fastlane_rag.rendering.weights import shares

if TYPE_CHECKING:
    import torch
    from rich.console import RenderableType

    from fastlane_rag.model import FastLaneModel

__all__ = ["Explanation", "QueryEvidence", "explain", "query_evidence"]


@dataclass(frozen=True)
class Explanation:
    """Which tokens of a query were routed, and what each token matched in a document.

    Notebooks display it, and so does `rich.print` in a terminal.

    Attributes:
        query: the query.
        text: the document's text.
        tokens: one match per query token, in the query's order.
    """

    query: str
    text: str
    tokens: tuple[TokenMatch, ...]

    @property
    def score(self) -> float:
        """The sum of what all query tokens contribute: SumMaxSim, weighted where the search weighs."""
        return math.fsum(match.contribution for match in self.tokens)

    @property
    def routed_score(self) -> float:
        """SumMaxSim over the routed tokens alone, by which the document was gathered."""
        return math.fsum(match.similarity for match in self.tokens if match.routed)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The matched words, to highlight: best first, with adjacent words joined. Spans do not overlap.

        A word's evidence is the sum, over the query tokens that matched it, of similarity times the token's share of
        the router's attention. So the matches of tokens with a high router score stand out.
        """
        return tuple(_joined(self.text, self.tokens))

    def _repr_html_(self) -> str:
        return explanation_html(self.text, self.tokens, self.spans)

    def __rich__(self) -> RenderableType:
        return explanation_view(self.text, self.tokens, self.spans)


def explain(
    model: FastLaneModel,
    query: str,
    text: str,
    *,
    route_k: int | Literal["auto"] | None = "auto",
    weighted: bool = True,
) -> Explanation:
    """Explain the score of a text for a query. Encodes both, which takes tens of milliseconds on a CPU.

    Args:
        model: a model with a fast tokenizer of the transformers library.
        query: the query.
        text: the document's text.
        route_k: query tokens that count as routed, as in `RoutedQuery.select`; None for all.
        weighted: whether the router's weights count, as in a search; False gives all tokens the weight 1.

    Raises:
        ModelError: the model has no fast tokenizer, and no other tells where in a text its tokens are.
    """
    import torch

    from fastlane_rag.model.spans import token_spans
    from fastlane_rag.scoring import token_maxima

    made = query_evidence(model, query, route_k=route_k, weighted=weighted)
    tokenizer = model.encoder.tokenizer
    with torch.inference_mode():
        ids, rows, kept = _document(model, text)
        values, best = token_maxima(made.rows, rows, torch.tensor([0, len(rows)], device=rows.device))
    places = token_spans(tokenizer, model.encoder.prompt_of("document"), text, ids)
    names = tokenizer.convert_ids_to_tokens(ids)
    matches = []
    for i, (value, row) in enumerate(zip(values[0].tolist(), best[0].tolist(), strict=True)):
        position = kept[row]
        span = places[position]
        matches.append(made.match(i, span, text[slice(*span)] if span else names[position], value))
    return Explanation(query, text, tuple(matches))


@dataclass(frozen=True)
class QueryEvidence:
    """What explanations say of a query's tokens, whatever the document is.

    Attributes:
        rows: (Lq, dim) float32 token embeddings.
    """

    rows: torch.Tensor
    _tokens: list[str]
    _spans: list[tuple[int, int] | None]
    _scores: list[float]
    _shares: list[float]
    _weights: list[float]
    _routed: set[int]

    def match(
        self,
        i: int,
        span: tuple[int, int] | None,
        matched: str,
        similarity: float,
        patch: tuple[int, int] | None = None,
    ) -> TokenMatch:
        """The match of token `i`."""
        return TokenMatch(
            token=self._tokens[i],
            query_span=self._spans[i],
            score=self._scores[i],
            share=self._shares[i],
            weight=self._weights[i],
            routed=i in self._routed,
            span=span,
            matched=matched,
            similarity=similarity,
            patch=patch,
        )


def query_evidence(
    model: FastLaneModel, query: str, *, route_k: int | Literal["auto"] | None, weighted: bool
) -> QueryEvidence:
    """Encode a query for an explanation.

    Raises:
        ModelError: the model has no fast tokenizer.
    """
    from fastlane_rag.model.spans import token_spans

    tokenizer: Any = getattr(getattr(model, "encoder", None), "tokenizer", None)
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"{model.name} cannot explain: it has no fast tokenizer of the transformers library, "
            "and no other says where in a text its tokens are"
        )
    (routed,) = model.encode_routed([query])
    ids = tokenizer.convert_tokens_to_ids(routed.tokens)
    spans = token_spans(tokenizer, model.encoder.prompt_of("query"), query, ids)
    scores = routed.scores.tolist()
    weights = routed.weights.tolist() if weighted else [1.0] * len(scores)
    selected = set(routed.select(route_k).tolist())
    return QueryEvidence(routed.embeddings, routed.tokens, spans, scores, shares(scores), weights, selected)


def _document(model: FastLaneModel, text: str) -> tuple[list[int], torch.Tensor, list[int]]:
    """All token ids of a document, its (Ld, dim) unit embeddings, and the position of each embedding among the ids."""
    import torch

    (row,) = model._encode([text], "document", None, False)
    # If every token is skipped, keep the first one, as the model does.
    kept = torch.nonzero(row["attention_mask"])[:, 0].tolist() or [0]
    embeddings = row["token_embeddings"][kept, : model.truncate_dim].float()
    return row["input_ids"].tolist(), torch.nn.functional.normalize(embeddings, dim=-1), kept


def _joined(text: str, matches: Iterable[TokenMatch]) -> list[Span]:
    evidence: dict[tuple[int, int], float] = {}
    for match in matches:
        strength = match.share * max(match.similarity, 0.0)
        if match.span is not None and strength > 0:
            evidence[match.span] = evidence.get(match.span, 0.0) + strength
    total = math.fsum(evidence.values())
    joined: list[tuple[int, int, float]] = []
    for (start, end), strength in sorted(evidence.items()):
        if joined and _adjacent(text, joined[-1][1], start):
            first, last, before = joined.pop()
            joined.append((first, max(last, end), before + strength))
        else:
            joined.append((start, end, strength))
    spans = [Span(start, end, text[start:end], strength / total) for start, end, strength in joined]
    return sorted(spans, key=lambda span: (-span.weight, span.start))


def _adjacent(text: str, end: int, start: int) -> bool:
    """Whether only a little space or punctuation is between two words."""
    between = text[end:start]
    return len(between) <= 3 and "\n" not in between and not any(character.isalnum() for character in between)
