"""A projection of token states trained to keep the ranking of SumMaxSim; the transformer is frozen.

Principal axes keep the token states, but a search needs the order of the passages. So the projection starts as the
principal axes, and is trained to rank in few dimensions as all dimensions do. The loss is the KL divergence between the
two rankings over similar passages, the squared error of token cosines, and for labelled queries the cross-entropy of
the answer.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ProjectionLoss", "Ranking", "States", "learn_projection", "mean_maxsim", "principal_axes"]


@dataclass(frozen=True, slots=True)
class States:
    """Token states of texts, packed.

    Attributes:
        rows: (T, h), of any float dtype.
        ids: (T,) token ids.
        offsets: (N + 1,) int64; text i has the rows from offsets[i] to offsets[i + 1].
    """

    rows: Tensor
    ids: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def without(self, ids: Sequence[int]) -> States:
        """The same texts without tokens of these ids; a text that has no others keeps its first token."""
        kept = ~torch.isin(self.ids, torch.tensor(list(ids), dtype=self.ids.dtype))
        count = F.pad(kept.long().cumsum(0), (1, 0))
        empty = count[self.offsets[1:]] == count[self.offsets[:-1]]
        kept[self.offsets[:-1][empty]] = True
        lengths = F.pad(kept.long().cumsum(0), (1, 0))[self.offsets]
        return States(self.rows[kept], self.ids[kept], lengths)

    def padded(self, texts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(B, L, h) float32 states of some texts, 0 at padding, and their (B, L) bool mask."""
        spans = [(int(self.offsets[i]), int(self.offsets[i + 1])) for i in texts]
        width = max(end - start for start, end in spans)
        out = torch.zeros(len(spans), width, self.rows.shape[1])
        mask = torch.zeros(len(spans), width, dtype=torch.bool)
        for row, (start, end) in enumerate(spans):
            out[row, : end - start] = self.rows[start:end]
            mask[row, : end - start] = True
        return out, mask

    def means(self) -> Tensor:
        """(N, h) float32: the L2-normalised mean of each text."""
        spans = zip(self.offsets[:-1].tolist(), self.offsets[1:].tolist(), strict=True)
        return F.normalize(torch.stack([self.rows[a:b].float().mean(0) for a, b in spans]), dim=-1)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Queries of one domain, and the passages to rank for them.

    Attributes:
        queries: token states of the queries.
        documents: token states of the passages.
        gold: for each query, the passages that answer it.
        labelled: for each query, whether its gold may be used in training.
        near: for each query, lists of similar passages, the most similar first.
    """

    queries: States
    documents: States
    gold: Sequence[Sequence[int]]
    labelled: Sequence[bool]
    near: Sequence[Sequence[Sequence[int]]]


@dataclass(frozen=True, slots=True)
class ProjectionLoss:
    """Weights of the terms of the loss.

    Attributes:
        ranking: weight of the KL divergence of the ranking from that of all dimensions.
        tokens: weight of the squared error of token cosines, in hundredths.
        answer: weight of the cross-entropy of a labelled query's answer.
        scale: multiplies mean MaxSim before the softmax of ``ranking``; for ``answer`` the factor is 20.
    """

    ranking: float = 1.0
    tokens: float = 1.0
    answer: float = 0.3
    scale: float = 40.0


def principal_axes(states: Sequence[States], dim: int, *, most: int = 60_000, seed: int = 17) -> Tensor:
    """(dim, h): the leading uncentred principal axes of the unit-length states; domains have equal weight."""
    draw = torch.Generator().manual_seed(seed)
    width = states[0].rows.shape[1]
    moment = torch.zeros(width, width, dtype=torch.float64)
    for some in states:
        chosen = torch.randperm(len(some.rows), generator=draw)[:most]
        unit = F.normalize(some.rows[chosen].float(), dim=-1)
        moment += (unit.T @ unit).double() / len(unit)
    axes: Tensor = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :dim].T.float().contiguous()
    return axes


def learn_projection(
    domains: Sequence[Ranking],
    start: Tensor,
    *,
    weights: ProjectionLoss | None = None,
    steps: int = 400,
    batch_size: int = 24,
    learning_rate: float = 1e-3,
    near: int = 2,
    prefixes: Sequence[int] = (),
    seed: int = 17,
    told: Callable[[int, dict[str, float]], None] = lambda step, terms: None,
) -> Tensor:
    """Train a projection (dim, h) to keep the ranking of SumMaxSim over the states themselves.

    Args:
        domains: each step draws one, with a probability proportional to the square root of its number of queries.
        start: (dim, h), such as from :func:`principal_axes`.
        weights: weights of the terms.
        steps: number of steps, each with ``batch_size`` queries of one domain.
        batch_size: queries per step, each ranked against the passages of all.
        learning_rate: of Adam, annealed to 0.
        near: passages drawn of each list of look-alikes, a query: half of them from its first ten.
        prefixes: widths below dim that shall serve alone as well; each has the same loss again.
        seed: of every draw.
        told: called every hundred steps and at the end, with the step and the mean of each term over the last hundred.
    """
    weights = weights or ProjectionLoss()
    draw = random.Random(seed)
    torch.manual_seed(seed)
    projection = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([projection], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1, (i + 1) / 20) * 0.5 * (1 + math.cos(math.pi * i / steps))
    )
    shares = [math.sqrt(len(d.queries)) for d in domains]
    recent: dict[str, list[float]] = {}
    for step in range(1, steps + 1):
        terms = _terms(
            draw.choices(domains, shares)[0], projection, (len(start), *prefixes), weights, batch_size, near, draw
        )
        loss = torch.stack([getattr(weights, name) * value for name, value in terms.items()]).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        for name, value in terms.items():
            recent.setdefault(name, []).append(value.item())
        if step % 100 == 0 or step == steps:
            told(step, {name: sum(v[-100:]) / len(v[-100:]) for name, v in recent.items()})
    return projection.detach()


def _terms(
    domain: Ranking,
    projection: Tensor,
    widths: Sequence[int],
    weights: ProjectionLoss,
    batch_size: int,
    near: int,
    draw: random.Random,
) -> dict[str, Tensor]:
    """The terms of the loss on queries drawn from one domain, summed over the widths."""
    chosen = draw.sample(range(len(domain.queries)), min(batch_size, len(domain.queries)))
    column: dict[int, int] = {}
    answer = []
    for query in chosen:
        answer.append(column.setdefault(draw.choice(list(domain.gold[query])), len(column)))
        for found in domain.near[query]:
            close, far = found[:10], found[10:]
            some = draw.sample(close, min(near - near // 2, len(close))) + draw.sample(far, min(near // 2, len(far)))
            for document in some:
                column.setdefault(document, len(column))
    queries, query_mask = domain.queries.padded(chosen)
    documents, document_mask = domain.documents.padded(list(column))
    old_queries, old_documents = F.normalize(queries[query_mask], dim=-1), F.normalize(documents, dim=-1)
    with torch.no_grad():
        target = mean_maxsim(old_queries, query_mask, old_documents, document_mask)
    i, j = torch.randint(len(old_queries), (200,)), torch.randint(int(document_mask.sum()), (1500,))
    old = old_queries[i] @ old_documents[document_mask][j].T
    labelled = torch.tensor([domain.labelled[q] for q in chosen])
    # A question's other right answers are not wrong ones.
    others = torch.zeros_like(target, dtype=torch.bool)
    for row, query in enumerate(chosen):
        others[row, [column[g] for g in domain.gold[query] if column.get(g, answer[row]) != answer[row]]] = True
    projected_queries, projected_documents = old_queries @ projection.T, old_documents @ projection.T
    terms: dict[str, Tensor] = {}
    for width in widths:
        new_queries = F.normalize(projected_queries[:, :width], dim=-1)
        new_documents = F.normalize(projected_documents[..., :width], dim=-1)
        ranking = mean_maxsim(new_queries, query_mask, new_documents, document_mask)
        found_terms = {
            "ranking": F.kl_div(
                torch.log_softmax(ranking * weights.scale, 1),
                torch.log_softmax(target * weights.scale, 1),
                reduction="batchmean",
                log_target=True,
            )
        }
        if weights.tokens:
            new = new_queries[i] @ new_documents[document_mask][j].T
            found_terms["tokens"] = 100 * (new - old).square().mean()
        if weights.answer and labelled.any():
            logits = (20 * ranking).masked_fill(others, -1e4)
            found_terms["answer"] = F.cross_entropy(logits[labelled], torch.tensor(answer)[labelled])
        for name, value in found_terms.items():
            terms[name] = terms[name] + value if name in terms else value
    return terms


def mean_maxsim(tokens: Tensor, query_mask: Tensor, documents: Tensor, document_mask: Tensor) -> Tensor:
    """(B, N) mean MaxSim: SumMaxSim divided by the query's tokens.

    Args:
        tokens: (T, d) unit rows of all queries' tokens, one query after the other.
        query_mask: (B, Lq) bool, with T tokens in all.
        documents: (N, Ld, d) unit rows.
        document_mask: (N, Ld) bool.
    """
    count, length, width = documents.shape
    similar = (tokens @ documents.reshape(-1, width).T).view(-1, count, length)
    maxima = similar.masked_fill(~document_mask, -2.0).amax(2)
    owner = query_mask.nonzero()[:, 0]
    sums = torch.zeros(len(query_mask), count).index_add(0, owner, maxima)
    return sums / query_mask.sum(1, keepdim=True)
