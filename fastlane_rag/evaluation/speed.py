"""What encoding and searching take on this machine, measured in a few seconds, and why they are slow where they are."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from fastlane_rag.data import read_passages, sample_path
from fastlane_rag.types import Finding

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel

__all__ = ["speeds", "threads"]

_ROUNDS = 7
_QUERY = "Which proposal introduced an operator that assigns a value within an expression?"
_PASSAGES = 16
# Random documents of equal length: 40,000 tokens, of which every one is compared.
_DOCUMENTS, _TOKENS, _QUERY_TOKENS = 400, 100, 16
# With several threads a search should take no longer than with one, as it does where other programs use the cores.
_TOLERATED = 1.5


def threads() -> Finding:
    """How many threads work here, and whether there are processors for them."""
    import torch

    from fastlane_rag.scoring import get_threads
    from fastlane_rag.scoring.quota import cpu_quota

    get_threads()  # where the quota is followed
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count, quota = torch.get_num_threads(), cpu_quota()
    seen = f"torch uses {count} on {cores} core(s)"
    if "OMP_NUM_THREADS" in os.environ:
        seen += f", OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"
    if quota is not None:
        seen += f", the container's quota is {quota:g} processor(s)"
    fed = cores if quota is None else min(cores, math.ceil(quota))
    figures = {"threads": count, "cores": cores, "quota": quota}
    if count > fed:
        slow = f"more threads than that slow searches down: set OMP_NUM_THREADS={fed}"
        return Finding("warning", "threads", f"{seen}; {slow}", figures)
    return Finding("ok", "threads", seen, figures)


def speeds(model: FastLaneModel) -> Iterator[Finding]:
    """Measure encoding and searching with a model.

    Yields:
        A finding each, a warning where something slows it down that can be changed.
    """
    yield _encoding(model)
    yield _searching(model.dim)


def _encoding(model: FastLaneModel) -> Finding:
    texts = [passage.content for passage, _ in zip(read_passages(sample_path()), range(_PASSAGES), strict=False)]
    query = _milliseconds(lambda: model.encode_routed([_QUERY]))
    start = perf_counter()
    tokens = sum(len(rows) for rows in model.encode_documents(texts))
    a_second = tokens / (perf_counter() - start)
    figures = {"query_ms": query, "document_tokens_a_second": a_second, "backend": model.backend}
    seen = f"a query in {query:.1f} ms, {a_second:,.0f} document tokens a second, by {model.backend} on {model.device}"
    if model.backend == "torch" and model.device.type == "cpu":
        why = "onnxruntime takes a third of the time or less where docs/encoding.md measured both: its extra is [cpu]"
        return Finding("warning", "encoding", f"{seen}; {why}", figures)
    return Finding("ok", "encoding", seen, figures)


def _searching(dim: int) -> Finding:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.scoring import get_threads, set_threads
    from fastlane_rag.scoring.native import kernels

    generator = np.random.default_rng(0)
    rows = generator.standard_normal((_DOCUMENTS, _TOKENS, dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    with FastLaneIndex.create(dim=dim) as index:
        index.add_embeddings(rows, ids=[str(n) for n in range(_DOCUMENTS)])
        count = get_threads()
        usual = _milliseconds(lambda: index.search_embeddings(rows[0, :_QUERY_TOKENS]))
        alone = usual
        if count > 1:
            set_threads(1)
            try:
                alone = _milliseconds(lambda: index.search_embeddings(rows[0, :_QUERY_TOKENS]))
            finally:
                set_threads(None)
    level = kernels.level()
    figures = {"search_ms": usual, "with_one_thread_ms": alone, "threads": count, "level": level}
    by = "torch, for want of compiled kernels," if level == "none" else f"the {level} kernels"
    seen = f"{_DOCUMENTS * _TOKENS:,} document tokens compared in {usual:.1f} ms by {by} in {count} thread(s)"
    if usual > _TOLERATED * alone:
        why = f"one thread takes {alone:.1f} ms, so the cores are busy or held back: OMP_NUM_THREADS=1 makes it faster"
        return Finding("warning", "search speed", f"{seen}; {why}", figures)
    return Finding("warning" if level in ("none", "scalar") else "ok", "search speed", seen, figures)


def _milliseconds(call: Callable[[], object]) -> float:
    """The median of a few rounds, after one that opens and warms what it needs."""
    call()
    taken = []
    for _ in range(_ROUNDS):
        start = perf_counter()
        call()
        taken.append(1000 * (perf_counter() - start))
    return median(taken)
