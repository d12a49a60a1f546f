"""Train the query router and its context on frozen token embeddings.

    python examples/training/fit_context.py MODEL DATA SAMPLE LOW OUT

MODEL is a model directory; DATA the folder of BEIR datasets; SAMPLE the folder that broad.py made; LOW the folder `low`
that distil.py wrote, with the states after the layers that it left as they were; OUT gets the trained model (OUT/model,
which finish_default.py packs) and the log (OUT/log.csv: step, name, value). An existing index of MODEL stays valid.

One token of a query is routed and compared by its contextual view. The loss is the cross-entropy of its answer among
the answers and look-alikes of the batch, averaged exactly over the router's choice of the token. It learns from the
labelled queries of broad.py, of which only train splits are read; the dev figures are nDCG@10 of 1 and 4 routed tokens
without refinement, over 100 questions of four dev collections.
"""

import argparse
import csv
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from broad import SEED, read
from distil import FROZEN, PROSE
from fastlane_rag import FastLaneModel
from fastlane_rag.evaluation.metrics import mean_scores, score_run
from fastlane_rag.model import QueryRouter, RoutedQuery
from fastlane_rag.scoring import maxsim, token_maxima
from fastlane_rag.training.config import Source
from fastlane_rag.training.data import load_dev
from fastlane_rag.training.projection import States
from halves import lower, upper
from sentence_transformers.base.modules import Dense
from torch import Tensor
from torch.nn import functional as F

BATCH, SCALE, QUERY_TOKENS, LOOK_ALIKES = 32, 20.0, 32, 20
DEV = {"squad": "squad_dev", "fairytaleqa": "fairytaleqa", "scifact": "scifact", "nq": "nq_gold_mix"}


def embedded(model: FastLaneModel, low: States) -> tuple[States, Tensor]:
    """States of the scored tokens, from those after the frozen layers, and their unit embeddings."""
    encoder = model.encoder
    prose = encoder.tokenizer.convert_tokens_to_ids(PROSE)
    states = upper(encoder.backbone, low, FROZEN).without(prose)
    weight = next(m for m in encoder if isinstance(m, Dense)).linear.weight.detach().float()
    rows = [F.normalize(part.float() @ weight.T, dim=-1).half() for part in states.rows.split(1 << 16)]
    return states, torch.cat(rows)


def packed(model: FastLaneModel, low: States) -> dict[str, Tensor]:
    """Rows (T, dim) float16 with lengths (N,) and offsets (N + 1,)."""
    states, rows = embedded(model, low)
    return {"rows": rows, "lengths": states.offsets.diff(), "offsets": states.offsets}


def single(model: FastLaneModel, low: States) -> list[dict[str, Tensor]]:
    """Embeddings, ids and states of each query."""
    states, rows = embedded(model, low)
    spans = list(zip(states.offsets[:-1].tolist(), states.offsets[1:].tolist(), strict=True))
    return [{"rows": rows[a:b], "ids": states.ids[a:b], "states": states.rows[a:b]} for a, b in spans]


def load_train(model: FastLaneModel, sample: Path, low: Path) -> dict[str, dict[str, Any]]:
    """The domains: embedded questions and documents, gold and look-alike documents of each question."""
    sets = {}
    for domain in read(sample):
        queries, documents = torch.load(low / f"{domain.name}.pt", weights_only=False)
        near = [[found[:LOOK_ALIKES] for found in lists] for lists in domain.near]
        asked = zip(single(model, queries), domain.gold, near, domain.labelled, strict=True)
        questions = [(q, gold, alike) for q, gold, alike, labelled in asked if labelled]
        sets[domain.name] = {**packed(model, documents), "questions": questions}
        print(f"{domain.name}: {len(questions)} questions, {len(domain.texts)} documents", flush=True)
    return sets


def load_judged(model: FastLaneModel, data: Path) -> dict[str, dict[str, Any]]:
    """The dev collections, embedded."""
    sets = {}
    for name, folder in DEV.items():
        dev = load_dev(name, Source(path=data / folder, split="dev", limit=100), 500, SEED)

        def half(texts: Iterable[str]) -> States:
            ids = model.encoder.tokenizer(list(texts), truncation=True, max_length=256)["input_ids"]
            return lower(model.encoder.backbone, ids, FROZEN)

        documents = packed(model, half(dev.documents.values()))
        queries = single(model, half(dev.queries.values()))
        sets[name] = {**documents, "queries": queries, "qrels": dev.qrels, "ids": list(dev.documents)}
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
    lengths = train["lengths"][list(column)]
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
    """Encode what is not encoded yet, train, save."""
    frozen = FastLaneModel.from_pretrained(options.model, device="cpu")
    train = load_train(frozen, options.sample, options.low)
    dev = load_judged(frozen, options.data)
    options.out.mkdir(parents=True, exist_ok=True)
    model = FastLaneModel.from_pretrained(options.model, device="cpu", dtype="float32")
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
    shares = [math.sqrt(len(part["questions"])) for part in train.values()]
    draw, losses = random.Random(SEED), []
    with (options.out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["step", "name", "value"])
        log.writerows([0, *figure] for figure in judge(router, dev).items())
        for step in range(1, options.steps + 1):
            router.train()
            loss = batch_loss(router, train[draw.choices(list(train), shares)[0]], draw)
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
                print(step, {name: round(value, 3) for name, value in figures.items()}, flush=True)
    router.eval()
    model.save(options.out / "model")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "sample", "low", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--lr", type=float, default=2e-3, help="of the context; the router's own is half of it")
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of the context")
    main(parser.parse_args())
