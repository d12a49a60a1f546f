"""Train the weights of query tokens (`QueryWeights`) on frozen token embeddings, and put them into a packed model.

    python examples/training/fit_weights.py POOLS MODEL OUT

POOLS is the folder that pools.py made with the model; MODEL a packed model, such as finish_default.py makes. OUT gets a
copy of it whose query router has the weights (OUT/model), and the log (OUT/log.csv: step, name, value). Embeddings of
documents, their index and the model's fingerprint stay as they are.

The loss is the cross-entropy of a train query's answers among its candidates, by weighted mean MaxSim times a learned
scale, plus SPREAD times the variance of the weights. As the maxima are computed once, a step takes milliseconds.
MEMBERS networks are trained from different seeds; beside each other they are one network whose logits are the mean of
theirs. Printed is nDCG@10 of full SumMaxSim, and what the weights change, over whole pools.
"""

import argparse
import csv
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from fastlane_rag.evaluation.metrics import mean_scores, score_run
from fastlane_rag.model.default import packed
from fastlane_rag.model.token_weights import QueryWeights
from pools import DRAWN, SEED, SETS, WHOLE, load
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

MEMBERS, INNER, BATCH = 4, 64, 128
LEARNING_RATE, WEIGHT_DECAY, DROPOUT, SPREAD, SCALE = 2e-3, 0.5, 0.4, 0.1, 33.0

Query = dict[str, Any]


class Tokens:
    """All tokens of the train queries, one after the other, with what belongs to each query.

    Args:
        sets: train queries of each set.
    """

    def __init__(self, sets: Iterable[list[Query]]) -> None:
        by_set = list(sets)
        queries = [query for one in by_set for query in one]
        # Every set is drawn as often as the others, however many queries it has.
        self.shares = torch.tensor([1 / len(one) for one in by_set for _ in one])
        self.lengths = torch.tensor([len(query["ids"]) for query in queries])
        self.starts = F.pad(self.lengths.cumsum(0), (1, 0))
        self.ids = torch.cat([query["ids"] for query in queries])
        self.states = torch.cat([query["states"].float() for query in queries])
        counts = torch.tensor([len(query["maxima"]) for query in queries])
        most = int(counts.max())
        self.maxima = torch.cat([F.pad(query["maxima"].T, (0, most - len(query["maxima"]))) for query in queries])
        column = torch.arange(most)
        self.padding = column >= counts[:, None]
        self.right = column < torch.tensor([query["answers"] for query in queries])[:, None]

    def of(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """The positions of the tokens of some queries, and to which of them each belongs."""
        lengths = self.lengths[queries]
        owners = torch.repeat_interleave(torch.arange(len(queries)), lengths)
        within = torch.arange(len(owners)) - F.pad(lengths.cumsum(0), (1, 0))[owners]
        return self.starts[queries][owners] + within, owners


class Member(nn.Module):
    """One of the networks, with dropout and the loss's scale."""

    def __init__(self, hidden_size: int, prior: Tensor) -> None:
        super().__init__()
        self.prior = prior
        self.weights = QueryWeights(hidden_size, INNER)
        self.scale = nn.Parameter(torch.tensor(math.log(SCALE)))

    def forward(self, states: Tensor, ids: Tensor) -> Tensor:
        """Logits (T,) of tokens."""
        head = self.weights
        inner = F.dropout(F.gelu(head.inner(F.dropout(head.norm(states), DROPOUT))), DROPOUT)
        return head.score(inner).squeeze(-1) + head.prior_weight * self.prior[ids]


def loss(member: Member, tokens: Tokens, queries: Tensor) -> Tensor:
    """The loss of some queries."""
    positions, owners = tokens.of(queries)
    lengths = tokens.lengths[queries]
    powers = (member(tokens.states[positions], tokens.ids[positions])).exp()
    shares = powers / torch.zeros(len(queries)).index_add(0, owners, powers)[owners]
    means = torch.zeros(len(queries), tokens.maxima.shape[1])
    means = means.index_add(0, owners, shares[:, None] * tokens.maxima[positions]) * member.scale.exp()
    logs = torch.log_softmax(means.masked_fill(tokens.padding[queries], -1e9), 1)
    right = tokens.right[queries]
    spread = torch.zeros(len(queries)).index_add(0, owners, (shares * lengths[owners] - 1) ** 2) / lengths
    return -((logs * right).sum(1) / right.sum(1)).mean() + SPREAD * spread.mean()


def train(tokens: Tokens, prior: Tensor, seed: int, steps: int) -> tuple[QueryWeights, list[float]]:
    """One member, and its loss at every step."""
    torch.manual_seed(seed)
    member = Member(tokens.states.shape[1], prior)
    few = [member.scale, member.weights.prior_weight]
    others = [p for n, p in member.named_parameters() if n not in ("scale", "weights.prior_weight")]
    groups = [
        {"params": few, "lr": 5 * LEARNING_RATE, "weight_decay": 0.0},
        {"params": others, "lr": LEARNING_RATE, "weight_decay": WEIGHT_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 20) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    losses = []
    for _ in range(steps):
        value = loss(member, tokens, torch.multinomial(tokens.shares, BATCH, replacement=True))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_([*few, *others], 1.0)
        optimizer.step()
        schedule.step()
        losses.append(value.item())
    return member.weights, losses


@torch.no_grad()
def joined(members: list[QueryWeights]) -> QueryWeights:
    """One network whose logits are the mean of the members'."""
    whole = QueryWeights(members[0].inner.in_features, INNER * len(members))
    whole.inner.weight.copy_(torch.cat([one.inner.weight for one in members]))
    whole.inner.bias.copy_(torch.cat([one.inner.bias for one in members]))
    whole.score.weight.copy_(torch.cat([one.score.weight for one in members], 1) / len(members))
    whole.prior_weight.copy_(torch.stack([one.prior_weight for one in members]).mean())
    return whole


@torch.no_grad()
def judge(weights: QueryWeights | None, queries: list[Query], prior: Tensor) -> float:
    """nDCG@10 over the whole pool, in per cent; None weighs all tokens the same."""
    qrels, run = {}, {}
    for number, query in enumerate(queries):
        logits = torch.zeros(len(query["ids"])) if weights is None else weights(query["states"], prior[query["ids"]])
        scores = query["maxima"] @ torch.softmax(logits, 0)
        best = torch.topk(scores, min(10, len(scores))).indices.tolist()
        qrels[str(number)] = {str(d): grade for d, grade in query["grades"].items()}
        run[str(number)] = [str(d) for d in best]
    return 100 * mean_scores(score_run(qrels, run))["nDCG@10"]


def report(title: str, weights: QueryWeights, sets: dict[str, list[Query]], prior: Tensor) -> list[tuple[str, float]]:
    """Print and return what the weights change."""
    plain = {name: judge(None, queries, prior) for name, queries in sets.items()}
    found = {name: judge(weights, queries, prior) for name, queries in sets.items()}
    gains = {name: found[name] - plain[name] for name in sets}
    for name in sets:
        print(f"{title} {name}: {plain[name]:.2f} {gains[name]:+.2f}")
    print(f"{title}: {sum(plain.values()) / len(sets):.2f} {sum(gains.values()) / len(sets):+.2f}", flush=True)
    return [(f"{title} {name} {what}", one[name]) for name in sets for what, one in (("full", plain), ("gain", gains))]


def put(weights: QueryWeights, router: Path) -> None:
    """Write the weights into the folder of a packed query router."""
    file, settings = router / "model.safetensors", router / "config.json"
    kept = {name: value for name, value in load_file(file).items() if not name.startswith("token_weights.")}
    own = {f"token_weights.{name}": value for name, value in weights.state_dict().items()}
    save_file(kept | packed(own), file, metadata={"format": "pt"})
    config = {**json.loads(settings.read_text(encoding="utf-8")), "weights_size": weights.inner.out_features}
    settings.write_text(json.dumps(config, indent=4), encoding="utf-8")


def main(options: argparse.Namespace) -> None:
    """Train, judge, write."""
    (router,) = options.model.glob("*_QueryRouter")
    prior = load_file(router / "model.safetensors")["prior"].float()
    tokens = Tokens(one["train"] for one in load(options.pools, (*SETS, *DRAWN), ["train"]).values())
    print(f"{len(tokens.lengths)} train queries of {len(tokens.ids)} tokens", flush=True)
    trained = [train(tokens, prior, SEED + n, options.steps) for n in range(MEMBERS)]
    weights = joined([member for member, _ in trained])
    judged = load(options.pools, (*SETS, *DRAWN, *WHOLE), ["dev", "test"])
    splits = {
        "dev": {name: judged[name]["dev"] for name in (*SETS, *DRAWN)},
        "test": {name: judged[name]["test"] for name in (*SETS, "cranfield")},
        "never trained on": {name: judged[name]["test"] for name in WHOLE},
    }
    figures = [row for title, sets in splits.items() for row in report(title, weights, sets, prior)]
    shutil.copytree(options.model, options.out / "model", dirs_exist_ok=True)
    put(weights, options.out / "model" / router.name)
    with (options.out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(["step", "name", "value"])
        for step in range(0, options.steps, 10):
            part = [value for _, losses in trained for value in losses[step : step + 10]]
            log.writerow([step + 10, "loss", round(sum(part) / len(part), 5)])
        log.writerows([options.steps, name, round(value, 3)] for name, value in figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("pools", "model", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    main(parser.parse_args())
