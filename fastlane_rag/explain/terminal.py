"""Explanations in a terminal, by rich.

Queries, tokens and texts are untrusted: their markup is not interpreted, and control characters are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.explain.matches import Span, TokenMatch
from fastlane_rag.rendering.terminal import printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["explanation_view", "image_view"]

# Of longer texts, only the surroundings of the best spans are shown.
_WHOLE = 1500
_AROUND = 160
# Patches of an image that are named.
_WARMEST = 5


def explanation_view(text: str, matches: Sequence[TokenMatch], spans: Sequence[Span]) -> RenderableType:
    """The text with its evidence highlighted, and what each query token matched."""
    from rich.console import Group
    from rich.text import Text

    return Group(_highlighted(text, spans), Text(), _table(matches))


def image_view(
    text: str,
    size: tuple[int, int],
    grid: tuple[int, int],
    heat: NDArray[np.float32],
    matches: Sequence[TokenMatch],
) -> RenderableType:
    """The text beside an image, its warmest patches, and what each query token matched."""
    from rich.console import Group
    from rich.text import Text

    warmest = np.argsort(-np.nan_to_num(heat.ravel(), nan=-np.inf), kind="stable")[:_WARMEST]
    places = "; ".join(f"{patch // grid[1]}, {patch % grid[1]} ({heat.ravel()[patch]:.3f})" for patch in warmest)
    about = f"an image of {size[0]} x {size[1]} pixels in {grid[0]} rows and {grid[1]} columns of patches\nwarmest: "
    return Group(Text(printable(text)), Text(about + places), Text(), _table(matches))


def _table(matches: Sequence[TokenMatch]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table("query token", "share", "weight", "similarity", "matched", box=None, pad_edge=False)
    for match in matches:
        style = "bold green" if match.routed else "dim"
        table.add_row(
            Text(printable(match.token), style),
            f"{match.share:.1%}" if match.share else "-",
            f"{match.weight:.2f}",
            f"{match.similarity:.3f}",
            Text(printable(match.matched)),
        )
    return table


def _highlighted(text: str, spans: Sequence[Span]) -> Text:
    from rich.text import Text

    # Replaces characters one for one, so the spans stay valid.
    shown = Text(printable(text))
    strongest = max((span.weight for span in spans), default=1.0)
    for span in spans:
        shown.stylize("bold black on yellow" if 2 * span.weight >= strongest else "underline", span.start, span.end)
    if len(text) <= _WHOLE:
        return shown
    pieces = []
    for start, end in _windows(len(text), spans):
        before, after = "... " if start else "", " ..." if end < len(text) else ""
        pieces.append(Text.assemble(before, shown[start:end], after))
    return Text("\n").join(pieces)


def _windows(length: int, spans: Iterable[Span]) -> list[tuple[int, int]]:
    """Ranges of the text around the best spans, in text order; the beginning of the text if there are no spans."""
    windows: list[tuple[int, int]] = []
    for span in sorted(list(spans)[:3], key=lambda span: span.start):
        start, end = max(0, span.start - _AROUND), min(length, span.end + _AROUND)
        if windows and start <= windows[-1][1]:
            start = windows.pop()[0]
        windows.append((start, end))
    return windows or [(0, min(length, _WHOLE))]
