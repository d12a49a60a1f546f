"""Query tokens in a terminal, by rich. Their markup is not interpreted, and control characters are removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastlane_rag.rendering.weights import shares

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["printable", "route_table"]

_BAR = 30
_HARMLESS = "\n\t"
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in _HARMLESS}


def printable(text: str) -> str:
    """The text with control characters replaced one for one, as they could move the cursor or set colours."""
    return text.translate(_CONTROL)


def route_table(tokens: Sequence[str], scores: Sequence[float], selected: Sequence[int]) -> Table:
    """Every token of a query with its share of the router's attention, the routed ones ranked.

    Args:
        tokens: tokens of the query.
        scores: router score of each token, -inf where it may not be routed.
        selected: positions of the routed tokens, best first.
    """
    from rich.table import Table
    from rich.text import Text

    parts = shares(scores)
    table = Table("rank", "token", "share", "", box=None, pad_edge=False)
    for position, (token, share) in enumerate(zip(tokens, parts, strict=True)):
        rank = str(selected.index(position) + 1) if position in selected else ""
        style = "bold green" if rank else "dim"
        bar = "█" * round(_BAR * share / max(parts))
        table.add_row(rank, Text(printable(token), style), f"{share:.1%}" if share else "-", Text(bar, style))
    return table
