"""Query tokens in a terminal, by rich. Their markup is not interpreted, and control characters are removed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastlane_rag.rendering.weights import shares

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["json_text", "printable", "route_table", "runs"]

_BAR = 30
_HARMLESS = "\n\t"
# Control characters, marks that change the direction of writing, separators of lines, halves of surrogate pairs,
# characters that only annotate, and invisible tags.
_RANGES = [(0, 31), (127, 159), (0x61C, 0x61C), (0x200E, 0x200F), (0x2028, 0x202E), (0x2066, 0x206F), (0xD800, 0xDFFF)]
_RANGES += [(0xFFF9, 0xFFFB), (0xE0000, 0xE007F)]
_CODES = [code for first, last in _RANGES for code in range(first, last + 1) if chr(code) not in _HARMLESS]
_CONTROL = dict.fromkeys(_CODES, "\N{REPLACEMENT CHARACTER}")
_ESCAPES = {code: json.dumps(chr(code))[1:-1] for code in _CODES if code > 31}


def printable(text: str) -> str:
    """The text without characters that could move the cursor, set colours, or show other ones in another order."""
    return text.translate(_CONTROL)


def json_text(value: Any, indent: int | None = None, *, ascii: bool = False) -> str:
    """A value as JSON that a terminal may show: the characters that `printable` replaces are escaped.

    Args:
        value: of JSON.
        indent: as in `json.dumps`.
        ascii: whether all other characters are escaped as well.
    """
    return json.dumps(value, ensure_ascii=ascii, indent=indent).translate(_ESCAPES)


def runs(tokens: Sequence[str], alone: Sequence[bool]) -> Iterator[tuple[int, str]]:
    """The position and the text of each token, of equal ones in a row the first with their number: "[MASK] x 25".

    Args:
        tokens: tokens of a query.
        alone: whether a token stands for itself, whatever is beside it.
    """
    position = 0
    while position < len(tokens):
        token, end = tokens[position], position + 1
        while not alone[position] and end < len(tokens) and tokens[end] == token and not alone[end]:
            end += 1
        yield position, token if end == position + 1 else f"{token} x {end - position}"
        position = end


def route_table(tokens: Sequence[str], scores: Sequence[float], selected: Sequence[int], *, note: str = "") -> Table:
    """Every token of a query with its share of the router's attention, the routed ones ranked.

    Args:
        tokens: tokens of the query.
        scores: router score of each token, -inf where it may not be routed.
        selected: positions of the routed tokens, best first.
        note: stands below.
    """
    from rich.table import Table
    from rich.text import Text

    parts = shares(scores)
    caption = Text(note, "yellow") if note else None
    table = Table("rank", "token", "share", "", box=None, pad_edge=False, caption=caption, caption_justify="left")
    for position, token in runs(tokens, [bool(share) for share in parts]):
        share = parts[position]
        rank = str(selected.index(position) + 1) if position in selected else ""
        style = "bold green" if rank else "dim"
        bar = "█" * round(_BAR * share / max(parts))
        table.add_row(rank, Text(printable(token), style), f"{share:.1%}" if share else "-", Text(bar, style))
    return table
