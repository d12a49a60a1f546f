"""Query tokens and whole pages as HTML that needs no style sheet, script or network.

Titles and tokens are untrusted: all are escaped by `html.escape`, and none is put into an attribute.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Protocol

from fastlane_rag.rendering.weights import shares

__all__ = ["ShowsHtml", "page", "route_html", "section", "strong", "tokens_html"]

_GREEN = "46, 160, 67"


class ShowsHtml(Protocol):
    """An object that notebooks display as HTML."""

    def _repr_html_(self) -> str: ...


def route_html(tokens: Sequence[str], scores: Sequence[float], selected: Iterable[int], *, note: str = "") -> str:
    """The tokens of a query, coloured by their share of the router's attention; routed ones are framed.

    Args:
        tokens: tokens of the query.
        scores: router score of each token, -inf where it may not be routed.
        selected: positions of the routed tokens.
        note: stands below.
    """
    below = f"<div><i>{escape(note)}</i></div>" if note else ""
    return f'<div style="line-height: 2">{tokens_html(tokens, shares(scores), set(selected))}{below}</div>'


def section(title: str, shown: ShowsHtml) -> str:
    """The HTML of an object under a heading."""
    return f"<h2>{escape(title)}</h2>{shown._repr_html_()}"


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document around parts that are HTML already."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title></head>\n"
        f'<body style="font-family: sans-serif; margin: 2em"><h1>{escape(title)}</h1>\n'
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def tokens_html(tokens: Sequence[str], weights: Sequence[float], routed: set[int]) -> str:
    """Tokens shaded by weight; those at the routed positions are framed."""
    largest = max(weights, default=1.0)
    pieces = []
    for i, (token, share) in enumerate(zip(tokens, weights, strict=True)):
        frame = f"border: 1px solid rgb({_GREEN});" if i in routed else "border: 1px solid transparent;"
        style = f"{frame} border-radius: 4px; padding: 2px 4px; background: rgba({_GREEN}, {0.5 * share / largest:.2f})"
        pieces.append(f'<span style="{style}" title="{share:.1%}">{strong(token, i in routed)}</span>')
    return " ".join(pieces)


def strong(token: str, wanted: bool) -> str:
    """The token's HTML, bold where wanted."""
    return f"<b>{escape(token)}</b>" if wanted else escape(token)
