"""Train the query router and its context on frozen token embeddings.

    python examples/training/fit_context.py MODEL DATA OUT

MODEL is a model directory, or "default" for the bundled one; DATA the folder of BEIR datasets; OUT gets the trained
model (OUT/model, which finish_default.py packs), the log (OUT/log.csv: step, name, value) and what the encoder made of
the texts (OUT/cache; delete it when DATA changes), so that a run that was stopped encodes no text twice. An existing
index of MODEL stays valid.

One token of a query is routed and compared by its contextual view. The loss is the cross-entropy of its answer among
the answers and similar passages of the batch, averaged exactly over the router's distribution. The bundled router was
trained with the defaults; context-log.csv is that run's log. Only train splits are trained on; the dev figures are
nDCG@10 of 1 and 4 routed tokens without refinement, over the first 100 questions of four dev collections.
"""

import argparse
import csv
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fastlane_rag import FastLaneModel
from fastlane_rag.evaluation.baselines import Bm25
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.evaluation.metrics import mean_scores, score_run
from fastlane_rag.model import QueryRouter, RoutedQuery
from fastlane_rag.scoring import maxsim, token_maxima
from fastlane_rag.training.config import Source
from fastlane_rag.training.data import load_dev
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

SEED, BATCH, SCALE = 17, 32, 20.0
QUERY_TOKENS, DOCUMENT_TOKENS = 32, 256
CHUNK, MINED, LOOK_ALIKES = 512, 30, 20
# Split, most queries, and the share of batches drawn from each.
TRAIN = {
    "squad_dev": ("train", 6500, 0.27),
    "fairytaleqa": ("train", 6500, 0.27),
    "nq_gold_mix": ("train", 1700, 0.12),
    "scifact": ("train_minus_dev", 709, 0.1),
    "medquad": ("train", 5000, 0.24),
}
DEV = {"squad": "squad_dev", "fairytaleqa": "fairytaleqa", "scifact": "scifact", "nq": "nq_gold_mix"}


def encode(model: FastLaneModel, texts: list[str], task: str) -> list[dict[str, Tensor]]:
    """For each text: unit token embeddings, ids, and the mean of its states; for a query also the states."""

    def keep(_module: Any, _inputs: Any, features: dict[str, Any]) -> None:
        states, mask = features["token_embeddings"].float(), features["attention_mask"].bool()
        features["mean"] = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        if task == "query":
            features["states"] = states

    hook = model.encoder.transformer.register_forward_hook(keep)
    encoder: Callable[..., Any] = getattr(model.encoder, f"encode_{task}")
    try:
        rows = encoder(texts, batch_size=32, output_value=None, show_progress_bar=False)
    finally:
        hook.remove()
    made = []
    for row in rows:
        mask = row["attention_mask"].bool().clone()
        mask[0] = mask[0] or not mask.any()
        one = {"rows": F.normalize(row["token_embeddings"][mask].float(), dim=-1).half(), "ids": row["input_ids"][mask]}
        if task == "query":
            one["states"] = row["states"][mask].half()
        made.append(one | {"mean": F.normalize(row["mean"], dim=-1)})
    return [{name: value.cpu().clone() for name, value in one.items()} for one in made]


def cached(file: Path, make: Callable[[], Any]) -> Any:
    """The result of ``make``, read from the file if an earlier run wrote it."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(make(), part := file.with_suffix(".part"))
        part.rename(file)
    return torch.load(file)


def encode_documents(model: FastLaneModel, texts: list[str], cache: Path) -> dict[str, Tensor]:
    """Packed rows (T, dim) float16 with offsets (N + 1,), and mean states (N, h)."""
    parts = []
    for first in track(range(0, len(texts), CHUNK), f"encoding {cache.name}"):
        chunk = texts[first : first + CHUNK]
        file = cache / f"{first // CHUNK:05d}.pt"

        def pack(chunk: list[str] = chunk) -> dict[str, Tensor]:
            made = encode(model, chunk, "document")
            lengths = torch.tensor([len(one["rows"]) for one in made])
            rows, mean = torch.cat([one["rows"] for one in made]), torch.stack([one["mean"] for one in made])
            return {"rows": rows, "lengths": lengths, "mean": mean}

        parts.append(cached(file, pack))
    whole = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return whole | {"offsets": F.pad(whole["lengths"].cumsum(0), (1, 0))}


def load_train(model: FastLaneModel, data: Path, cache: Path, limit: int | None) -> dict[str, dict[str, Any]]:
    """The train sets: encoded questions and documents, and for each question its gold and similar documents."""
    draw, sets = random.Random(SEED), {}
    for name, (split, most, _) in TRAIN.items():
        dataset = load_dataset(data / name, split)
        chosen = sorted(dataset.queries)
        draw.shuffle(chosen)
        chosen = chosen[: min(most, limit or most)]
        passages = list(dataset.passages())
        if limit:
            judged = {d for q in chosen for d in dataset.qrels[q]}
            passages = sorted(passages, key=lambda p: p.id not in judged)[: len(judged) + limit]
        ids, texts = [p.id for p in passages], [p.content for p in passages]
        place = {d: i for i, d in enumerate(ids)}
        documents = encode_documents(model, texts, cache / name)
        questions = [dataset.queries[q] for q in chosen]
        gold = [[place[d] for d, grade in dataset.qrels[q].items() if grade > 0 and d in place] for q in chosen]

        def mine(
            questions: list[str] = questions,
            gold: list[list[int]] = gold,
            ids: list[str] = ids,
            texts: list[str] = texts,
            place: dict[str, int] = place,
            mean: Tensor = documents["mean"],
        ) -> dict[str, Any]:
            encoded, bm25, near = encode(model, questions, "query"), Bm25(ids, texts), []
            for question, one, right in zip(questions, encoded, gold, strict=True):
                dense = torch.topk(mean @ one["mean"], min(MINED, len(mean))).indices.tolist()
                words = [place[d] for d in bm25.answer(question, MINED).ids]
                near.append([[d for d in found if d not in right][:LOOK_ALIKES] for found in (dense, words)])
            return {"queries": encoded, "near": near}

        mined = cached(cache / name / "queries.pt", mine)
        kept = [(q, g, n) for q, g, n in zip(mined["queries"], gold, mined["near"], strict=True) if g]
        sets[name] = {**documents, "questions": kept}
        print(f"{name}: {len(kept)} questions, {len(texts)} documents")
    return sets


def load_judged(model: FastLaneModel, data: Path, cache: Path, limit: int | None) -> dict[str, dict[str, Any]]:
    """The dev collections, encoded."""
    sets = {}
    for name, folder in DEV.items():
        source = Source(path=data / folder, split="dev", limit=limit or 200)
        dev = load_dev(name, source, 2 * limit if limit else 1500, SEED)
        documents = encode_documents(model, list(dev.documents.values()), cache / f"dev-{name}")
        queries = dict(list(dev.queries.items())[:100])
        encoded = cached(
            cache / f"dev-{name}" / "queries.pt", lambda q=queries: encode(model, list(q.values()), "query")
        )
        qrels = {q: dev.qrels[q] for q in queries}
        sets[name] = {**documents, "queries": encoded, "qrels": qrels, "ids": list(dev.documents)}
    return sets


def route(router: QueryRouter, queries: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings (B, L, dim), mask (B, L), router scores (B, L) and contextual views (B, L, dim)."""
    names = ("rows", "states", "ids")
    rows, states, ids = (torch.nn.utils.rnn.pad_sequence([q[n] for q in queries], batch_first=True) for n in names)
    mask = torch.arange(rows.shape[1]) < torch.tensor([len(q["ids"]) for q in queries])[:, None]
    features = router({"token_embeddings": states.float(), "attention_mask": mask, "input_ids": ids}, task="query")
    views = router.views(rows.float(), features)
    return rows.float(), mask, features["routing_scores"], views


@torch.no_grad()
def judge(router: QueryRouter, sets: dict[str, dict[str, Any]]) -> dict[str, float]:
    """nDCG@10 of k routed tokens without refinement, and the means over the collections."""
    router.eval()
    figures: dict[str, float] = {}
    for name, dev in sets.items():
        runs: dict[int, dict[str, list[str]]] = {1: {}, 4: {}}
        routed = zip(dev["qrels"], *route(router, dev["queries"]), strict=True)
        for query_id, rows, mask, scores, views in routed:
            query = RoutedQuery(rows[mask], scores[mask], [], views[mask])
            for k, run in runs.items():
                found = maxsim(query.compared(query.select(k)), dev["rows"], document_offsets=dev["offsets"])[0]
                run[query_id] = [dev["ids"][i] for i in torch.topk(found, 10).indices.tolist()]
        for k, run in runs.items():
            figures[f"{name}_ndcg10_k{k}"] = mean_scores(score_run(dev["qrels"], run))["nDCG@10"]
    for k in (1, 4):
        figures[f"mean_ndcg10_k{k}"] = sum(figures[f"{name}_ndcg10_k{k}"] for name in sets) / len(sets)
    return figures


def batch_loss(router: QueryRouter, train: dict[str, Any], draw: random.Random) -> Tensor:
    """The expected cross-entropy of the answer with one routed token, for questions drawn from one set."""
    chosen = draw.sample(train["questions"], min(BATCH, len(train["questions"])))
    column: dict[int, int] = {}
    positives = []
    for _, gold, near in chosen:
        positives.append(column.setdefault(draw.choice(gold), len(column)))
        for found in near:
            for document in draw.sample(found, min(2, len(found))):
                column.setdefault(document, len(column))
    starts = train["offsets"][list(column)].tolist()
    lengths = train["lengths"][list(column)].clamp(max=DOCUMENT_TOKENS)
    rows = torch.cat([train["rows"][s : s + n] for s, n in zip(starts, lengths.tolist(), strict=True)]).float()
    cut = [{n: q[n][:QUERY_TOKENS] for n in ("rows", "states", "ids")} for q, _, _ in chosen]
    _, mask, scores, views = route(router, cut)
    tokens = views[mask]
    _, best = token_maxima(tokens.detach(), rows, F.pad(lengths.cumsum(0), (1, 0)))
    similarity = torch.einsum("td,tnd->tn", tokens, rows[best.T])
    # Other right answers of a question do not count as wrong.
    right = torch.zeros(len(chosen), len(column), dtype=torch.bool)
    for row, (_, gold, _) in enumerate(chosen):
        right[row, [column[g] for g in gold if g in column and column[g] != positives[row]]] = True
    question = mask.nonzero()[:, 0]
    logits = (SCALE * similarity).masked_fill(right[question], -1e4)
    loss = F.cross_entropy(logits, torch.tensor(positives)[question], reduction="none")
    return (torch.softmax(scores, 1)[mask] * loss).sum() / len(chosen)


def main(options: argparse.Namespace) -> None:
    """Encode the texts that are not encoded yet, train, save."""
    source = None if options.model == "default" else options.model
    frozen = FastLaneModel.from_pretrained(source, device="cpu")
    cache = options.out / "cache" / f"{frozen.fingerprint[:12]}-{options.limit or 'all'}"
    train = load_train(frozen, options.data, cache, options.limit)
    dev = load_judged(frozen, options.data, cache, options.limit)
    model = FastLaneModel.from_pretrained(source, device="cpu", dtype="float32")
    router = model.encoder.query_router
    torch.manual_seed(SEED)
    router.give_context(model.dim, options.rank)
    assert router.context is not None
    context = list(router.context.parameters())
    others = [p for n, p in router.named_parameters() if not n.startswith("context.")]
    groups = [
        {"params": others, "lr": options.lr / 2, "weight_decay": 0.01},
        {"params": context, "lr": options.lr, "weight_decay": options.weight_decay},
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 20) * 0.5 * (1 + math.cos(math.pi * min(1, i / options.steps)))
    )
    shares = [share for *_, share in TRAIN.values()]
    draw, losses = random.Random(SEED), []
    with (options.out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["step", "name", "value"])
        log.writerows([0, *figure] for figure in judge(router, dev).items())
        for step in track(range(1, options.steps + 1), "training"):
            router.train()
            loss = batch_loss(router, train[draw.choices(list(TRAIN), shares)[0]], draw)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(others + context, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if step % 100 == 0 or step == options.steps:
                recent = losses[-100:]
                figures = {"loss": sum(recent) / len(recent), **judge(router, dev)}
                figures["alpha"] = router.context.log_share.exp().item()
                log.writerows([step, name, round(value, 5)] for name, value in figures.items())
                file.flush()
                print(step, {name: round(value, 3) for name, value in figures.items()})
    router.eval()
    model.save(options.out / "model")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--lr", type=float, default=2e-3, help="of the context; the router's own is half of it")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of the context")
    parser.add_argument("--limit", type=int, help="try it out: so many questions and other documents of each set")
    main(parser.parse_args())
