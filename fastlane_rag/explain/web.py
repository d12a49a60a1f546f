"""Explanations as HTML that needs no style sheet, script or network.

Queries, tokens and texts are untrusted: all are escaped by `html.escape`, and none is put into an attribute.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from fastlane_rag.explain.matches import Span, TokenMatch
from fastlane_rag.rendering.html import strong, tokens_html

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["explanation_html", "image_html"]

_AMBER = "255, 190, 0"
_CELL = 'style="padding: 1px 10px 1px 0; text-align: left"'


def explanation_html(text: str, matches: Sequence[TokenMatch], spans: Iterable[Span]) -> str:
    """The query's tokens, the text with its evidence highlighted, and a table of what each token matched."""
    return _explained(matches, f'<p style="white-space: pre-wrap">{_marked(text, spans)}</p>')


def image_html(drawn: Image, matches: Sequence[TokenMatch]) -> str:
    """The query's tokens, an image with its map drawn over it, and a table of what each token matched."""
    written = io.BytesIO()
    drawn.save(written, format="PNG")
    # The bytes of a picture that was drawn here, in base64: nothing of a user's text.
    source = f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"
    return _explained(matches, f'<p><img style="max-width: 100%" alt="heat map" src="{source}"></p>')


def _explained(matches: Sequence[TokenMatch], shown: str) -> str:
    routed = {i for i, match in enumerate(matches) if match.routed}
    rows = "".join(
        f"<tr><td {_CELL}>{strong(match.token, match.routed)}</td><td {_CELL}>{match.share:.1%}</td>"
        f"<td {_CELL}>{match.weight:.2f}</td><td {_CELL}>{match.similarity:.3f}</td>"
        f"<td {_CELL}>{escape(match.matched)}</td></tr>"
        for match in matches
    )
    heads = "".join(f"<th {_CELL}>{name}</th>" for name in ("query token", "share", "weight", "similarity", "matched"))
    return (
        '<div style="max-width: 60em">'
        f'<div style="line-height: 2">'
        f"{tokens_html([m.token for m in matches], [m.share for m in matches], routed)}</div>"
        f"{shown}"
        f"<details><summary>what each query token matched</summary>"
        f'<table style="border-collapse: collapse"><tr>{heads}</tr>{rows}</table></details></div>'
    )


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
