"""Train the upper layers and the projection on rankings of two teachers and on labels.

    python examples/training/distil.py BASE SAMPLE START OUT --taught DIR [DIR ...] [options]

BASE is a directory with sentence-transformers/all-MiniLM-L6-v2, SAMPLE the folder that broad.py made, START a file with
{"model": state of the transformer, "proj": projection}, as fit_projection.py and this script write it, DIR a folder of
teach.py. OUT gets last.pt (a stopped run goes on from there, on other draws), average.pt (the running average of the
weights, which is the result; ema-STEP.pt on the way), log.csv (step, name, value), and in OUT/low the states after the
frozen layers.

A step draws a domain, BATCH of its queries, and passages that answer them or look alike; every query is ranked over all
passages of the step. Three terms, each for the whole width and for its prefixes:

- base: KL from the ranking by SumMaxSim of the untrained transformer at its full width, what it must not forget;
- teacher: KL from the outside teacher's ranking, where the passages are of a taught pool: COSINE times the cosine of
  its mean vectors, TOKENS times its mean token maximum, OWN times that of the untrained transformer;
- answer: cross-entropy of the answer, where a person wrote the query.

The passage that a query was drawn from is no part of the first two: it matches word for word.
"""

import argparse
import csv
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from broad import SEED, Domain, kept, read, read_states
from fastlane_rag.training.projection import States, mean_maxsim
from halves import lower, run_layers
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

PROSE = list(".,?!;:'\"()-")  # not scored; [CLS] and [SEP] are
WIDTHS, FROZEN, DOCUMENT_TOKENS, PIECE = (192, 128), 3, 128, 16
BASE_SCALE, LABEL_SCALE, DECAY = 40.0, 20.0, 0.99


@dataclass
class Taught:
    """The teacher's scores over one pool of passages."""

    queries: list[int]
    pool: list[int]
    cosine: Tensor
    maxsim: Tensor
    row: dict[int, int] = field(init=False)
    column: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.row = {q: i for i, q in enumerate(self.queries)}
        self.column = {d: i for i, d in enumerate(self.pool)}


@dataclass
class Step:
    """Queries and passages that are ranked together."""

    domain: Domain
    queries: list[int]
    documents: list[int]
    answers: list[int]
    taught: Taught | None

    def masks(self) -> tuple[Tensor, Tensor]:
        """(B, N) bool: other right answers, and own passages of drawn queries."""
        place = {d: i for i, d in enumerate(self.documents)}
        right = torch.zeros(len(self.queries), len(self.documents), dtype=torch.bool)
        own = right.clone()
        for row, query in enumerate(self.queries):
            columns = [place[d] for d in self.domain.gold[query] if d in place]
            right[row, [c for c in columns if c != self.answers[row]]] = True
            own[row, [] if self.domain.labelled[query] else columns] = True
        return right, own

    def teacher(self, options: argparse.Namespace, base: Tensor) -> Tensor:
        """(B, N) logits."""
        assert self.taught is not None
        rows = torch.tensor([self.taught.row[q] for q in self.queries])
        columns = torch.tensor([self.taught.column[d] for d in self.documents])
        scores = options.cosine * self.taught.cosine + options.tokens * self.taught.maxsim
        return scores[rows][:, columns] + options.own * base


def draw_step(domain: Domain, pools: Sequence[Taught], options: argparse.Namespace, draw: random.Random) -> Step:
    """Queries of one domain with their answers and look-alikes."""
    taught = draw.choice(pools) if pools and draw.random() < options.taught_share else None
    queries = draw.sample(taught.queries if taught else range(len(domain.queries)), options.batch)
    place: dict[int, int] = {}
    answers = []
    for query in queries:
        gold = [d for d in domain.gold[query] if taught is None or d in taught.column]
        answers.append(place.setdefault(draw.choice(gold), len(place)))
        if taught:
            scores = (options.cosine * taught.cosine + options.tokens * taught.maxsim)[taught.row[query]]
            best = [taught.pool[i] for i in torch.topk(scores, 24).indices.tolist()]
            lists = [[d for d in best if d not in domain.gold[query]]]
            lists.append([d for d in domain.near[query][0] if d in taught.column][:10])
            counts = [3, 2]
        else:
            lists = [part for found in domain.near[query] for part in (found[:10], found[10:])]
            counts = [1] * len(lists)
        for found, count in zip(lists, counts, strict=True):
            for document in draw.sample(found, min(count, len(found))):
                place.setdefault(document, len(place))
    return Step(domain, queries, list(place), answers, taught)


class Trainer:
    """The transformer's upper layers and the projection, the running average of both, and what they learn from."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        tokenizer = AutoTokenizer.from_pretrained(options.base)
        self.skip = torch.tensor(tokenizer.convert_tokens_to_ids(PROSE))
        start = torch.load(options.start)
        self.model = AutoModel.from_pretrained(options.base, dtype=torch.float32).eval()
        self.model.load_state_dict(start["model"])
        self.projection = torch.nn.Parameter(start["proj"].clone())
        self.sample = read(options.sample)
        self.states = {d.name: read_states(options.sample, d.name) for d in self.sample}
        frozen = self.model.requires_grad_(False)
        self.low = {d.name: kept(options.out / "low" / f"{d.name}.pt", lambda d=d: self._lower(d)) for d in self.sample}
        self.layers = [p for layer in frozen.encoder.layer[FROZEN:] for p in layer.requires_grad_(True).parameters()]
        groups = [
            {"params": self.layers, "lr": options.lr},
            {"params": [self.projection], "lr": options.projection_lr},
        ]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.average = {name: value.clone() for name, value in self._weights().items()}
        self.step = 0
        self.pools: dict[str, list[Taught]] = {d.name: [] for d in self.sample}
        for file in sorted((file for folder in options.taught for file in folder.glob("*.pt")), key=lambda f: f.name):
            name = file.stem.rpartition("-")[0] if file.stem not in self.pools else file.stem
            self.pools[name].append(Taught(**torch.load(file)))

    def _lower(self, domain: Domain) -> tuple[States, States]:
        half = AutoModel.from_pretrained(self.options.base, dtype=torch.bfloat16).eval()
        half.load_state_dict(self.model.state_dict())

        def cut(states: States, most: int) -> list[list[int]]:
            spans = zip(states.offsets[:-1].tolist(), states.offsets[1:].tolist(), strict=True)
            texts = [states.ids[a:b].tolist() for a, b in spans]
            return [ids if len(ids) <= most else [*ids[: most - 1], ids[-1]] for ids in texts]

        queries, documents = self.states[domain.name]
        whole = len(queries.ids)
        return lower(half, cut(queries, whole), FROZEN), lower(half, cut(documents, DOCUMENT_TOKENS), FROZEN)

    def _rate(self, step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1, step / self.options.steps)))
        return min(1, (step + 1) / 40) * (0.95 * cosine + 0.05)

    def _weights(self) -> dict[str, Tensor]:
        return {**self.model.state_dict(), "proj": self.projection.detach()}

    def _scored(self, states: States, texts: Sequence[int], mask: Tensor) -> Tensor:
        spans = [(int(states.offsets[i]), int(states.offsets[i + 1])) for i in texts]
        ids = torch.nn.utils.rnn.pad_sequence([states.ids[a:b] for a, b in spans], batch_first=True)
        scored = mask & ~torch.isin(ids, self.skip)
        scored[:, 0] = True
        return scored

    def _embed(self, states: States, texts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, L, width), not normalised, of texts in pieces of like length, and which are scored."""
        rows, mask = states.padded(texts)
        lengths = mask.sum(1)
        order = lengths.argsort()
        parts = []
        for part in order.split(PIECE):
            width = int(lengths[part].max())
            with torch.autocast("cpu", torch.bfloat16):
                made = run_layers(self.model, rows[part, :width], mask[part, :width], FROZEN)
            parts.append(F.pad(F.normalize(made.float(), dim=-1) @ self.projection.T, (0, 0, 0, rows.shape[1] - width)))
        return torch.cat(parts)[order.argsort()], self._scored(states, texts, mask)

    @torch.no_grad()
    def _base(self, step: Step) -> Tensor:
        queries, documents = self.states[step.domain.name]
        q, q_mask = queries.padded(step.queries)
        d, d_mask = documents.padded(step.documents)
        q_mask, d_mask = self._scored(queries, step.queries, q_mask), self._scored(documents, step.documents, d_mask)
        d, d_mask = d[:, :DOCUMENT_TOKENS], d_mask[:, :DOCUMENT_TOKENS]
        return mean_maxsim(F.normalize(q, dim=-1)[q_mask], q_mask, F.normalize(d, dim=-1), d_mask)

    def loss(self, step: Step) -> tuple[Tensor, dict[str, float]]:
        """The loss of one step and its terms."""
        options, base = self.options, self._base(step)
        target = step.teacher(options, base) if step.taught else None
        others, own = step.masks()
        queries, query_mask = self._embed(self.low[step.domain.name][0], step.queries)
        documents, document_mask = self._embed(self.low[step.domain.name][1], step.documents)
        labelled = torch.tensor([step.domain.labelled[q] for q in step.queries])
        answers = torch.tensor(step.answers)

        def divergence(scores: Tensor, wanted: Tensor) -> Tensor:
            logs = [torch.log_softmax(s.masked_fill(own, -1e4), 1) for s in (scores, wanted)]
            return F.kl_div(*logs, reduction="batchmean", log_target=True)

        total, told = torch.zeros(()), {}
        for width in WIDTHS:
            q, d = F.normalize(queries[..., :width], dim=-1), F.normalize(documents[..., :width], dim=-1)
            scores = mean_maxsim(q[query_mask], query_mask, d, document_mask)
            terms = {"base": divergence(scores * BASE_SCALE, base * BASE_SCALE)}
            weights = {"base": options.base_weight * (0.2 if step.taught else 1.0), "teacher": 1.0, "answer": 0.5}
            if target is not None:
                terms["teacher"] = divergence(scores * BASE_SCALE, target)
            if labelled.any():
                logits = (LABEL_SCALE * scores).masked_fill(others, -1e4)
                terms["answer"] = F.cross_entropy(logits[labelled], answers[labelled])
            for name, value in terms.items():
                total = total + weights[name] * value / len(WIDTHS)
                told[f"{name}{width}"] = value.item()
        return total, told

    def train(self, log: Any) -> None:
        """All steps that are left."""
        options, recent, started = self.options, {}, time.time()
        shares = [math.sqrt(len(d.queries)) for d in self.sample]
        draw = random.Random(f"{SEED}-{self.step}")
        while self.step < options.steps:
            self.step += 1
            domain = draw.choices(self.sample, shares)[0]
            loss, terms = self.loss(draw_step(domain, self.pools[domain.name], options, draw))
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*self.layers, self.projection], 1.0)
            self.optimizer.step()
            self.schedule.step()
            decay = min(DECAY, (1 + self.step) / (10 + self.step))
            for name, value in self._weights().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - decay)
            for name, value in terms.items():
                recent.setdefault(name, []).append(value)
            if self.step % 20 == 0:
                means = {name: round(sum(v) / len(v), 4) for name, v in recent.items()}
                log.writerows([self.step, *pair] for pair in means.items())
                print(self.step, means, f"{(time.time() - started) / 20:.2f} s a step", flush=True)
                recent, started = {}, time.time()
            if self.step % 50 == 0 or self.step == options.steps:
                self.save()

    def save(self) -> None:
        """Write the running average alone, every few times and at the end, and the checkpoint."""
        out, ended = self.options.out, self.step == self.options.steps
        if ended or self.step % 200 == 0:
            average = dict(self.average)
            name = "average.pt" if ended else f"ema-{self.step}.pt"
            torch.save({"proj": average.pop("proj"), "model": average}, out / name)
        everything = {"step": self.step, "now": self._weights(), "average": self.average}
        torch.save(everything | {"optimizer": self.optimizer.state_dict()}, out / "last.part")
        (out / "last.part").rename(out / "last.pt")

    def resume(self, file: Path) -> None:
        """Go on from a checkpoint."""
        found = torch.load(file)
        self.step, self.average = found["step"], found["average"]
        self.projection.data.copy_(found["now"].pop("proj"))
        self.model.load_state_dict(found["now"])
        self.optimizer.load_state_dict(found["optimizer"])
        for _ in range(self.step):
            self.schedule.step()


def main(options: argparse.Namespace) -> None:
    """Train, from the last checkpoint if there is one."""
    torch.manual_seed(SEED)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options)
    if (options.out / "last.pt").exists():
        trainer.resume(options.out / "last.pt")
    mode = "a" if trainer.step else "w"
    with (options.out / "log.csv").open(mode, newline="", encoding="utf-8", buffering=1) as file:
        log = csv.writer(file)
        if not trainer.step:
            log.writerow(["step", "name", "value"])
        trainer.train(log)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("base", "sample", "start", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--taught", type=Path, nargs="+", default=[], help="folders of teach.py")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch", type=int, default=12, help="queries a step")
    parser.add_argument("--taught-share", type=float, default=0.7, help="share of steps over a taught pool")
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--projection-lr", type=float, default=3e-4)
    parser.add_argument("--base-weight", type=float, default=1.0, help="a fifth of it where a teacher ranks")
    for name, value in (("cosine", 8.0), ("tokens", 22.0), ("own", 10.0)):
        parser.add_argument(f"--{name}", type=float, default=value, help="see above")
    main(parser.parse_args())
