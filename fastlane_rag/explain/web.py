"""Routes and explanations as HTML that needs no style sheet, script or network.

Queries, tokens and texts are data: every one goes through `html.escape`, and nothing of them gets into an attribute.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastlane_rag.explain.evidence import Explanation, Span
    from fastlane_rag.model.fastlane import Route

__all__ = ["explanation_html", "page", "route_html", "section", "shares"]

_GREEN, _AMBER = "46, 160, 67", "255, 190, 0"
_CELL = 'style="padding: 1px 10px 1px 0; text-align: left"'


def route_html(route: Route) -> str:
    """The tokens of a query, coloured by their share of the router's attention; routed ones are framed."""
    tokens = _tokens(route.tokens, shares(route.scores.tolist()), set(route.selected))
    return f'<div style="line-height: 2">{tokens}</div>'


def explanation_html(explanation: Explanation) -> str:
    """The query's tokens, the text with its evidence highlighted, and a table of what each token matched."""
    matches = explanation.tokens
    routed = {i for i, match in enumerate(matches) if match.routed}
    rows = "".join(
        f"<tr><td {_CELL}>{_strong(match.token, match.routed)}</td><td {_CELL}>{match.weight:.1%}</td>"
        f"<td {_CELL}>{match.similarity:.3f}</td><td {_CELL}>{escape(match.matched)}</td></tr>"
        for match in matches
    )
    heads = "".join(f"<th {_CELL}>{name}</th>" for name in ("query token", "weight", "similarity", "matched"))
    return (
        '<div style="max-width: 60em">'
        f'<div style="line-height: 2">'
        f"{_tokens([m.token for m in matches], [m.weight for m in matches], routed)}</div>"
        f'<p style="white-space: pre-wrap">{_marked(explanation.text, explanation.spans)}</p>'
        f"<details><summary>what each query token matched</summary>"
        f'<table style="border-collapse: collapse"><tr>{heads}</tr>{rows}</table></details></div>'
    )


def section(title: str, shown: Route | Explanation) -> str:
    """A route or an explanation under a heading."""
    return f"<h2>{escape(title)}</h2>{shown._repr_html_()}"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document around pieces that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head>\n"
        f'<body style="font-family: sans-serif; margin: 2em"><h1>{escape(title)}</h1>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _tokens(tokens: Sequence[str], weights: Sequence[float], routed: set[int]) -> str:
    largest = max(weights, default=1.0)
    pieces = []
    for i, (token, share) in enumerate(zip(tokens, weights, strict=True)):
        frame = f"border: 1px solid rgb({_GREEN});" if i in routed else "border: 1px solid transparent;"
        style = f"{frame} border-radius: 4px; padding: 2px 4px; background: rgba({_GREEN}, {0.5 * share / largest:.2f})"
        pieces.append(f'<span style="{style}" title="{share:.1%}">{_strong(token, i in routed)}</span>')
    return " ".join(pieces)


def _marked(text: str, spans: Iterable[Span]) -> str:
    pieces, end = [], 0
    spans = sorted(spans, key=lambda span: span.start)
    strongest = max((span.weight for span in spans), default=1.0)
    for span in spans:
        shade = f"rgba({_AMBER}, {0.15 + 0.65 * span.weight / strongest:.2f})"
        pieces.append(escape(text[end : span.start]))
        pieces.append(
            f'<mark style="background: {shade}; color: inherit" title="{span.weight:.1%}">{escape(span.text)}</mark>'
        )
        end = span.end
    return "".join(pieces) + escape(text[end:])


def _strong(token: str, strong: bool) -> str:
    return f"<b>{escape(token)}</b>" if strong else escape(token)


def shares(scores: list[float]) -> list[float]:
    """The softmax of the router's scores."""
    highest = max(scores, default=0.0)
    powers = [math.exp(score - highest) for score in scores]
    return [power / math.fsum(powers) for power in powers]
