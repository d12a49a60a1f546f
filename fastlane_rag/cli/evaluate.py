"""`fastlane eval`: methods judged on datasets in BEIR's layout."""

import json
from collections.abc import Iterable, Sized
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.cli.base import console, opened_model, parsed_by, progress
from fastlane_rag.cli.extras import require
from fastlane_rag.evaluation.method import DEFAULT_METHODS, METHODS
from fastlane_rag.search.options import parse_route_k

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from fastlane_rag.evaluation.dataset import Dataset
    from fastlane_rag.evaluation.runner import Result

_TABLE_WIDTH = 124


def _parse_methods(context: click.Context, option: click.Parameter, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",") if name.strip()]
    for name in names:
        if name not in METHODS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(METHODS)}")
    if not names:
        raise click.BadParameter("no method named")
    return names


def _parse_route_ks(text: str) -> list[Any]:
    return [parse_route_k(part.strip()) for part in text.split(",") if part.strip()]


def _parse_budget(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    try:
        budget = float(value)
    except ValueError:
        budget = 0.0
    if 0 < budget < 1:
        return budget
    if budget >= 1 and budget == int(budget):
        return int(budget)
    raise click.BadParameter(f"{value!r} is neither a number of tokens nor a share between 0 and 1")


@click.command("eval")
@click.argument("datasets", nargs=-1, required=True, metavar="DATASET_DIR...")
@click.option("--split", default="test", show_default=True, help="Which qrels/SPLIT.tsv to judge by.")
@click.option("--methods", default=",".join(DEFAULT_METHODS), show_default=True, callback=_parse_methods)
@click.option(
    "--route-k",
    "route_ks",
    default="1,2,4,8",
    show_default=True,
    callback=parsed_by(_parse_route_ks),
    help="For fastlane and gather: numbers, 'auto' or 'all', with commas.",
)
@click.option("--limit", type=click.IntRange(min=1), help="At most this many queries, spread over the split.")
@click.option("--model", help="Model folder or name; the bundled model when left out.")
@click.option(
    "--document-budget",
    callback=_parse_budget,
    help="Tokens the document router keeps: a number of tokens, or a share below 1. Default: what the model says.",
)
@click.option("--codec", default="auto", show_default=True, help="How the index of fastlane and gather stores tokens.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), help="Where encoded corpora are kept.")
@click.option("--json", "out", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write a report.")
def evaluate(
    datasets: tuple[str, ...],
    split: str,
    methods: list[str],
    route_ks: list[Any],
    limit: int | None,
    model: str | None,
    document_budget: float | None,
    codec: str,
    cache: Path | None,
    out: Path | None,
) -> None:
    """Judge retrieval on datasets in BEIR's layout, or by id as "ir_datasets:beir/scifact/test", one query a call.

    \b
    dense     one mean-pooled vector a document, same encoder, exhaustive cosine
    hnsw      the same vectors behind a faiss HNSW graph
    bm25      stemmed words, k1 0.9, b 0.4
    full      SumMaxSim of all query tokens with every document, in half precision
    weighted  the same, each query token weighted by the router
    fastlane  k routed tokens gather, all tokens refine, weighted
    gather    k routed tokens alone
    hybrid    the default search and BM25 together

    The report (--json) also holds a paired significance test of every two methods, and what `fastlane doctor --index`
    says of the index. A corpus is encoded once and kept (--cache) for the next run with the same model.
    """
    from fastlane_rag.codecs.policy import check_codec
    from fastlane_rag.evaluation.dataset import load_dataset
    from fastlane_rag.evaluation.ir import PREFIX, SPLIT, export_ir_dataset
    from fastlane_rag.model.default import cache_dir

    check_codec(codec)
    by_id = any(name.startswith(PREFIX) for name in datasets)
    require("fastlane eval", ["eval", *(["cpu"] if "hnsw" in methods else []), *(["ir-datasets"] if by_id else [])])
    cache = cache or cache_dir() / "evaluation"
    loaded = [  # before any work, so that bad input fails at once
        load_dataset(export_ir_dataset(name, cache / "ir_datasets"), SPLIT, limit=limit)
        if name.startswith(PREFIX)
        else load_dataset(name, split, limit=limit)
        for name in datasets
    ]
    if out is not None and not out.resolve().parent.is_dir():
        raise click.BadParameter(f"{out.parent} is not a folder", param_hint="--json")
    from fastlane_rag.evaluation.environment import environment
    from fastlane_rag.evaluation.suite import compare, diagnosis, report

    opened = opened_model(model, document_budget=document_budget)
    terminal, results = console(least_width=_TABLE_WIDTH), []
    for dataset in loaded:
        with progress("{task.description}") as bar:
            common: dict[str, Any] = {
                "methods": methods,
                "codec": codec,
                "cache": cache,
                "track": partial(_track, bar),
            }
            of_dataset = list(compare(dataset, opened, route_ks=route_ks, **common))
            findings = diagnosis(dataset, opened, **common)
        terminal.print(_table(dataset, of_dataset))
        for finding in findings:
            if finding.level != "ok":
                terminal.print(f"{finding.level}: {finding.subject}: {finding.detail}", markup=False)
        results.append((dataset, of_dataset, findings))
        if out is not None:  # after each dataset, so that an interrupted run keeps its results
            out.write_text(json.dumps(report(environment(), opened, results), indent=1) + "\n")
            terminal.print(f"written: {out}", markup=False)


def _track(bar: "Progress", items: Iterable[Any], doing: str) -> Iterable[Any]:
    for task in bar.task_ids:
        bar.remove_task(task)
    total = len(items) if isinstance(items, Sized) else None
    return bar.track(items, total=total, description=doing)


def _table(dataset: "Dataset", results: list["Result"]) -> "Table":
    from rich.table import Table

    table = Table(
        title=f"{dataset.name}, {len(dataset.queries)} {dataset.split} queries", title_justify="left", box=None
    )
    table.add_column("method", no_wrap=True)
    for column in (
        "nDCG@10",
        "MRR@10",
        "R@10",
        "R@100",
        "ms p50",
        "p95",
        "search p50",
        "p95",
        "comparisons",
        "bytes/doc",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results:
        table.add_row(
            result.method,
            *(f"{result.metrics[name]:.4f}" for name in ("nDCG@10", "RR@10", "R@10", "R@100")),
            *(f"{ms:.1f}" for times in (result.total_ms, result.search_ms) for ms in (times.p50, times.p95)),
            *("-" if count is None else f"{count:,.0f}" for count in (result.comparisons, result.bytes_per_document)),
        )
    return table
