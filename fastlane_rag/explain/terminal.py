"""Routes and explanations in a terminal, by rich.

Queries, tokens and texts are data: markup in them is not read, and control characters do not reach the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fastlane_rag.explain.web import shares

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from fastlane_rag.explain.evidence import Explanation, Span
    from fastlane_rag.model.fastlane import Route

__all__ = ["explanation", "printable", "route_table"]

_BAR = 30
# Longer texts are shown around their evidence alone.
_WHOLE = 1500
_AROUND = 160
_HARMLESS = "\n\t"
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in _HARMLESS}


def printable(text: str) -> str:
    """The text without control characters, which could move the cursor, set colours or worse."""
    return text.translate(_CONTROL)


def route_table(route: Route) -> Table:
    """Every token of a query with its share of the router's attention, the routed ones ranked."""
    from rich.table import Table
    from rich.text import Text

    parts = shares(route.scores.tolist())
    table = Table("rank", "token", "share", "", box=None, pad_edge=False)
    for position, (token, share) in enumerate(zip(route.tokens, parts, strict=True)):
        rank = str(route.selected.index(position) + 1) if position in route.selected else ""
        style = "bold green" if rank else "dim"
        bar = "█" * round(_BAR * share / max(parts))
        table.add_row(rank, Text(printable(token), style), f"{share:.1%}" if share else "-", Text(bar, style))
    return table


def explanation(explained: Explanation) -> RenderableType:
    """The text with its evidence highlighted, and what each query token matched."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table("query token", "weight", "similarity", "matched", box=None, pad_edge=False)
    for match in explained.tokens:
        style = "bold green" if match.routed else "dim"
        table.add_row(
            Text(printable(match.token), style),
            f"{match.weight:.1%}" if match.weight else "-",
            f"{match.similarity:.3f}",
            Text(printable(match.matched)),
        )
    return Group(_highlighted(explained.text, explained.spans), Text(), table)


def _highlighted(text: str, spans: Sequence[Span]) -> Text:
    from rich.text import Text

    # One character stays one character, so that the spans still hold.
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
    """Stretches of the text around the best spans, in its order, or its beginning where there are none."""
    windows: list[tuple[int, int]] = []
    for span in sorted(list(spans)[:3], key=lambda span: span.start):
        start, end = max(0, span.start - _AROUND), min(length, span.end + _AROUND)
        if windows and start <= windows[-1][1]:
            start = windows.pop()[0]
        windows.append((start, end))
    return windows or [(0, min(length, _WHOLE))]
