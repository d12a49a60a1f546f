"""`fastlane explain`: which tokens of a query the router picks, and what they find in the passages of an index."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastlane_rag.cli.base import console, opened_index, opened_model, parsed_by
from fastlane_rag.cli.search import heading
from fastlane_rag.search.options import parse_route_k

if TYPE_CHECKING:
    from fastlane_rag import FastLaneModel
    from fastlane_rag.explain import Explanation
    from fastlane_rag.model import Route
    from fastlane_rag.search.result import Hit
    from fastlane_rag.types import RouteK


@click.command()
@click.argument("query")
@click.option("--index", type=click.Path(path_type=Path), help="Explain the best passages of this index too.")
@click.option("-k", type=click.IntRange(min=0), default=3, show_default=True, help="Passages explained.")
@click.option("--route-k", metavar="K", default="auto", show_default=True, callback=parsed_by(parse_route_k))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a web page instead.")
@click.option("--model", help="Model folder or name; the bundled model when left out.")
def explain(query: str, index: Path | None, k: int, route_k: "RouteK", html: Path | None, model: str | None) -> None:
    """Print every token of QUERY with its share of the router's attention, the K routed ones marked.

    The shares are the softmax of the router's scores; "auto" routes tokens until their shares pass a threshold.
    Tokens without a share, such as [CLS], are never routed: they count in refining alone.

    With --index, the best passages follow, with the words that the query's tokens matched highlighted.
    """
    found: list[tuple[Hit, Explanation]] = []
    if index is None:
        asked = opened_model(model)
    else:
        with opened_index(index, model) as opened:
            asked = opened.model
            found = [(hit, hit.explain()) for hit in opened.search(query, k, route_k=route_k)]
    route = _route(asked, query, route_k)
    if html is not None:
        html.write_text(_page(query, route, found), encoding="utf-8")
        click.echo(f"{html} explains the query and {len(found)} passages")
        return
    out = console()
    out.print(route)
    for rank, (hit, explanation) in enumerate(found, 1):
        out.print()
        out.print(heading(rank, hit), soft_wrap=True)
        out.print(explanation)


def _route(model: "FastLaneModel", query: str, route_k: "RouteK") -> "Route":
    (route,) = model.route([query], None if route_k == "all" else route_k)
    return route


def _page(query: str, route: "Route", found: "Sequence[tuple[Hit, Explanation]]") -> str:
    from fastlane_rag.rendering.html import page, section

    parts = [section("Routed tokens", route)]
    parts += [
        section(f"{rank}. {hit.id} ({hit.score:.3f})", explanation) for rank, (hit, explanation) in enumerate(found, 1)
    ]
    return page(query, parts)
