"""`fastlane explain`: which tokens of a query the router picks, and by what scores."""

from typing import TYPE_CHECKING

import click

from fastlane_rag.cli.base import console, parse_route_k, quiet_libraries

if TYPE_CHECKING:
    from fastlane_rag.search import RouteK

_BAR = 30


@click.command()
@click.argument("query")
@click.option("--route-k", metavar="K", default="auto", show_default=True, callback=parse_route_k)
@click.option("--model", help="Model folder or name; the bundled model when left out.")
def explain(query: str, route_k: "RouteK", model: str | None) -> None:
    """Print every token of QUERY with its share of the router's attention, the K routed ones marked.

    The shares are the softmax of the router's scores; "auto" routes tokens until their shares pass a threshold.
    Tokens without a share, such as [CLS], are never routed: they count in refining alone.
    """
    quiet_libraries()
    import torch
    from rich.table import Table
    from rich.text import Text

    from fastlane_rag import FastLaneModel

    (routed,) = FastLaneModel.from_pretrained(model).encode_routed([query])
    chosen = routed.select(None if route_k == "all" else route_k).tolist()
    shares = torch.softmax(routed.scores, dim=0).tolist()
    table = Table("rank", "token", "share", "", box=None, pad_edge=False)
    for position, (token, share) in enumerate(zip(routed.tokens, shares, strict=True)):
        rank = str(chosen.index(position) + 1) if position in chosen else ""
        style = "bold green" if rank else "dim"
        bar = "█" * round(_BAR * share / max(shares))
        table.add_row(rank, Text(token, style), f"{share:.1%}" if share else "-", Text(bar, style))
    console().print(table)
