"""Statistics of a query router: which positions it picks, how queries differ, and whether it picks useful tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.evaluation.dataset import Dataset

if TYPE_CHECKING:
    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.model import RoutedQuery

__all__ = ["COLLAPSE_SHARE", "routing_report", "selection_statistics"]

COLLAPSE_SHARE = 0.8
"""A router has collapsed if one position is first in more than this share of queries."""


def selection_statistics(queries: Sequence[RoutedQuery], k: int = 4) -> dict[str, Any]:
    """Which positions and tokens the router scores highest; a search picks among them by `RoutedQuery.select`.

    Args:
        queries: encoded queries, at least two.
        k: tokens of highest score.

    Returns:
        ``positions``: share of queries that score each position highest, by position among the scored tokens;
        ``top_position_share``: the largest of those shares; ``distinct_first_tokens``: number of different tokens
        scored highest, divided by the number of queries; ``position_overlap`` and ``token_overlap``: mean Jaccard
        index of these positions, and of their token strings, over pairs of queries;
        ``position_overlap_at_random``: ``position_overlap`` for tokens drawn at random from queries of the same
        lengths; ``collapsed``: a sentence if the router has collapsed, else None.
    """
    picks = [_highest(query, k) for query in queries]
    first = Counter(p[0] for p in picks)
    share = {position: count / len(picks) for position, count in sorted(first.items())}
    tokens = [{query.tokens[i] for i in p} for query, p in zip(queries, picks, strict=True)]
    draw = np.random.default_rng(0)
    random = [set(draw.permutation(len(q.tokens))[:k].tolist()) for q in queries]
    top = max(share.values())
    return {
        "queries": len(queries),
        "k": k,
        "positions": share,
        "top_position_share": top,
        "distinct_first_tokens": len({q.tokens[p[0]] for q, p in zip(queries, picks, strict=True)}) / len(picks),
        "position_overlap": _mean_overlap([set(p) for p in picks]),
        "position_overlap_at_random": _mean_overlap(random),
        "token_overlap": _mean_overlap(tokens),
        "collapsed": (
            f"the router puts position {first.most_common(1)[0][0]} first in {top:.0%} of the queries, whatever they "
            "ask; train it again with a larger loss.collapse or a higher final routing.temperature"
            if top > COLLAPSE_SHARE
            else None
        ),
    }


def routing_report(index: FastLaneIndex, dataset: Dataset, *, k: int = 4) -> dict[str, Any]:
    """Selection statistics, and the agreement of router scores with the measured usefulness of tokens.

    A token is useful as far as the passage that answers falls in the ranking of full SumMaxSim when the token is left
    out (``left_out``, in log2 of its rank), and as far as it finds that passage alone (``alone``, minus log2 of its
    rank). Agreement is Spearman's rank correlation within a query, averaged over queries; the same for what a router
    might have learned instead: rarity (the prior), position, and the norm of the token state. Tokens that may not be
    routed, such as [CLS], are not compared.

    Args:
        index: holds the dataset's corpus.
        dataset: queries and judgements; of each query the best judged passages count.
        k: routed tokens, for the selection statistics.
    """
    texts = list(dataset.queries.values())
    queries = index.model.encode_routed(texts)
    states = _states(index, texts)
    names = ("router", "rarity", "position", "norm")
    found: dict[str, dict[str, list[float]]] = {kind: {n: [] for n in names} for kind in ("left_out", "alone")}
    numbers = _numbers(index)
    for i, (query_id, query) in enumerate(zip(dataset.queries, queries, strict=True)):
        gold = [numbers[d] for d, grade in dataset.qrels[query_id].items() if grade > 0 and d in numbers]
        router = query.scores.numpy()
        routable = np.isfinite(router)
        if not gold or routable.sum() < 3:
            continue
        useful = _usefulness(index, query, gold)
        offered = {
            "router": router,
            "rarity": states[i][0],
            "position": -np.arange(len(query.tokens), dtype=np.float64),
            "norm": states[i][1],
        }
        for kind, values in useful.items():
            for name, scores in offered.items():
                found[kind][name].append(_spearman(scores[routable], values[routable]))
    return selection_statistics(queries, k) | {
        "usefulness": {
            kind: {n: float(np.nanmean(v)) if v else None for n, v in by_name.items()}
            for kind, by_name in found.items()
        }
    }


def _highest(query: RoutedQuery, k: int) -> list[int]:
    scores = query.scores.detach().float().cpu().numpy()
    highest: list[int] = np.argsort(-scores, kind="stable")[: min(k, np.count_nonzero(np.isfinite(scores)))].tolist()
    return highest


def _mean_overlap(sets: Sequence[set[Any]], most: int = 300) -> float:
    values = [len(a & b) / len(a | b) for a, b in combinations(sets[:most], 2)]
    return float(np.mean(values)) if values else float("nan")


def _numbers(index: FastLaneIndex) -> dict[str, int]:
    with index._storage.view() as view:
        numbers = view.snapshot.live_numbers
        return dict(zip(view.reader.ids_at(view.snapshot.places(numbers)), numbers.tolist(), strict=True))


def _usefulness(index: FastLaneIndex, query: RoutedQuery, gold: Sequence[int]) -> dict[str, NDArray[np.float64]]:
    from fastlane_rag.search.lanes.exhaustive import exhaustive

    with index._storage.view() as view:
        rows = [query.embeddings[i : i + 1] for i in range(len(query.embeddings))]
        alone, _ = exhaustive(view.snapshot, rows, view.snapshot.live)
    full = alone.sum(0)
    best = max(gold, key=lambda n: full[n])
    whole = _log_rank(full, best)
    return {
        "left_out": np.array([_log_rank(full - row, best) - whole for row in alone]),
        "alone": np.array([-_log_rank(row, best) for row in alone]),
    }


def _log_rank(scores: NDArray[np.float32], number: int) -> float:
    return float(np.log2(1 + np.count_nonzero(scores > scores[number])))


def _spearman(a: NDArray[Any], b: NDArray[Any]) -> float:
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")  # all tokens equal: there is no ranking to agree with
    return float(spearmanr(a, b).statistic)


def _states(index: FastLaneIndex, texts: Sequence[str]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """For each query, the prior and the norm of the state of each scored token."""
    import torch

    model = index.model
    prior = model.encoder.query_router.prior.cpu()
    found = []
    for text in texts:
        row = model._encode([text], "query", 1, False)[0]
        mask = row["attention_mask"].bool().cpu()
        features = model.encoder.preprocess([text], prompt=model.encoder.prompt_of("query"), task="query")
        features = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()}
        with torch.inference_mode():
            states = model.encoder.transformer(features)["token_embeddings"]
        norms = states[0].float().norm(dim=-1).cpu()[mask]
        found.append((prior[row["input_ids"].cpu()[mask]].double().numpy(), norms.double().numpy()))
    return found
