"""`fastlane doctor`: checks whether this installation or an index can search well, and says what to do if not."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from fastlane_rag.cli.base import console, opened_index, opened_model, show_json
from fastlane_rag.cli.extras import EXTRAS, missing
from fastlane_rag.data import read_records
from fastlane_rag.data.files import decoded
from fastlane_rag.data.jsonl import record_text
from fastlane_rag.errors import DataError
from fastlane_rag.types import Finding

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex, FastLaneModel

_STYLES = {"ok": "green", "warning": "yellow", "trouble": "bold red"}
_PASSAGES = {
    "bread": "Bread rises because yeast turns sugar into carbon dioxide.",
    "tides": "The pull of the Moon and the Sun raises the tides of the sea.",
    "python": "Generators in Python produce values lazily, one at a time.",
}
_QUESTION, _EXPECTED = "What causes ocean tides?", "tides"


@click.command()
@click.option("--model", help="Model folder or name; the bundled model when left out.")
@click.option(
    "--index",
    "index_path",
    type=click.Path(path_type=Path),
    help="Examine this index instead: router, coverage, centroids, quantisation, candidates.",
)
@click.option(
    "--queries",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --index: what users ask, one question a line or JSON Lines. Default: sentences drawn from the index.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings with their figures as JSON.")
def doctor(model: str | None, index_path: Path | None, queries: Path | None, as_json: bool) -> None:
    """Check versions, devices, faiss, the model and one search, or an index; exit code 1 when something is wrong."""
    if queries is not None and index_path is None:
        raise click.UsageError("--queries says what to ask an index: name it with --index DIR")
    asked = None if queries is None else _read_queries(queries)
    findings = examine(model) if index_path is None else _index(index_path, model, asked)
    if as_json:
        found = list(findings)
        show_json([finding.as_dict() for finding in found])
        sys.exit(any(finding.level == "trouble" for finding in found))
    _show(findings)


def _show(findings: Iterable[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    levels = []
    for finding in findings:
        level = Text(finding.level, _STYLES[finding.level])
        table.add_row(level, Text(finding.subject), Text(finding.detail))  # Text: "[cpu]" is no markup
        levels.append(finding.level)
    out = console(unwrapped=True)
    out.print(table)
    if trouble := levels.count("trouble"):
        out.print(f"{trouble} problem(s) found", style="bold red")
        sys.exit(1)
    if warnings := levels.count("warning"):
        out.print(f"{warnings} warning(s)", style="yellow")
    else:
        out.print("all well", style="green")


def _index(path: Path, model: str | None, queries: list[str] | None) -> Iterator[Finding]:
    with opened_index(path, model) as index:
        yield from _guarded("index", lambda: _diagnosis(path, index, queries))


def _diagnosis(path: Path, index: "FastLaneIndex", queries: list[str] | None) -> Iterator[Finding]:
    from fastlane_rag.evaluation.diagnosis import diagnose

    stats = index.stats()
    size = f"{stats.documents:,} documents, {stats.tokens:,} tokens, {stats.bytes_per_document:,.0f} bytes a document"
    figures = {"path": str(path), "documents": stats.documents, "tokens": stats.tokens, "codec": stats.codec}
    yield Finding("ok", "index", f"{size}, {stats.codec}, model {index.model.name}", figures)
    yield from diagnose(index, queries)


def _read_queries(path: Path) -> list[str]:
    """Read one query per line: plain text, or a JSON object with "text".

    Raises:
        DataError: there is none, or a line is no query.
    """
    lines = [line.strip() for line in decoded(path).splitlines() if line.strip()]
    if not lines:
        raise DataError(f"{path} holds no query")
    return [_query(record, path, number) for number, record in read_records(path)] if lines[0][0] == "{" else lines


def _query(record: dict[str, Any], path: Path, number: int) -> str:
    try:
        return record_text(record, "text")
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from error


def examine(model: str | None = None) -> Iterator[Finding]:
    """Run every check. A check that raises becomes a finding, so that one problem hides no other."""
    yield from _guarded("versions", _versions)
    yield from _guarded("device", _devices)
    yield from _guarded("threads", _threads)
    yield from _guarded("kernels", _kernels)
    yield from _guarded("extras", _extras)
    yield from _guarded("faiss", _faiss)
    yield from _guarded("search", lambda: _search(model))


def _guarded(subject: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except Exception as error:  # any failure is a finding
        yield Finding("trouble", subject, f"{type(error).__name__}: {error}")


def _versions() -> Iterator[Finding]:
    from fastlane_rag import __version__
    from fastlane_rag.evaluation.environment import versions

    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("ok", "fastlane-rag", f"{__version__}, Python {python}")
    found = {name: version for name, version in versions().items() if name != "fastlane-rag"}
    yield Finding("ok", "versions", ", ".join(f"{name} {version}" for name, version in found.items()))


def _devices() -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count()
    if count:
        yield _cuda(", ".join(torch.cuda.get_device_name(i) for i in range(count)), count)
    elif torch.backends.mps.is_available():
        yield Finding("ok", "device", "Apple GPU (mps)")
    else:
        yield Finding("ok", "device", "CPU")


def _cuda(names: str, count: int) -> Finding:
    """Whether the kernels for these CUDA devices can run; without them torch scores documents, slower."""
    import torch

    if importlib.util.find_spec("triton") is None:
        return Finding(
            "warning", "device", f"{names}: torch scores documents there; triton, which is missing, is faster"
        )
    if any(torch.cuda.get_device_capability(i) < (8, 0) for i in range(count)):
        return Finding("warning", "device", f"{names}: below compute capability 8.0 torch scores documents, slower")
    return Finding("ok", "device", names)


def _threads() -> Iterator[Finding]:
    from fastlane_rag.evaluation.speed import threads

    yield threads()


def _kernels() -> Iterator[Finding]:
    from fastlane_rag.evaluation.environment import kernels

    level, levels, problem = kernels()
    if problem is not None:
        yield Finding("warning", "kernels", f"{problem}; torch stands in and searches take several times as long")
        return
    detail = f"compiled for {level}; this processor runs {', '.join(levels)}"
    if os.environ.get("FASTLANE_NATIVE_LEVEL"):
        detail += f", FASTLANE_NATIVE_LEVEL={level}"
    if level == "scalar":
        slow = "without vector instructions searches take several times as long"
        yield Finding("warning", "kernels", f"{detail}; {slow}")
    else:
        yield Finding("ok", "kernels", detail)


def _extras() -> Iterator[Finding]:
    lacking = {name: missing(name) for name in EXTRAS}
    if whole := [name for name, modules in lacking.items() if not modules]:
        yield Finding("ok", "extras", f"installed: {', '.join(whole)}")
    for name, modules in lacking.items():
        if modules:
            detail = f"[{name}] is not whole ({', '.join(modules)}): {EXTRAS[name].without}"
            yield Finding("ok", "extras", f"{detail}. pip install 'fastlane-rag[{name}]'")


def _faiss() -> Iterator[Finding]:
    installed = [name for name in ("faiss-cpu", "faiss-gpu") if _has(name)]
    if not installed:
        detail = "not installed: fastlane eval has no method hnsw. pip install 'fastlane-rag[cpu]' (or [gpu])"
        yield Finding("ok", "faiss", detail)
        return
    if len(installed) > 1:
        yield Finding(
            "trouble",
            "faiss",
            "faiss-cpu and faiss-gpu overwrite each other's files: pip uninstall both, then install one",
        )
        return
    import faiss

    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    yield Finding("ok", "faiss", f"{installed[0]} {faiss.__version__}, {gpus} GPU(s)")


def _has(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _search(model: str | None) -> Iterator[Finding]:
    from fastlane_rag.evaluation.speed import speeds

    start = perf_counter()
    opened = opened_model(model)
    seconds = perf_counter() - start
    yield Finding(
        "ok",
        "model",
        f"{opened.name}, {opened.dim} wide, on {opened.device} by {opened.backend}, opened in {seconds:.1f} s",
    )
    yield _self_check(opened)
    yield from speeds(opened)


def _self_check(model: "FastLaneModel") -> Finding:
    from fastlane_rag import FastLaneIndex

    with FastLaneIndex.create(model=model) as index:
        index.add(list(_PASSAGES.values()), ids=list(_PASSAGES), show_progress=False)
        start = perf_counter()
        hits = index.search(_QUESTION, k=len(_PASSAGES))
        milliseconds = 1000 * (perf_counter() - start)
    found = [hit.id for hit in hits]
    if found[:1] != [_EXPECTED] or len(found) != len(_PASSAGES):
        return Finding(
            "trouble",
            "search",
            f"{_QUESTION!r} gave {found}, {_EXPECTED!r} should come first of {len(_PASSAGES)}",
        )
    return Finding("ok", "search", f"{_QUESTION!r} found the right passage in {milliseconds:.0f} ms")
