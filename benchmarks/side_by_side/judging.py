"""Quality and times of all engines, computed by the same code."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from side_by_side.engine import K

Run = dict[str, list[str]]
Row = dict[str, Any]

NDCG_SHARES = (0.98, 0.99, 0.995, 1.0)
RECALLS = (0.8, 0.9, 0.95, 0.98)
ENGINES_OF = {"peer": ("peer",), "baseline": ("baseline",), "ours": ("ours",), "anybody else": ("peer", "baseline")}


def named(answers: Sequence[Sequence[str | int]], queries: Sequence[str], ids: Sequence[str]) -> Run:
    """Answers by query, with document numbers replaced by ids.

    Raises:
        ValueError: a query has no answer, or an answer repeats a document or has more than K.
    """
    run = {}
    for query, answer in zip(queries, answers, strict=True):
        found = [ids[one] if isinstance(one, int) else one for one in answer]
        if len(found) > K or len(set(found)) != len(found):
            raise ValueError(f"the answer to {query!r} is not at most {K} different documents: {found}")
        run[query] = found
    return run


def percentiles(repeats: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Percentiles of milliseconds per query, from the seconds of every query in every repeat.

    Of each query the median of its repeats counts. "of_repeats" has the p50 of each repeat, to show the spread.
    """
    seconds = np.array(repeats)
    p50, p95 = np.percentile(np.median(seconds, axis=0) * 1e3, [50, 95])
    return {
        "p50_ms": round(float(p50), 4),
        "p95_ms": round(float(p95), 4),
        "mean_ms": round(float(np.median(seconds, axis=0).mean() * 1e3), 4),
        "p50_ms_of_repeats": [round(float(one), 4) for one in np.median(seconds, axis=1) * 1e3],
    }


def shared(run: Run, exact: Run) -> float:
    """Recall at K against another ranking: mean share of its documents that were found."""
    return float(np.mean([len(set(run[query]) & set(ids)) / max(1, len(ids)) for query, ids in exact.items()]))


def quality(run: Run, qrels: Mapping[str, Mapping[str, int]], exact: Run) -> dict[str, float]:
    """nDCG@10 and recall@10 by the judgements, and recall@10 against the exhaustive ranking."""
    from fastlane_rag.evaluation.metrics import mean_scores, score_run

    # BEIR's rule: a query that is a document of the corpus does not find itself.
    others = {query: [one for one in ids if one != query or one in qrels.get(query, {})] for query, ids in run.items()}
    means = mean_scores(score_run(qrels, others))
    return {
        "nDCG@10": round(means["nDCG@10"], 5),
        "R@10": round(means["R@10"], 5),
        "recall@10_of_exhaustive": round(shared(run, exact), 5),
    }


def fastest(rows: Sequence[Row], passes: Callable[[Row], bool]) -> Row | None:
    """The setting with the least median time among those that pass."""
    return min((row for row in rows if passes(row)), key=lambda row: row["p50_ms"], default=None)


def _told(row: Row) -> Row:
    names = ("engine", "knobs", "p50_ms", "p95_ms", "nDCG@10", "recall@10_of_exhaustive")
    return {name: row[name] for name in names}


def _ratio(above: float, below: float) -> float | None:
    return round(above / below, 4) if below else None


def at_equal_quality(rows: Sequence[Row], measure: str, floors: Sequence[float]) -> list[Row]:
    """For each floor of a measure, the fastest setting of each kind of engine that reaches it, and the ratios."""
    levels = []
    for floor in floors:
        level: Row = {"measure": measure, "at_least": round(floor, 5)}
        for kind, roles in ENGINES_OF.items():
            best = fastest(rows, lambda row, r=roles, f=floor: row["role"] in r and row[measure] >= f)  # type: ignore[misc]
            level[kind] = _told(best) if best else None
        ours = level["ours"]
        for kind in ("peer", "baseline", "anybody else"):
            for time in ("p50_ms", "p95_ms"):
                other = level[kind]
                level[f"ours over {kind}, {time}"] = _ratio(ours[time], other[time]) if ours and other else None
        levels.append(level)
    return levels


def of_default(rows: Sequence[Row], engines: Mapping[str, Row]) -> Row | None:
    """Our default compared with each target; None if the default was not run."""
    ours = next((row for row in rows if row["role"] == "ours" and not row["knobs"]), None)
    exact = next((row for row in rows if row["role"] == "exhaustive"), None)
    if ours is None or exact is None:
        return None
    peers = [row for row in rows if row["role"] == "peer"]
    equal = [row for row in peers if row["nDCG@10"] >= ours["nDCG@10"]]
    found: Row = {
        "setting": _told(ours),
        "of exhaustive nDCG@10": _ratio(ours["nDCG@10"], exact["nDCG@10"]),
        "faster than exhaustive": _ratio(exact["p50_ms"], ours["p50_ms"]),
    }
    if peers:
        found["best nDCG@10 of peers"] = max(row["nDCG@10"] for row in peers)
        for kind, some in (("any peer", peers), ("a peer of no less nDCG@10", equal)):
            rival = fastest(some, lambda _: True)
            found[f"fastest setting of {kind}"] = _told(rival) if rival else None
            found[f"p50 over that of {kind}"] = _ratio(ours["p50_ms"], rival["p50_ms"]) if rival else None
            found[f"p95 over that of {kind}"] = _ratio(ours["p95_ms"], rival["p95_ms"]) if rival else None
        smallest = min((engines[row["engine"]]["bytes"]["index"] for row in equal), default=None)
        quickest = min(engines[row["engine"]]["build_seconds"] for row in peers)
        own = engines[ours["engine"]]
        found["bytes over the smallest peer of no less nDCG@10"] = smallest and _ratio(own["bytes"]["index"], smallest)
        found["build over the fastest peer's"] = _ratio(own["build_seconds"], quickest)
    return found


def compare(rows: Sequence[Row], engines: Mapping[str, Row]) -> Row:
    """All ratios of the comparison.

    Args:
        rows: one per setting, with engine, role, knobs, the times of `percentiles` and the values of `quality`.
        engines: `bytes` and `build_seconds` by engine.
    """
    exact = next((row for row in rows if row["role"] == "exhaustive"), None)
    shares = [share * exact["nDCG@10"] for share in NDCG_SHARES] if exact else []
    return {
        "default": of_default(rows, engines),
        "at equal nDCG@10": at_equal_quality(rows, "nDCG@10", shares),
        "at equal recall@10 of exhaustive": at_equal_quality(rows, "recall@10_of_exhaustive", RECALLS),
    }
