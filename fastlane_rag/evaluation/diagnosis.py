"""Checks of an index that works but may lose quality. Each check gives figures, and advice where they are bad.

routing       does the query router depend on the query, or always pick the same position
coverage      are documents cut, and what share of their tokens is stored
centroids     are the documents spread over the codec's centroids, and was it trained on an index of this size
quantisation  how near are stored rows to those of the encoder, and do both rank alike
candidates    are enough refined: do more candidates, or an exact search, change the answers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.evaluation import rows
from fastlane_rag.evaluation.routing import selection_statistics
from fastlane_rag.types import Finding

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.model import RoutedQuery

__all__ = ["diagnose"]

QUERIES = 100
DOCUMENTS = 300
_RE_ENCODED = 64
_EXACT = 16
_K = 10
_LEAST_QUERIES = 10
_WORDS = 12

# Levels from which a figure gives a warning or counts as trouble; docs/tuning.md has the figures of good indexes.
CUT_WARNING, CUT_TROUBLE = 0.05, 0.5
KEPT_WARNING = 0.15
LARGEST_WARNING, EMPTY_WARNING, OUTGROWN_WARNING = 0.05, 0.3, 8
COSINE_WARNING, COSINE_TROUBLE, OVERLAP_WARNING = 0.85, 0.5, 0.8
CHANGED_WARNING, EXACT_WARNING, EXACT_TROUBLE = 0.05, 0.9, 0.6


def diagnose(index: FastLaneIndex, queries: Sequence[str] | None = None, *, seed: int = 0) -> Iterator[Finding]:
    """Examine an index, by samples where the whole would take long. Yields each finding at once.

    Args:
        index: opened with its model.
        queries: questions of users; None draws sentences from the documents, which are easier to answer.
        seed: of the samples.
    """
    if not len(index):
        yield Finding("warning", "index", "the index holds no document: there is nothing to examine")
        return
    generator = np.random.default_rng(seed)
    asked = list(queries or _sentences(index, generator))
    asked = [asked[i * len(asked) // QUERIES] for i in range(QUERIES)] if len(asked) > QUERIES else asked
    routed = index.model.encode_routed(asked)
    of = "given" if queries else "drawn from the documents"
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("routing", lambda: _routing(routed, of)),
        ("coverage", lambda: _coverage(index, generator)),
        ("centroids", lambda: _centroids(index)),
        ("quantisation", lambda: _quantisation(index, routed, generator)),
        ("candidates", lambda: _candidates(index, routed, of)),
    ]
    for subject, check in checks:
        try:
            yield check()
        except Exception as error:  # a check that fails must not hide the findings of others
            yield Finding("trouble", subject, f"could not be examined: {type(error).__name__}: {error}")


def _sentences(index: FastLaneIndex, generator: np.random.Generator) -> list[str]:
    """One sentence, as long as a question, of each of some documents."""
    found = []
    for document in rows.sampled(index, QUERIES, generator):
        sentences = [s for s in re.split(r"(?<=[.!?])\s+|\n+", document.text) if len(s.split()) >= 4]
        chosen = sentences[int(generator.integers(len(sentences)))] if sentences else document.text
        found.append(" ".join(chosen.split()[:_WORDS]))
    return found


def _routing(queries: Sequence[RoutedQuery], of: str) -> Finding:
    if len(queries) < _LEAST_QUERIES:
        return Finding("ok", "routing", f"{len(queries)} queries are too few to tell", {"queries": len(queries)})
    found = selection_statistics(queries)
    figures = {k: v for k, v in found.items() if k not in ("positions", "collapsed")} | {"queries_are": of}
    if found["collapsed"]:
        return Finding("trouble", "routing", f"collapsed: {found['collapsed']}", figures)
    return Finding(
        "ok",
        "routing",
        f"the commonest position comes first in {found['top_position_share']:.0%} of {len(queries)} queries ({of}); "
        f"{found['distinct_first_tokens']:.0%} of them route different tokens first",
        figures,
    )


def _coverage(index: FastLaneIndex, generator: np.random.Generator) -> Finding:
    """Texts that were cut, and the share of a text's tokens that is stored."""
    if not hasattr(index.model, "encoder"):
        return Finding("ok", "coverage", f"{index.model.name} does not say how it divides texts; nothing to compare")
    tokenizer, most = index.model.encoder.tokenizer, index.model.max_document_tokens
    if most is None and "max_document_tokens" not in index._storage.meta:
        most = index.model.max_document_length  # made before documents were encoded in windows
    documents = rows.sampled(index, DOCUMENTS, generator)
    stored = np.array([len(one) for one in rows.of_documents(index, [d.id for d in documents])])
    lengths = np.array(
        [len(ids) for ids in tokenizer([d.text for d in documents], truncation=False, verbose=False)["input_ids"]]
    )
    cut = (lengths > most) & (stored <= most) if most else np.zeros(len(lengths), np.bool_)
    lost = float((lengths[cut] - (most or 0)).sum() / lengths.sum())
    kept = stored / lengths
    long = lengths >= np.quantile(lengths, 0.75)
    figures = {
        "documents": len(documents),
        "length_limit": most,
        "mean_length": float(lengths.mean()),
        "longest": int(lengths.max()),
        "share_of_documents_cut": float(cut.mean()),
        "share_of_tokens_cut": lost,
        "tokens_kept": float(kept.mean()),
        "tokens_kept_of_the_longest_quarter": float(kept[long].mean()),
    }
    share = f"{cut.mean():.0%} were cut at {most} tokens" if most else "none was cut"
    seen = f"of {len(documents)} documents, {share}"
    if cut.mean() > CUT_WARNING:
        return Finding(
            "trouble" if cut.mean() > CUT_TROUBLE else "warning",
            "coverage",
            f"{seen}: {lost:.0%} of all tokens are not searched. Index again, with a larger max_document_tokens if one "
            "was given",
            figures,
        )
    if kept[long].mean() < KEPT_WARNING:
        return Finding(
            "warning",
            "coverage",
            f"{seen}, but {kept[long].mean():.0%} of the tokens of the longest quarter are stored. Index again with a "
            "larger document_budget, or a share such as 0.5 instead of a number",
            figures,
        )
    return Finding("ok", "coverage", f"{seen}; {kept.mean():.0%} of their tokens are stored", figures)


def _centroids(index: FastLaneIndex) -> Finding:
    """How the stored rows of each codec are distributed over its centroids."""
    groups = rows.centroid_counts(index)
    if not groups:
        detail = "the tokens are in half precision (few documents, or codec fp16); there are no centroids"
        return Finding("ok", "centroids", detail)
    worst, total = max(groups, key=lambda g: g.counts.max() / g.counts.sum()), index.stats().tokens
    counts = worst.counts
    largest, empty = float(counts.max() / counts.sum()), float((counts == 0).mean())
    grown = total / max(1, groups[-1].trained_on)
    figures = {
        "codecs": len(groups),
        "centroids": len(counts),
        "tokens": int(counts.sum()),
        "largest_share": largest,
        "empty_share": empty,
        "gini": gini(counts),
        "trained_on_tokens": groups[-1].trained_on,
        "grown_since_training": grown,
    }
    seen = f"{len(counts):,} centroids, the largest holds {largest:.1%} of the tokens, {empty:.0%} are empty"
    # If there are few centroids, each has a large share.
    if largest > max(LARGEST_WARNING, 8 / len(counts)) or empty > EMPTY_WARNING:
        return Finding(
            "warning",
            "centroids",
            f"{seen}: gathering looks at too many documents, or at too few. The documents have changed since the codec "
            "was trained, or are much alike: index.compact(retrain=True)",
            figures,
        )
    if grown > OUTGROWN_WARNING:
        return Finding(
            "warning",
            "centroids",
            f"{seen}; the index is {grown:.0f} times as large as when they were trained: index.compact(retrain=True)",
            figures,
        )
    return Finding("ok", "centroids", f"{seen}; Gini coefficient {gini(counts):.2f}", figures)


def _quantisation(index: FastLaneIndex, queries: Sequence[RoutedQuery], generator: np.random.Generator) -> Finding:
    """Compare the stored rows of a sample with the encoder's rows of the same texts."""
    documents = rows.sampled(index, _RE_ENCODED, generator)
    stored = rows.of_documents(index, [d.id for d in documents])
    fresh = [np.asarray(one, np.float32) for one in index.model.encode_documents([d.text for d in documents])]
    pairs = [(a, b) for a, b in zip(stored, fresh, strict=True) if len(a) == len(b)]
    figures: dict[str, Any] = {"documents": len(documents), "of_equal_length": len(pairs)}
    if len(pairs) < len(documents) / 2:
        return Finding(
            "warning",
            "quantisation",
            f"{len(documents) - len(pairs)} of {len(documents)} documents have another number of stored rows than the "
            "model gives them now: open the index with the document_budget it was made with, or index again",
            figures,
        )
    cosines = np.concatenate([_cosines(a, b) for a, b in pairs])
    overlap = _overlap(queries, [a for a, _ in pairs], [b for _, b in pairs])
    figures |= {"mean_cosine": float(cosines.mean()), "least_cosine": float(cosines.min()), "top_10_overlap": overlap}
    codec = index.stats().codec
    seen = f"{codec}: mean cosine of stored and encoded rows {cosines.mean():.3f}, top-10 overlap {overlap:.0%}"
    if cosines.mean() < COSINE_TROUBLE:
        return Finding(
            "trouble", "quantisation", f"{seen}: these are not this model's rows of these texts. Index again", figures
        )
    if cosines.mean() < COSINE_WARNING or overlap < OVERLAP_WARNING:
        return Finding(
            "warning",
            "quantisation",
            f"{seen}: coding costs quality. Index again with more bits, codec='residual4', or after the documents "
            "changed much index.compact(retrain=True)",
            figures,
        )
    return Finding("ok", "quantisation", seen, figures)


def _candidates(index: FastLaneIndex, queries: Sequence[RoutedQuery], of: str) -> Finding:
    """Whether refining more candidates, or comparing everything, changes the ten best."""

    some = queries[: max(_EXACT, 1)]
    default = index.search_batch_detailed(queries, _K)
    refined = max(result.candidates for result in default)
    if all(result.candidates in (0, len(index)) for result in default):
        return Finding("ok", "candidates", "every document is compared: nothing is missed", {"documents": len(index)})
    depth = max(1, int(np.median([result.candidates for result in default])))
    lane = default[0].lane
    half, double = (
        index.search_batch_detailed(queries, _K, depth=d, lane=lane) for d in (max(_K, depth // 2), 2 * depth)
    )
    exact = index.search_batch_detailed(some, _K, route_k="all", lane="exhaustive")
    late, changed = _changed(half, default), _changed(default, double)
    found = 1 - _changed(default[: len(some)], exact)
    figures = {
        "queries": len(queries),
        "queries_are": of,
        "lane": lane,
        "refined": refined,
        "from_the_last_half": late,
        "changed_by_twice_as_many": changed,
        "of_exact_top_10": found,
    }
    seen = f"{depth} of {len(index):,} documents are refined ({lane} lane) and give {found:.0%} of the exact ten best"
    if found < EXACT_WARNING or changed > CHANGED_WARNING:
        advice = (
            f"twice as many change {changed:.0%} of them: the depth is too small"
            if changed > CHANGED_WARNING
            else "more of them change little: the routed tokens lead elsewhere"
        )
        return Finding(
            "trouble" if found < EXACT_TROUBLE else "warning",
            "candidates",
            f"{seen}; {advice}. Search with a larger route_k or nprobe, or with a larger k and cut the list",
            figures,
        )
    return Finding("ok", "candidates", f"{seen}; twice as many change {changed:.0%}", figures)


def gini(counts: NDArray[np.int64]) -> float:
    """The Gini coefficient: 0 if all counts are equal, near 1 if one has everything."""
    ordered = np.sort(counts).astype(np.float64)
    n, total = len(ordered), ordered.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total)) if total else 0.0


def _cosines(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: NDArray[np.float64] = (a * b).sum(1) / np.maximum(norms, 1e-12)
    return cosines


def _overlap(queries: Sequence[RoutedQuery], a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> float:
    """Mean share of the ten best documents of `a` that are also among those of `b`, by full SumMaxSim."""
    import torch

    from fastlane_rag.scoring import maxsim

    best = []
    offsets = torch.from_numpy(np.cumsum([0, *map(len, a)], dtype=np.int64))
    for documents in (a, b):
        packed = torch.from_numpy(np.concatenate(documents).astype(np.float32))
        scores = [maxsim(query.embeddings.cpu(), packed, document_offsets=offsets)[0] for query in queries]
        best.append([set(s.topk(min(_K, len(s))).indices.tolist()) for s in scores])
    return float(np.mean([len(x & y) / len(x) for x, y in zip(*best, strict=True)]))


def _changed(before: Sequence[Any], after: Sequence[Any]) -> float:
    """Mean share of the later answers that the earlier ones lack."""
    shares = []
    for one, other in zip(before, after, strict=True):
        known, new = ({hit.id for hit in result.hits} for result in (one, other))
        shares.append(len(new - known) / max(1, len(new)))
    return float(np.mean(shares))
