"""The query router: which positions it picks, whether they are useful, and other choices of tokens."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reproduction import plots
from reproduction.run import SEED, Run, progress

if TYPE_CHECKING:
    from fastlane_rag import FastLaneIndex, FastLaneModel
    from fastlane_rag.evaluation.dataset import Dataset
    from fastlane_rag.model import RoutedQuery

DATASETS = ("scifact", "squad_dev", "medquad", "fairytaleqa")
QUERIES = 300
KS = (1, 2, 4, 8, 16)
TEMPERATURES = (0.25, 0.5, 1.0, 2.0, 4.0)
_DRAWS = 3
_HEATED = (1, 4)
_PICTURED, _MATRICES = 24, 4


def run(run: Run, datasets: tuple[str, ...] = DATASETS) -> None:
    """Measure each dataset, then draw."""
    results = run.results("routing")
    for name in datasets:
        results.step(name, lambda name=name: measure(run, name))  # type: ignore[misc]
    plots.routing(results.steps, run.out)


def measure(run: Run, name: str) -> dict[str, Any]:
    """The report of `fastlane_rag.evaluation.routing`, ablations, and the data of the pictures."""
    from fastlane_rag.evaluation.routing import routing_report

    dataset = run.dataset(name, limit=QUERIES)
    with run.corpus(dataset).index() as index:
        report = routing_report(index, dataset)
        return report | {
            "ablations": ablations(index, dataset),
            "pictures": pictures(run.model, list(dataset.queries.values())[:_PICTURED]),
        }


def ablations(index: "FastLaneIndex", dataset: "Dataset") -> dict[str, Any]:
    """nDCG@10 of rankings by k tokens alone, chosen by the router or otherwise; exhaustive, in half precision.

    `chosen_by` takes the k that a search routes (`RoutedQuery.select`), the k best by the router's score alone, by
    rarity (the vocabulary prior), by inverse collection frequency (arXiv 2108.10341), from the front, by the norm of
    the token state, at random, and by an oracle that knows which tokens alone rank the judged passage best.
    `temperature` draws k tokens from softmax(scores / t) without replacement (Gumbel top-k), a few times.
    """
    from fastlane_rag.evaluation.metrics import mean_scores, score_run
    from fastlane_rag.evaluation.routing import _numbers, _states

    texts = list(dataset.queries.values())
    queries = index.model.encode_routed(texts)
    states = _states(index, texts)
    numbers, rare = _numbers(index), inverse_frequency(index)
    ids = {number: id_ for id_, number in numbers.items()}
    generator = np.random.default_rng(SEED)
    runs: dict[tuple[str, float], dict[str, list[str]]] = {}
    for i, (query_id, query) in enumerate(progress(zip(dataset.queries, queries, strict=True), "ablations")):
        alone = per_token(index, query)
        gold = [numbers[d] for d, grade in dataset.qrels[query_id].items() if grade > 0 and d in numbers]
        for choice, order in orders(query, alone, states[i], rare, gold, generator).items():
            for k in KS:
                runs.setdefault((choice, k), {})[query_id] = top(alone, order[:k], ids)
        for temperature in TEMPERATURES:
            for draw in range(_DRAWS):
                order = drawn(query, temperature, generator)
                for k in _HEATED:
                    runs.setdefault((f"{k} {temperature}", draw), {})[query_id] = top(alone, order[:k], ids)
        runs.setdefault(("full", 0), {})[query_id] = top(alone, np.arange(len(alone)), ids)
    value = {name: mean_scores(score_run(dataset.qrels, one))["nDCG@10"] for name, one in runs.items()}
    choices = dict.fromkeys(name for name, _ in runs if name[0].isalpha() and name != "full")
    return {
        "k": list(KS),
        "full": value["full", 0],
        "chosen_by": {choice: [value[choice, k] for k in KS] for choice in choices},
        "temperatures": list(TEMPERATURES),
        "temperature": {
            str(k): [float(np.mean([value[f"{k} {t}", draw] for draw in range(_DRAWS)])) for t in TEMPERATURES]
            for k in _HEATED
        },
        "draws": _DRAWS,
        "argmax": {str(k): value["score", k] for k in _HEATED},
        "auto": automatic(queries),
    }


def automatic(queries: "list[RoutedQuery]") -> dict[str, float]:
    """How many tokens `route_k="auto"` takes."""
    counts = np.array([len(query.select("auto")) for query in queries])
    lengths = np.array([len(query.tokens) for query in queries])
    return {"mean_tokens": float(counts.mean()), "mean_query_tokens": float(lengths.mean())}


def inverse_frequency(index: "FastLaneIndex") -> dict[str, float]:
    """Of each token of the vocabulary: minus the logarithm of how often the index's texts have it."""
    tokenizer = index.model.encoder.tokenizer
    counts, ids = np.ones(len(tokenizer)), index.ids()
    for first in range(0, len(ids), 1000):
        texts = [document.text for document in index.get(ids[first : first + 1000])]
        found = np.concatenate([np.array(one, np.int64) for one in tokenizer(texts)["input_ids"]])
        counts += np.bincount(found, minlength=len(counts))
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return dict(zip(tokens, (-np.log(counts)).tolist(), strict=True))


def per_token(index: "FastLaneIndex", query: "RoutedQuery") -> NDArray[np.float32]:
    """(Lq, N): each query token's best match in each document."""
    from fastlane_rag.search.lanes.exhaustive import exhaustive

    with index._storage.view() as view:
        rows = [query.embeddings[i : i + 1] for i in range(len(query.embeddings))]
        return exhaustive(view.snapshot, rows, view.snapshot.live)[0]


def orders(
    query: "RoutedQuery",
    alone: NDArray[np.float32],
    state: tuple[NDArray[np.float64], NDArray[np.float64]],
    rare: dict[str, float],
    gold: list[int],
    generator: np.random.Generator,
) -> dict[str, NDArray[np.int64]]:
    """Possible orders of routing tokens; tokens that may not be routed are last in all of them."""
    routable = np.isfinite(query.scores.numpy())
    rank = [min(np.count_nonzero(row > row[number]) for number in gold) if gold else 0 for row in alone]
    values = {
        "score": query.scores.numpy().astype(np.float64),
        "rarity": state[0],
        "position": -np.arange(len(routable), dtype=np.float64),
        "norm": state[1],
        "collection": np.array([rare.get(token, 0.0) for token in query.tokens]),
        "random": generator.random(len(routable)),
        "oracle": -np.array(rank, np.float64),
    }
    found = {name: np.argsort(-np.where(routable, one, -np.inf), kind="stable") for name, one in values.items()}
    return {"router": np.append(query.select(None).numpy(), np.flatnonzero(~routable)), **found}


def drawn(query: "RoutedQuery", temperature: float, generator: np.random.Generator) -> NDArray[np.int64]:
    """Tokens in the order of a draw without replacement from softmax(scores / temperature)."""
    scores = query.scores.numpy().astype(np.float64)
    noisy = scores / temperature + generator.gumbel(size=len(scores))
    return np.argsort(-np.where(np.isfinite(scores), noisy, -np.inf), kind="stable")


def top(alone: NDArray[np.float32], chosen: NDArray[np.int64], ids: dict[int, str]) -> list[str]:
    """The ten best documents by these tokens."""
    scores = alone[chosen].sum(0)
    most = min(10, len(ids))
    best = np.argpartition(-scores, most - 1)[:most]
    return [ids[int(number)] for number in sorted(best, key=lambda n: (-scores[n], ids[int(n)]))]


def pictures(model: "FastLaneModel", texts: list[str]) -> dict[str, Any]:
    """The router's softmax over the tokens of some queries; of a few also its self-attention, mean over heads."""
    import torch

    shown = []
    for position, (text, query) in enumerate(zip(texts, model.encode_routed(texts), strict=True)):
        one: dict[str, Any] = {
            "tokens": query.tokens,
            "share": torch.softmax(query.scores, 0).tolist(),
            "routed": query.select(4).tolist(),
        }
        if position < _MATRICES:
            one["attention"] = self_attention(model, text)
        shown.append(one)
    return {"queries": shown}


def self_attention(model: "FastLaneModel", text: str) -> list[list[float]]:
    """(Lq, Lq) attention weights inside the query router, rows attend to columns, scored tokens alone."""
    import torch

    router = model.encoder.query_router
    seen: dict[str, Any] = {}

    def watch(module: Any, inputs: tuple[dict[str, Any], ...], output: Any) -> None:
        features = inputs[0]
        seen.update(states=features["token_embeddings"].clone(), mask=features["attention_mask"].bool().clone())

    hook = router.register_forward_hook(watch)
    try:
        model.encode_routed([text])
    finally:
        hook.remove()
    with torch.inference_mode():
        x = router.inner(router.norm(seen["states"].to(router.score.weight.dtype)))
        heads = (*x.shape[:2], 3, router.num_heads, router.inner_size // router.num_heads)
        q, k, _ = router.qkv(x).view(heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(
            ~seen["mask"][:, None, None], float("-inf")
        )
        mean = weights.softmax(-1).mean(1)[0].cpu()
    kept = seen["mask"][0].cpu()
    matrix: list[list[float]] = mean[kept][:, kept].tolist()
    return matrix
