"""Tables for the documents, each made only from files in benchmarks/results/."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from markdown_parts import (
    Method,
    asked,
    count,
    decimal,
    hardware,
    judged,
    label,
    method,
    places,
    source,
    steps_of,
    table,
)

NOT_MEASURED = "Not measured yet."
DEFAULT = "fastlane k=16"
"""The default of `FastLaneIndex.search`."""
FULL, PAPER = "full SumMaxSim", "fastlane k=1 gather, fp16"
MAIN = ("dense", "bm25", FULL, DEFAULT, "hybrid")
METRIC = "nDCG@10"
_KEEPS = 0.995
"""Share of exhaustive nDCG@10 that a setting must keep to be shown."""
_SHOWN_MS = 0.05
TUNED = "fastlane 4 bits"
CENTRE = {"route_k": 16, "nprobe": 4, "depth": 96}
"""The default of each setting in the approximate lane, for ten hits and queries of 16 tokens and more."""


def main_table(results: Path) -> str:
    """The README's table: quality on average, latency and bytes; docs/figures.md has each dataset."""
    datasets, sources = judged(results)
    if not datasets:
        return NOT_MEASURED
    largest = max(datasets, key=lambda d: int(d["documents"]))
    header = ["", f"{METRIC}, average of {len(datasets)}", f"ms at {largest['documents']:,}", "bytes a document"]
    rows = []
    for name in MAIN:
        found = [method(d, name) for d in datasets]
        if not any(found):
            continue
        values = [None if m is None else float(m["metrics"][METRIC]) for m in found]
        there = [m["bytes_per_document"] for m in found if m and m["bytes_per_document"]]
        at_largest = method(largest, name)
        rows.append(
            [
                label(name) + (" (default)" if name == DEFAULT else ""),
                decimal(None if None in values else mean(v for v in values if v is not None)),
                "-" if at_largest is None else f"{at_largest['search_ms']['p50']:.1f}",
                count(mean(there) if there else None),
            ]
        )
    where = f"`ms`: p50 of one search on {largest['name']}, {largest['documents']:,} documents, without encoding."
    return "\n\n".join([table(header, rows), f"{where} {asked(datasets)}", *sources])


def quality(results: Path) -> str:
    """Every method on every dataset, one table per measure, and the worst dataset of each method."""
    datasets, sources = judged(results)
    if not datasets:
        return NOT_MEASURED
    names = list(dict.fromkeys(m["method"] for d in datasets for m in d["methods"]))
    measures: dict[str, Callable[[Method], str]] = {
        METRIC: lambda m: decimal(m["metrics"][METRIC]),
        "MRR@10": lambda m: decimal(m["metrics"]["RR@10"]),
        "recall@10": lambda m: decimal(m["metrics"]["R@10"]),
        "recall@100": lambda m: decimal(m["metrics"]["R@100"]),
        "ms a query without encoding, p50 / p95": lambda m: (
            f"{m['search_ms']['p50']:.1f} / {m['search_ms']['p95']:.1f}"
        ),
        "ms a query with encoding, p50 / p95": lambda m: f"{m['total_ms']['p50']:.1f} / {m['total_ms']['p95']:.1f}",
        "comparisons a query": lambda m: count(m["comparisons"]),
        "bytes a document": lambda m: count(m["bytes_per_document"]),
    }
    tables = []
    for measure, show in measures.items():
        quality_of = {METRIC: METRIC, "MRR@10": "RR@10", "recall@10": "R@10", "recall@100": "R@100"}.get(measure)
        rows = []
        for name in names:
            found = [method(d, name) for d in datasets]
            row = [label(name), *("-" if m is None else show(m) for m in found)]
            if quality_of:
                values = [m["metrics"][quality_of] for m in found if m]
                row.append(decimal(mean(values) if len(values) == len(datasets) else None))
            rows.append(row)
        tables.append(table([measure, *(d["name"] for d in datasets), *(["average"] if quality_of else [])], rows))
    return "\n\n".join([*tables, asked(datasets), worst(datasets), *sources])


def worst(datasets: Sequence[dict[str, Any]]) -> str:
    """The dataset where FastLane loses most to full SumMaxSim, and most to the better of dense and BM25."""
    lines = []
    for name in ("fastlane k=1", DEFAULT):
        for text, rivals in (("full SumMaxSim", (FULL,)), ("the better of dense and BM25", ("dense", "bm25"))):
            ratios = {}
            for d in datasets:
                mine, theirs = method(d, name), [m for m in (method(d, r) for r in rivals) if m]
                if mine and theirs:
                    ratios[d["name"]] = mine["metrics"][METRIC] / max(m["metrics"][METRIC] for m in theirs)
            if ratios:
                least = min(ratios, key=lambda one: ratios[one])
                lines.append(f"{label(name)} against {text}: worst on {least}, {ratios[least]:.1%} of its {METRIC}.")
    return " ".join(lines)


def acceptance(results: Path) -> str:
    """Ratios of averages over datasets, and their least value on one dataset."""
    datasets, _ = judged(results)
    if not datasets:
        return NOT_MEASURED
    wanted = (
        ("one routed token alone, of full SumMaxSim", PAPER, FULL),
        ("one routed token alone, 4 bits, of full SumMaxSim", "fastlane k=1 gather", FULL),
        ("k = 1 refined, of full SumMaxSim", "fastlane k=1", FULL),
        ("k = 4 refined, of full SumMaxSim", "fastlane k=4", FULL),
        ("the default, of full SumMaxSim", DEFAULT, FULL),
        ("one routed token alone, of the single vector", PAPER, "dense"),
        ("k = 1 refined, of the single vector", "fastlane k=1", "dense"),
        ("the default, of the single vector", DEFAULT, "dense"),
        ("a third of the document tokens, full SumMaxSim, of all tokens", f"{FULL}, third", FULL),
        ("a third of the document tokens, the default, of all tokens", f"{DEFAULT}, third", DEFAULT),
    )
    rows = []
    for text, above, below in wanted:
        pairs = [(d["name"], method(d, above), method(d, below)) for d in datasets]
        values = [(name, a["metrics"][METRIC], b["metrics"][METRIC]) for name, a, b in pairs if a and b]
        if not values:
            continue
        least = min(values, key=lambda v: v[1] / v[2])
        ratio = mean(v[1] for v in values) / mean(v[2] for v in values)
        rows.append([text, f"{ratio:.1%}", f"{least[1] / least[2]:.1%} ({least[0]})", str(len(values))])
    return table([f"{METRIC} of averages", "ratio", "worst set", "sets"], rows)


def paper(results: Path) -> str:
    """The paper's Table 1 beside our figures, and the differences."""
    steps = steps_of(results, "paper")
    if not steps:
        return NOT_MEASURED
    tables = []
    for name, step in steps.items():
        found, where = step["results"], step["results"]["measured_in"]
        rows = []
        for row in found["rows"]:
            published = row["published"] or {}
            asked_for = found["queries"]
            rows.append(
                [
                    label(row["method"]),
                    decimal(row["MRR@10"]),
                    decimal(row["nDCG@10"]),
                    f"{row['p50_ms']:.1f}",
                    f"{row['p50_ms'] * asked_for / 1e3:.1f}",
                    count(row["comparisons"]),
                    decimal(published.get("MRR@10")),
                    f"{published['seconds']:.2f}" if "seconds" in published else "-",
                ]
            )
        header = [name, "MRR@10", METRIC, "ms p50", f"s for {found['queries']:,} queries", "comparisons"]
        tables.append(table([*header, "published MRR@10", "published s"], rows))
        tables.append(
            f"Ours: {hardware(where)}, {found['documents']:,} arXiv abstracts asked for by their titles "
            f"({found['queries']:,} {found['split']} queries, one a call, p50 times their number), the bundled "
            "22.7 M parameter model with 128 dimensions a token. Published (arXiv 2601.06389): MRR@10 on MS MARCO dev, "
            "the paper's own model, seconds over a corpus of 100,000 passages on an NVIDIA T4. Queries, "
            "documents, model and hardware differ: compare ratios within a column, not figures across. "
            f"The row '{label(PAPER)}' does what the paper does: one routed token against every token of every "
            "document, nothing approximate; the rows below it gather through the index."
        )
    return "\n\n".join(tables)


def sweep(results: Path) -> str:
    """Latency, quality, bytes and comparisons against k, document tokens and bits."""
    steps = steps_of(results, "sweep")
    if not steps:
        return NOT_MEASURED
    found = [step["results"] for step in steps.values()]
    parts = []
    for name in dict.fromkeys(f["dataset"] for f in found):
        mine = [f for f in found if f["dataset"] == name]
        whole = next((f for f in mine if f["budget"] is None and f["bits"] == 4), None)
        if whole:
            rows = [
                [
                    str(p["route_k"]),
                    "yes" if p["refine"] else "no",
                    decimal(p[METRIC]),
                    f"{p['p50_ms']:.1f}",
                    f"{p['p95_ms']:.1f}",
                    count(p["comparisons"]),
                    p["lane"],
                ]
                for p in whole["points"]
            ]
            header = [f"{name}: k", "refined", METRIC, "ms p50", "p95", "comparisons", "lane"]
            parts.append(table(header, rows))
        rows = []
        for f in mine:
            p = next(p for p in f["points"] if p["route_k"] == 16 and p["refine"])
            kept = "all" if f["budget"] is None else str(f["budget"])
            rows.append(
                [kept, str(f["bits"]), decimal(p[METRIC]), f"{p['p50_ms']:.1f}", count(f["bytes_per_document"])]
            )
        parts.append(table([f"{name}: document tokens", "bits", f"{METRIC}, k = 16", "ms p50", "bytes"], rows))
        parts.append(f"![Pareto plots](../benchmarks/results/sweep-{name}.svg)")
    return "\n\n".join([*parts, source("sweep", steps)])


def routing(results: Path) -> str:
    """Which positions the router picks, agreement with usefulness, and other choices of tokens."""
    steps = steps_of(results, "routing")
    if not steps:
        return NOT_MEASURED
    found = {name: step["results"] for name, step in steps.items()}
    rows = [
        ["share of queries that route the commonest position first"]
        + [f"{one['top_position_share']:.1%}" for one in found.values()],
        ["overlap (Jaccard) of routed positions between queries, k = 4"]
        + [decimal(one["position_overlap"]) for one in found.values()],
        ["the same of tokens drawn at random"] + [decimal(one["position_overlap_at_random"]) for one in found.values()],
        ["overlap of routed token strings"] + [decimal(one["token_overlap"]) for one in found.values()],
        ['tokens of `route_k="auto"`, of all tokens of the query']
        + [
            f"{one['ablations']['auto']['mean_tokens']:.1f} of {one['ablations']['auto']['mean_query_tokens']:.1f}"
            for one in found.values()
        ],
    ]
    for kind, text in (("alone", "finds the passage alone"), ("left_out", "is missed when left out")):
        for name in ("router", "rarity", "position", "norm"):
            values = [decimal(one["usefulness"][kind][name]) for one in found.values()]
            rows.append([f"correlation of {name} with how well a token {text}", *values])
    parts = [table(["router", *found], rows)]
    for name, one in found.items():
        a = one["ablations"]
        chosen = [[c, *(decimal(v) for v in values)] for c, values in a["chosen_by"].items()]
        parts.append(table([f"{name}: {METRIC} of k tokens alone, chosen by", *(f"k={k}" for k in a["k"])], chosen))
    heated = [
        [name, decimal(one["ablations"]["argmax"]["1"]), *(decimal(v) for v in one["ablations"]["temperature"]["1"])]
        for name, one in found.items()
    ]
    ts = next(iter(found.values()))["ablations"]["temperatures"]
    parts.append(table(["one token drawn at temperature", "the best", *map(str, ts)], heated))
    first = next(iter(found))
    parts += [
        f"![shares over queries](../benchmarks/results/routing-queries-{first}.png)",
        f"![self-attention of the router](../benchmarks/results/routing-attention-{first}.png)",
        "![ablations](../benchmarks/results/routing-ablations.svg)",
        "![positions](../benchmarks/results/routing-positions.svg)",
        source("routing", steps),
    ]
    return "\n\n".join(parts)


def robustness(results: Path) -> str:
    """nDCG@10 with cut passages, short and long queries, typos."""
    steps = steps_of(results, "robustness")
    if not steps:
        return NOT_MEASURED
    found = [step["results"] for step in steps.values()]
    texts = {
        "passages": "passages cut at tokens",
        "typos": "words misspelt",
        "queries": "query tokens (questions about one passage joined and cut)",
    }
    parts = []
    for kind, text in texts.items():
        mine = [f for f in found if f["kind"] == kind]
        if not mine:
            continue
        names = list(mine[0]["methods"])
        rows = [
            [f["dataset"], f"{f['value']:.0%}" if kind == "typos" else str(f["value"]), count(f["queries"])]
            + [decimal(f["methods"][name][METRIC]) for name in names]
            for f in mine
        ]
        parts.append(table([METRIC, text, "queries", *map(label, names)], rows))
    return "\n\n".join([*parts, "![the same](../benchmarks/results/robustness.svg)", source("robustness", steps)])


def memory(results: Path) -> str:
    """Resident memory of an index while it is searched."""
    steps = steps_of(results, "memory")
    if not steps:
        return NOT_MEASURED
    rows = []
    for step in steps.values():
        f = step["results"]
        rows.append(
            [
                f"{f['dataset']}, {f['documents']:,} documents, {f['codec']}",
                f["mode"],
                f"{f['index_bytes'] / 2**20:,.0f}",
                f"{f['mib_index_resident_when_opened']:,.0f}",
                f"{f['mib_index_resident']:,.0f}",
                f"{f['mib_private_after'] - f['mib_private_before']:,.0f}",
                f"{f['open_ms']:.0f}",
                f"{f['cold_p50_ms']:.1f}",
                f"{f['p50_ms']:.1f}",
            ]
        )
    header = ["index", "search", "MiB of files", "resident when opened", "after the queries", "private MiB added"]
    header += ["opening, ms", "first pass, ms p50", "second pass"]
    return "\n\n".join([table(header, rows), source("memory", steps)])


def adapters(results: Path) -> str:
    """The overhead of the adapters over the engine, and calls one after another compared with batched ones."""
    path = results / "adapters.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    added = [[f"{name.replace(' ', ' `', 1)}`", f"{ms:.2f}"] for name, ms in report["overhead_ms"].items()]
    calls = [
        [one["calls"], str(one["count"]), f"{one['sequential_s']:.2f}", f"{one['together_s']:.2f}"]
        for one in report["together"]
    ]
    asked_for = f"{report['passages']:,} passages, {report['k']} hits, {report['reranked']} texts reranked."
    return "\n\n".join(
        [
            table(["adapter", "ms above the engine"], added),
            table(["calls", "number", "one after another, s", "together, s"], calls),
            asked_for,
            of_file(report, path),
        ]
    )


def peers(results: Path) -> str:
    """Each engine at its fastest setting that keeps most of exhaustive nDCG@10; ours also at its default."""
    parts = []
    for path in sorted(results.glob("peers-*.json")):
        report = json.loads(path.read_text())
        rows, engines = report["settings"], report["engines"]
        exact = rows[0][METRIC]  # the reference comes first
        shown = []
        for name, facts in engines.items():
            mine = [row for row in rows if row["engine"] == name]
            row = min((r for r in mine if r[METRIC] >= _KEEPS * exact), key=lambda r: r["p50_ms"], default=None)
            reached = row is not None
            row = row or max(mine, key=lambda r: (r[METRIC], -r["p50_ms"]))
            shown.append(_setting(row, facts, "" if reached else " (its best)"))
            if facts["role"] == "ours" and row["knobs"]:
                shown += [_setting(other, facts) for other in mine if not other["knobs"]]
        header = ["engine", "setting", METRIC, "recall@10 of exhaustive", "ms p50 / p95", "build, s", "MB"]
        missing = [f"Left out: {name}: {reason}" for name, reason in report["missing"].items()]
        parts += [table([*header, "peak MB"], shown), _asked_side_by_side(report), *missing, of_file(report, path)]
    return "\n\n".join(parts) or NOT_MEASURED


def tuning(results: Path) -> str:
    """Our index in 4 bits on each corpus: the approximate lane with one setting changed at a time, and the others."""
    parts = []
    for path in sorted(results.glob("peers-*.json")):
        report = json.loads(path.read_text())
        ours = [row for row in report["settings"] if row["engine"] == TUNED and row["knobs"]]
        others = [row for row in ours if row["knobs"]["lane"] != "approximate"]
        near = [row for row in ours if sum(row["knobs"].get(one) != value for one, value in CENTRE.items()) <= 1]
        near.sort(key=lambda row: [row["knobs"][one] for one in CENTRE])
        rows = [
            [
                row["knobs"]["lane"],
                *(str(row["knobs"].get(one, "-")) for one in CENTRE),
                f"{row['p50_ms']:.1f}",
                decimal(row[METRIC]),
                decimal(row["recall@10_of_exhaustive"]),
            ]
            for row in [*others, *near]
        ]
        header = ["lane", *CENTRE, "ms p50", METRIC, "recall@10 of exhaustive"]
        parts += [table(header, rows), _asked_side_by_side(report), of_file(report, path)]
    return "\n\n".join(parts) or NOT_MEASURED


def _asked_side_by_side(report: dict[str, Any]) -> str:
    """The queries and documents of a comparison, as text."""
    corpus = report["corpus"]
    return (
        f"{corpus['dataset']}: {corpus['documents']:,} documents of {corpus['tokens']:,} tokens in {corpus['dim']} "
        f"dimensions, {corpus['queries']} {corpus['split']} queries one a call, {report['threads']} thread(s), "
        f"{report['repeats']} rounds."
    )


def _setting(row: dict[str, Any], facts: dict[str, Any], note: str = "") -> list[str]:
    """One engine at one setting."""
    return [
        row["engine"],
        ", ".join(f"{knob}={value}" for knob, value in row["knobs"].items()) or "default",
        decimal(row[METRIC]) + note,
        decimal(row["recall@10_of_exhaustive"]),
        f"{row['p50_ms']:.1f} / {row['p95_ms']:.1f}",
        f"{facts['build_seconds']:.0f}",
        f"{facts['bytes']['index'] / 1e6:.0f}",
        f"{max(one['peak'] for one in facts['search_memory_bytes']) / 1e6:,.0f}",
    ]


def end_to_end(results: Path) -> str:
    """One query from its text to ten texts, and the time of each stage."""
    parts = []
    for path in sorted(results.glob("end-to-end-*.json")):
        report = json.loads(path.read_text())
        rows = [
            [
                one["method"],
                f"{one['p50_ms']:.1f} / {one['p95_ms']:.1f}",
                f"{one['p50 over dense']:.2f}",
                decimal(one[METRIC]),
                ", ".join(f"{stage} {ms:.1f}" for stage, ms in one["stages_ms"].items() if ms >= _SHOWN_MS),
            ]
            for one in report["methods"]
        ]
        corpus = report["corpus"]
        header = ["method", "ms p50 / p95", "p50 over dense", METRIC, "where, ms"]
        asked_for = (
            f"{corpus['dataset']}: {corpus['documents']:,} documents, {corpus['queries']} {corpus['split']} queries."
        )
        parts += [table(header, rows), asked_for, of_file(report, path)]
    return "\n\n".join(parts) or NOT_MEASURED


def growth(results: Path) -> str:
    """Cost of opening, searching and storing as the corpus grows."""
    path = results / "growth.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    rows, searches, left_out = [], [], []
    for size in report["sizes"]:
        kept = size["tokens_kept_of_a_document"]
        made = f", {size['synthetic_documents']:,} of them synthetic" if size["synthetic_documents"] else ""
        name = f"{size['documents']:,}{made}"
        if "left_out" in size:
            left_out.append(f"Left out: {name}, {kept} tokens of each: {size['left_out']}.")
            continue
        default = next(one for one in size["settings"] if not one["knobs"])
        rows.append(
            [
                name,
                str(kept),
                f"{size['tokens']:,}",
                f"{size['open_ms']:.0f}",
                f"{size['first_query_ms']:.0f}",
                f"{default['p50_ms']:.1f} / {default['p95_ms']:.1f}",
                count(size["bytes_per_document"]),
                f"{size['memory_bytes']['of them not backed by a file'] / 2**20:,.0f}",
                f"{size['build_seconds']:,.0f}",
            ]
        )
        searches += [
            [
                name,
                ", ".join(f"{knob}={value}" for knob, value in one["knobs"].items()) or "default",
                f"{one['p50_ms']:.1f} / {one['p95_ms']:.1f}",
                f"{one['recall@10_of_exhaustive']:.1%}",
            ]
            for one in size["settings"]
        ]
    header = ["documents", "tokens kept of each", "tokens", "opening, ms", "first query, ms", "ms p50 / p95"]
    header += ["bytes a document", "MiB not backed by a file", "build, s"]
    asked_for = (
        f"{report['corpus']['dataset']}, {report['threads']} thread(s). Synthetic: real token rows, moved a little."
    )
    ways = table(["documents", "search", "ms p50 / p95", "ten best of exhaustive"], searches)
    return "\n\n".join([table(header, rows), ways, *left_out, asked_for, of_file(report, path)])


def encoding(results: Path) -> str:
    """Encoding on a CPU in every format, and what a format costs in quality."""
    path = results / "encoding.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    rows = [
        [
            name,
            f"{one['query_ms']:.2f}",
            f"{one['document_us_a_token']:.0f}",
            f"{one['query_cosine_mean']:.5f}",
            f"{one['document_cosine_mean']:.5f} ({one['document_cosine_lowest']:.4f})",
            f"{one['index_seconds']:.1f}",
        ]
        for name, one in report["times"].items()
    ]
    header = ["format", "one query, ms", "documents, us a stored token", "cosine of queries"]
    header += ["of documents (lowest)", "an index, s"]
    sets = report["quality"]
    pairs = [name for name in next(iter(sets.values())) if " / " in name]
    judged_by = [
        [pair, *(f"{one[pair]:.2f}" for one in sets.values()), f"{mean(one[pair] for one in sets.values()):.2f}"]
        for pair in pairs
    ]
    asked_for = "Documents / queries: " + ", ".join(
        f"{name} {count(one['documents'])} / {count(one['queries'])}" for name, one in sets.items()
    )
    qualities = table(["queries / documents, nDCG@10 times 100", *sets, "mean"], judged_by)
    return "\n\n".join([table(header, rows), qualities, f"{asked_for}.", of_file(report, path)])


def cluster(results: Path) -> str:
    """Searches of a cluster with several shards, on one machine."""
    path = results / "cluster.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    rows = []
    for name in ("one index", "1 shards", "2 shards", "4 shards"):
        ways = report[name]
        for way in ("routed", "hybrid", "words"):
            one, four = ways[way]["1 clients"], ways[way]["4 clients"]
            rows.append(
                [
                    name.replace("1 shards", "1 shard"),
                    way,
                    f"{one['p50_ms']:.1f} / {one['p95_ms']:.1f}",
                    f"{one['queries_per_second']:.0f}",
                    f"{four['p50_ms']:.1f} / {four['p95_ms']:.1f}",
                    f"{four['queries_per_second']:.0f}",
                ]
            )
    header = ["", "search", "1 client, ms p50 / p95", "queries a second", "4 clients, ms p50 / p95", "queries a second"]
    moved = report["adding a third shard"]
    said = (
        f"{report['passages']:,} real passages in half precision, k=10, encoded before; {report['processor']}, "
        f"{report['note'].split(';')[0]}, load {report['load_before']:.1f} to {report['load_after']:.1f}. "
        f"Adding a third shard to two moved {moved['documents_moved']:,} documents ({moved['share']:.1%}) in "
        f"{moved['seconds']:.0f} s, the start of its actor included."
    )
    return "\n\n".join([table(header, rows), said])


def long_documents(results: Path) -> str:
    """Documents longer than the model's window: windows, cut, chunks."""
    path = results / "long_documents.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    header = ["tokens a document", "way", "entries", "found first", METRIC, "tokens stored", "bytes", "seconds to add"]
    rows = []
    for size in report["sizes"]:
        for name, way in size["ways"].items():
            figures = [decimal(way["first"]), decimal(way[METRIC]), count(way["tokens"]), count(way["bytes"])]
            rows.append([count(size["tokens"]), name, count(way["entries"]), *figures, f"{way['seconds_to_add']:.1f}"])
    asked_for = f"{report['dataset']}, {report['passages']:,} passages, {report['sizes'][0]['queries']} queries, fp16."
    return "\n\n".join([table(header, rows), asked_for, of_file(report, path)])


def engine(results: Path) -> str:
    """The index alone: of each codec the exhaustive search, the default, and the fastest setting with its quality."""
    path = results / "engine.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    rows = []
    for index in report["indexes"]:
        found = index["results"]
        shown = [one for one in found if one["engine"] != "approximate"]
        keeping = [one for one in found if one["engine"] == "approximate" and one["of_exhaustive_nDCG@10"] >= _KEEPS]
        shown += sorted(keeping, key=lambda one: float(one["p50_ms"]))[:1]
        for one in shown:
            knobs = ", ".join(f"{knob}={one[knob]}" for knob in ("route_k", "nprobe", "depth") if knob in one)
            rows.append(
                [
                    index["codec"],
                    knobs or one["engine"],
                    f"{one['p50_ms']:.2f} / {one['p95_ms']:.2f}",
                    decimal(one[METRIC]),
                    f"{one['shared_with_exhaustive']:.1%}",
                    count(index.get("segment_bytes_per_document")),
                ]
            )
    header = ["codec", "search", "ms p50 / p95", METRIC, "ten best of exhaustive", "bytes a document"]
    asked_for = (
        f"{report['dataset']['name']}, {report['documents']:,} documents, {report['dim']} dimensions, "
        f"{report['dataset']['queries']} encoded queries, {report['environment']['threads']} thread(s)."
    )
    return "\n\n".join([table(header, rows), asked_for, of_file(report, path)])


def busy(results: Path) -> str:
    """The default search on quiet cores, and beside as many busy processes as cores."""
    path = results / "busy.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    quiet, loaded = report["quiet"], report["busy"]
    rows = [
        [
            name,
            *(f"{one[f'{name}_ms']:.2f}" for one in (quiet, loaded)),
            f"{loaded[f'{name}_ms'] / quiet[f'{name}_ms']:.1f}",
        ]
        for name in ("median", "mean", "p95")
    ]
    return "\n\n".join([table(["ms", "quiet", "busy", "ratio"], rows), of_file(report, path)])


def kernels(results: Path) -> str:
    """SumMaxSim alone, by our kernels and by others."""
    parts = []
    for path in sorted(results.glob("kernels*.json")):
        report = json.loads(path.read_text())
        shapes = report["shapes"]
        names = list(dict.fromkeys(name for shape in shapes for name in shape["engines"]))
        rows = [
            [name, *(_milliseconds(shape["engines"].get(name, {}).get("median_ms")) for shape in shapes)]
            for name in names
        ]
        header = ["median ms"]
        for one in shapes:
            tokens = one["document_tokens"] / one["documents"]
            header.append(f"{one['queries']} x {one['documents']:,} of {tokens:.0f} x {one['dim']}")
        asked_for = f"Queries x documents of tokens x dimensions, {shapes[0]['query_tokens']} tokens a query."
        parts += [table(header, rows), asked_for, of_file(report, path)]
    return "\n\n".join(parts) or NOT_MEASURED


def kernel_code(results: Path) -> str:
    """What the CUDA kernels are compiled to."""
    path = results / "kernel_code.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    targets = list(next(iter(report["kernels"].values())))
    rows = [
        [name, *(f"{found[target]['instructions_a_token']:.1f}" for target in targets)]
        for name, found in report["kernels"].items()
    ]
    command = f"`kernel_code.py --json benchmarks/results/{path.name}`, triton {report['triton']}"
    return "\n\n".join([table(["instructions a document token", *targets], rows), command])


_ONE_QUERY = ("milliseconds_launched", "milliseconds_recorded")


def gpu(results: Path) -> str:
    """Kernels, searches, encoding and training on a CUDA device."""
    path = results / "gpu.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    steps = {name: step for name, step in report["steps"].items() if not step.keys() & {"left_out", "failed"}}
    parts = []
    if "kernels" in steps:
        header = ["rows", "queries x tokens", "ms", "GB/s", "share of a copy"]
        rows = [
            [
                one["rows"],
                f"{one['queries']} x {one['query_tokens']}",
                f"{one['milliseconds']:.3f}",
                f"{one['gigabytes_a_second']:.0f}",
                f"{one['share_of_copy']:.2f}",
            ]
            for one in steps["kernels"]["shapes"]
        ]
        parts += [
            table(header, rows),
            f"A copy: {steps['kernels']['copy_gigabytes_a_second']} GB/s, both ways together.",
        ]
    held = [step for step in steps.values() if "batches" in step]
    if held:
        sizes = list(dict.fromkeys(one["queries"] for step in held for one in step["batches"]))
        rows = []
        for step in held:
            rates = {one["queries"]: f"{one['queries_a_second']:,.0f}" for one in step["batches"]}
            gigabytes = [f"{step[name] / 1e9:.2f}" for name in ("resident_bytes", "streamed_bytes")]
            graph = step["one query as a CUDA graph"]
            alone = [f"{graph[name]:.3f}" if name in graph else "-" for name in _ONE_QUERY]
            rows.append([f"{step['documents']:,}", *gigabytes, *(rates.get(size, "-") for size in sizes), *alone])
        rate = [f"queries/s, batch {size}" for size in sizes]
        header = ["documents", "GB resident", "GB streamed", *rate, "ms, one query", "ms, as a CUDA graph"]
        parts.append(table(header, rows))
    header = ["documents", "dimensions", "ms for the 2,048 nearest vectors", "GB/s"]
    rows = [
        [f"{step['documents']:,}", str(one["dimensions"]), f"{one['milliseconds']:.3f}", str(one["gigabytes_a_second"])]
        for name, step in steps.items()
        if name.endswith("vectors")
        for one in step["shapes"]
    ]
    if rows:
        parts.append(table(header, rows))
    facts = [
        ("encoding", "tokens_a_second", "document tokens encoded a second"),
        ("training step", "milliseconds", "ms for MaxSim and its gradients in a training step"),
    ]
    rows = [[said, f"{steps[name][fact]:,}"] for name, fact, said in facts if name in steps]
    if rows:
        parts.append(table(["", "figure"], rows))
    devices = ", ".join(report["environment"]["gpus"])
    return "\n\n".join([*parts, f"{of_file(report, path)}, {devices}"])


def training(results: Path) -> str:
    """The effect of each term of the loss and of each width: the difference without it."""
    path = results / "training.json"
    if not path.exists():
        return NOT_MEASURED
    report = json.loads(path.read_text())
    found = {name: step["results"] for name, step in report["steps"].items()}
    recipe = found["recipe"]["average"]
    rows = []
    for name, one in found.items():
        values = [one["average"][measure] for measure in recipe]
        changed = name.startswith("without") or (name.endswith("dimensions") and not name.startswith("untrained"))
        signs = [f" ({100 * (v - recipe[m]):+.1f})" if changed else "" for m, v in zip(recipe, values, strict=True)]
        rows.append([name, str(one["dim"]), *(decimal(v) + sign for v, sign in zip(values, signs, strict=True))])
    names = {"full": "full SumMaxSim", "full, third": "full SumMaxSim, third"}
    header = ["run", "dimensions"] + [names.get(m, f"FastLane {m[0]}={m[1:]}, unrefined") for m in recipe]
    dev = report["dev"]
    asked_for = (
        f"{METRIC}, mean of {', '.join(dev['sets'])}: {dev['queries']} dev queries and at least {dev['passages']} "
        f"passages each, cut at {report['length']} tokens. Runs of {report['optimisation_steps']} steps of "
        f"{report['batch']} queries, seed {report['seed']}. In brackets: points more or less than the recipe."
    )
    command = report["steps"]["recipe"]["environment"]["command"]
    return "\n\n".join([table(header, rows), asked_for, f"`{command}`, {places(report['steps'])}"])


def of_file(report: dict[str, Any], path: Path) -> str:
    """The command that wrote a results file, and where it ran."""
    where = report["environment"]
    return f"`{where['command']}`, {hardware(where)}, {path.name}"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


TABLES: dict[str, Callable[[Path], str]] = {
    "main": main_table,
    "quality": quality,
    "acceptance": acceptance,
    "paper": paper,
    "sweep": sweep,
    "routing": routing,
    "robustness": robustness,
    "long_documents": long_documents,
    "memory": memory,
    "training": training,
    "peers": peers,
    "end-to-end": end_to_end,
    "growth": growth,
    "encoding": encoding,
    "cluster": cluster,
    "engine": engine,
    "busy": busy,
    "kernels": kernels,
    "kernel-code": kernel_code,
    "gpu": gpu,
    "adapters": adapters,
    "tuning": tuning,
}
