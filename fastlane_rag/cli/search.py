"""`fastlane search`: prints the passages for a query, and the query tokens that gathered them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import fill, indent
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.cli.base import console, opened_index, plain_warnings, search_options, show_json
from fastlane_rag.rendering.terminal import printable, runs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fastlane_rag import Hit
    from fastlane_rag.search.result import SearchResult

_SNIPPET = 400


@click.command()
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("query")
@click.option("-k", type=click.IntRange(min=0), default=5, show_default=True, help="Passages wanted.")
@search_options
@click.option("--model", help="What the index was made with, where it is not the bundled model.")
@click.option("--device", help="Where the model runs; with cuda or cuda:1 the documents are searched there as well.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def search(
    index: Path, query: str, k: int, model: str | None, device: str | None, as_json: bool, **options: Any
) -> None:
    """Print the passages of INDEX that answer QUERY best."""
    with opened_index(index, model, device) as opened, plain_warnings():
        result = opened.search_detailed(query, k, **options)
    print_result(query, result, as_json=as_json)


def print_result(query: str, result: "SearchResult", *, as_json: bool) -> None:
    """Print what a search found: for people, or as one JSON object."""
    if as_json:
        show_json(_as_json(query, result))
        return
    out = console()
    if result.routed.tokens:
        show_route(out, result.routed.tokens, result.selected)
    show_hits(out, result.hits)


def show_route(out: "Console", tokens: Sequence[str], selected: Iterable[int]) -> None:
    """Print a query's tokens, the routed ones marked."""
    from rich.text import Text

    chosen = set(selected)
    line = Text("    routed: ", "dim")
    for position, token in runs([*map(printable, tokens)], [position in chosen for position in range(len(tokens))]):
        line.append(f"[{token}]" if position in chosen else token, "bold green" if position in chosen else "dim")
        line.append(" ")
    out.print(line, soft_wrap=True)


def show_hits(out: "Console", hits: Iterable["Hit"]) -> None:
    """Print hits with rank, score, id, title and the start of the text."""
    from rich.text import Text

    rank = 0
    for rank, hit in enumerate(hits, 1):
        out.print(heading(rank, hit), soft_wrap=True)
        _, text = _title_and_text(hit)
        short = text if len(text) <= _SNIPPET else text[:_SNIPPET].rsplit(" ", 1)[0] + " ..."
        out.print(Text(indent(fill(printable(short), out.width - 4), "    ") + "\n"), soft_wrap=True)
    if not rank:
        out.print("no passage matches", style="dim")


def heading(rank: int, hit: "Hit") -> "Text":
    """Rank, score, title and id in one line."""
    from rich.text import Text

    title, _ = _title_and_text(hit)
    line = Text.assemble(f"{rank:>2}. ", (f"{hit.score:.3f}", "cyan"), "  ", (printable(title or hit.id), "bold"))
    if title:
        line.append(f"  {printable(hit.id)}", "dim")
    return line


def _title_and_text(hit: "Hit") -> tuple[str, str]:
    """The title, and the text without the title that `fastlane index` put above it."""
    title = hit.metadata.get("title")
    if not isinstance(title, str):
        return "", hit.text
    return title, hit.text.removeprefix(title).lstrip("\n")


def _as_json(query: str, result: "SearchResult") -> dict[str, Any]:
    tokens, scores = result.routed.tokens, result.routed.scores.tolist()
    selected = sorted(result.selected, key=lambda i: -scores[i])
    return {
        "query": query,
        "routed": [{"token": tokens[i], "score": scores[i]} for i in selected],
        "lane": result.lane,
        "comparisons": result.comparisons,
        "milliseconds": dict(result.milliseconds),
        "hint": result.hint,
        "hits": [
            {
                "id": hit.id,
                "score": hit.score,
                "relevance": hit.relevance,
                "text": hit.text,
                "metadata": hit.metadata,
            }
            for hit in result.hits
        ],
    }
