"""What a collection needs: machines, bytes, milliseconds and cost, from measured figures and named assumptions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["Assumptions", "Plan", "plan", "sheet"]


def _about(value: float, words: str) -> Any:
    return field(default=value, metadata={"words": words})


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What a plan takes as given, each with where it comes from. `benchmarks/results/growth.json` was measured on one
    core of an AMD EPYC with up to 1,000,000 documents, of which 900,000 were synthetic.
    """

    bytes_per_passage: float = _about(2654, "bytes of a passage, 32 tokens kept of it: measured, growth.json")
    search_ms: float = _about(24.1, "milliseconds of one core a query, p50, 1,000,000 passages: measured, growth.json")
    slow_factor: float = _about(1.66, "p95 over p50 of that search, 39.9 / 24.1: measured, growth.json")
    decade_factor: float = _about(1.36, "times as long for ten times the passages, 24.1 / 17.7: measured once, to 1 M")
    build_seconds: float = _about(1427, "core seconds to build 1,000,000 passages, no encoding: measured, growth.json")
    tokens_per_passage: float = _about(171, "tokens encoded of a passage: measured, growth.json, arXiv abstracts")
    encoding_us: float = _about(86, "core microseconds a token encoded: measured, docs/encoding.md, onnxruntime int8")
    encode_query_ms: float = _about(
        5.65, "milliseconds to encode a query: measured, docs/encoding.md, onnxruntime float32"
    )
    hop_ms: float = _about(2, "milliseconds of a call of a shard: (4.6 - .4) / 2 calls by words, cluster.json, rounded")
    shard_hop_ms: float = _about(
        1.3,
        "more for each shard asked: (12.5 - 4.6) / 3 shards / 2 calls, cluster.json, two cores, load 9 to 15",
    )
    passages_per_shard: float = _about(10_000_000, "passages of a shard: chosen; ten times what was measured")
    copies: float = _about(2, "actors of each shard: chosen")
    queries_per_second: float = _about(100, "queries a second: chosen")
    busy: float = _about(0.5, "share of the cores at work, so that queries do not wait: chosen")
    node_cores: float = _about(16, "cores of a machine: chosen")
    node_memory_gib: float = _about(64, "GiB of memory of a machine: chosen")
    node_disk_gib: float = _about(1000, "GiB of disk of a machine: chosen")
    disk_factor: float = _about(2.2, "times the bytes while segments are merged: from how merging works, not measured")
    resident_share: float = _about(0.3, "share of the bytes to keep in memory: not measured; vary it")
    node_dollars: float = _about(0.8, "dollars an hour of such a machine: a list price rounded; yours differs")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a collection needs.

    Attributes:
        shards: how many.
        bytes: of one copy.
        nodes: machines, the largest of the three numbers that follow.
        nodes_by_cores: machines for the queries.
        nodes_by_memory: machines for the share that stays in memory.
        nodes_by_disk: machines for the bytes.
        shard_ms: a shard's p50.
        query_ms: a query's p50, with encoding and the slowest shard.
        encoding_core_hours: to encode all passages.
        build_core_hours: to build the shards.
        dollars_per_month: of the machines, 730 hours.
    """

    shards: int
    bytes: int
    nodes: int
    nodes_by_cores: int
    nodes_by_memory: int
    nodes_by_disk: int
    shard_ms: float
    query_ms: float
    encoding_core_hours: float
    build_core_hours: float
    dollars_per_month: float


def plan(passages: int, given: Assumptions) -> Plan:
    """What so many passages need.

    Args:
        passages: at least 1.
        given: what is taken as given.
    """
    shards = math.ceil(passages / given.passages_per_shard)
    each = passages / shards
    size = round(passages * given.bytes_per_passage)
    shard_ms = given.search_ms * given.decade_factor ** math.log10(max(each, 100_000) / 1_000_000)
    by_cores = given.queries_per_second * shards * shard_ms / 1000 / given.busy / given.node_cores
    # Copies of a shard open one directory, so the page cache holds it once a machine.
    by_memory = size * given.resident_share / (given.node_memory_gib * 2**30)
    by_disk = size * given.disk_factor / (given.node_disk_gib * 2**30)
    needed = [max(1, math.ceil(one)) for one in (by_cores, by_memory, by_disk)]
    slowest = shard_ms * (given.slow_factor if shards > 1 else 1)
    return Plan(
        shards=shards,
        bytes=size,
        nodes=max(needed),
        nodes_by_cores=needed[0],
        nodes_by_memory=needed[1],
        nodes_by_disk=needed[2],
        shard_ms=shard_ms,
        query_ms=given.encode_query_ms + given.hop_ms + given.shard_hop_ms * (shards - 1) + slowest,
        encoding_core_hours=passages * given.tokens_per_passage * given.encoding_us / 3.6e9,
        build_core_hours=passages / 1e6 * given.build_seconds / 3600,
        dollars_per_month=max(needed) * given.node_dollars * 730,
    )


_BREAKS = (
    "A shard of 10,000,000 passages was never built: the milliseconds are extrapolated by one decade.",
    "A query waits for the slowest shard. Of 100 shards one is slower than its p99 in 63 queries of 100, and the plan "
    "takes the p95: expect more.",
    "Every query asks every shard, so cores grow with passages times queries. The caller spends milliseconds on each "
    "shard: with 100 of them it asks and merges for longer than a shard searches. Fewer, larger shards are "
    "the way out, or callers that each ask a part of them; neither was measured.",
    "What is not in memory is read from the disk: a disk of 100 microseconds a read makes a cold query some hundred "
    "milliseconds slower. The share that must stay in memory was not measured.",
    "Copies of a shard share a directory, whose SQLite database is shared on one machine alone. Where that machine "
    "dies, Ray needs the directory on storage that another machine can mount.",
    "Adding one shard moves 1 / (shards + 1) of the documents through single writers: at 100 shards some 10,000,000 "
    "documents, hours. Plan the number of shards in advance.",
    "32 tokens kept of each passage cost quality against all tokens; docs/model.md has the table.",
)


def sheet(passages: int, given: Assumptions) -> str:
    """The plan in Markdown, with every assumption and where it breaks."""
    found = plan(passages, given)
    rows = {
        "shards": f"{found.shards:,}",
        "machines": f"{found.nodes:,} (cores need {found.nodes_by_cores:,}, memory {found.nodes_by_memory:,}, disk "
        f"{found.nodes_by_disk:,})",
        "bytes on disk": f"{found.bytes:,} ({found.bytes / 2**40:.1f} TiB)",
        "milliseconds of a shard, p50": f"{found.shard_ms:.0f}",
        "milliseconds of a query, p50": f"{found.query_ms:.0f}",
        "encoding, once": f"{found.encoding_core_hours:,.0f} core hours",
        "building, once": f"{found.build_core_hours:,.0f} core hours",
        "machines, a month": f"{found.dollars_per_month:,.0f} dollars",
        "encoding and building, once": f"{_dollars(found, given):,.0f} dollars",
    }
    lines = [
        f"# {passages:,} passages",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {one} |" for name, one in rows.items()),
    ]
    lines += ["", "## Assumptions", "", "| value | of |", "|---|---|"]
    lines += [
        f"| {f'{getattr(given, one.name):,}'.removesuffix('.0')} | {one.metadata['words']} |" for one in fields(given)
    ]
    lines += ["", "## Where it breaks", "", *(f"- {one}" for one in _BREAKS)]
    return "\n".join(lines)


def _dollars(found: Plan, given: Assumptions) -> float:
    return (found.encoding_core_hours + found.build_core_hours) / given.node_cores * given.node_dollars
