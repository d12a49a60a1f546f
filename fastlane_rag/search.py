"""The query plan: encode, route, gather, refine, fetch.

encode  one forward pass gives a query's token embeddings and the router's scores
route   the router picks the k tokens worth comparing
gather  they find candidates among the documents that pass the filter, in one of two lanes:
        exhaustive   by their partial SumMaxSim with every document
        approximate  by the centroids near them, and the documents that have a token there
refine  full SumMaxSim over all query tokens, for the candidates alone
fetch   text and metadata of the best

A hybrid search adds the documents of highest BM25 to the candidates, and ranks all by both scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.index.fusion import fuse
from fastlane_rag.index.inputs import check_count, check_texts
from fastlane_rag.index.lanes import approximate, best, exhaustive, rescore, union
from fastlane_rag.index.postings import can_gather
from fastlane_rag.types import Document, Hit

if TYPE_CHECKING:
    import torch

    from fastlane_rag.index import FastLaneIndex
    from fastlane_rag.index.filters import Filter
    from fastlane_rag.index.snapshot import Mask
    from fastlane_rag.index.storage import View
    from fastlane_rag.model import RoutedQuery

__all__ = [
    "DEFAULT_ROUTE_K",
    "GATHER_FACTOR",
    "GATHER_LEAST",
    "Lane",
    "RouteK",
    "SearchResult",
    "search_many",
]

RouteK = int | Literal["auto", "all"]
"""How many query tokens gather: a number, the router's own choice, or every token, which needs no refining."""

Lane = Literal["exhaustive", "approximate"]

# In the approximate lane a token costs little, the walk of a few posting lists: of exhaustive search's nDCG@10 on
# scifact 16 tokens keep 99.5%, 8 keep 98%. One default for both lanes, so that the planner changes no explanation.
DEFAULT_ROUTE_K: RouteK = 16
# Candidates to refine: this many times k, and at least that many.
GATHER_FACTOR = 10
GATHER_LEAST = 256
# The approximate lane: centroids each routed token probes.
NPROBE = 4
# Few tokens probe more centroids each, this many together: on dev queries of scifact and medquad one token finds .66
# and .72 so instead of .58 and .68, two .70 and .76 instead of .69 and .75.
PROBES = 32
# Candidates it refines: this many times k, and at least that many, or of few tokens that many together, because they
# sort less well. Measured on dev queries of scifact, medquad, nq_gold_mix, fairytaleqa and arxiv_title: 64 lose half a
# point on scifact, and from 16 tokens more than 96 find nothing on any.
DEPTH_FACTOR = 4
DEPTH_LEAST = 96
DEPTH_TOKENS = 256
# A hybrid search adds this many times k documents, and at least that many: those of highest BM25.
WORDS_FACTOR = 4
WORDS_LEAST = 64
# So few documents, or so many times k, are scored exhaustively in less time.
_WORTH_GATHERING = 512
_WORTH_FACTOR = 4
# Queries are gathered together, as many as keep their scores of every document within this many numbers.
_BATCH_SCORES = 1 << 24
_BATCH_MOST = 32


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One query's hits, and what they cost in comparisons of a query token with a document token.

    Attributes:
        hits: best first.
        routed: the query's embeddings and router scores.
        selected: positions of the query tokens that gathered.
        candidates: documents that were refined, or would have been.
        gathered: comparisons of the gather. In the approximate lane these are comparisons of the routed tokens with
            the codec's centroids, and with the document tokens near them.
        refined: comparisons of the refinement, those of the other query tokens with the centroids included.
        full: what SumMaxSim of all query tokens with every live document takes.
        lane: how candidates were gathered.
        by_words: candidates of a hybrid search that its words alone brought.
    """

    hits: list[Hit]
    routed: RoutedQuery
    selected: list[int]
    candidates: int
    gathered: int
    refined: int
    full: int
    lane: Lane
    by_words: int = 0

    @property
    def comparisons(self) -> int:
        """Gathered and refined."""
        return self.gathered + self.refined


def search_many(
    index: FastLaneIndex,
    queries: Sequence[str] | Sequence[RoutedQuery],
    k: int = 10,
    *,
    filter: Filter | None = None,
    route_k: RouteK | None = None,
    refine: bool = True,
    lane: Lane | None = None,
    nprobe: int | None = None,
    depth: int | None = None,
    hybrid: bool = False,
    texts: Sequence[str] | None = None,
) -> list[SearchResult]:
    """Search an index for several queries at one commit, and report what it took.

    Args:
        index: to search.
        queries: texts, or queries the index's model has encoded.
        k: hits a query; min(k, matching documents) are returned.
        filter: only documents whose metadata pass are ranked.
        route_k: query tokens to gather with; None for the default.
        refine: False ranks by the routed tokens alone.
        lane: how to gather, for measurements; None chooses by what there is to rank. Documents that are not in code
            are always gathered exhaustively, and so is everything where the approximate lane finds fewer than k.
        nprobe: centroids each routed token probes in the approximate lane; None for the default, at least 4 and more
            for few tokens.
        depth: candidates to refine; None for the default, which grows with k.
        hybrid: rank by words as well, see `FastLaneIndex.search`.
        texts: of queries that come encoded; a hybrid search needs them.

    Raises:
        InvalidInputError: k, a knob or a query is not what it must be.
        FilterError: the filter means nothing.
    """
    k = check_count(k)
    _check_route_k(route_k)
    _check_knobs(lane, nprobe, depth)
    words = _texts(queries, texts) if hybrid else None
    routed = _encoded(index, queries)
    with index._storage.view() as view:
        allowed = view.allowed(filter)
        plan = _Plan(view, allowed, k, route_k or DEFAULT_ROUTE_K, refine, lane, nprobe, depth)
        size = max(1, min(_BATCH_MOST, _BATCH_SCORES // max(1, int(view.snapshot.starts[-1]))))
        asked = [
            _Query(query, plan.select(query), None if words is None else words[n]) for n, query in enumerate(routed)
        ]
        batches = (asked[first : first + size] for first in range(0, len(asked), size))
        return [result for batch in batches for result in plan.run(batch)]


@dataclass(frozen=True, slots=True)
class _Query:
    """A query, the positions of its tokens that gather, and its text where words count."""

    routed: RoutedQuery
    selected: torch.Tensor
    text: str | None

    @property
    def rows(self) -> torch.Tensor:
        """(L, dim) float32."""
        return self.routed.embeddings

    @property
    def gathering(self) -> torch.Tensor:
        """(k, dim) float32: what the routed tokens are compared by."""
        return self.routed.compared(self.selected)


@dataclass(frozen=True)
class _Plan:
    """What all queries of one call share."""

    view: View
    allowed: Mask | None
    k: int
    route_k: RouteK
    refine: bool
    lane: Lane | None
    nprobe: int | None
    depth: int | None

    def run(self, queries: Sequence[_Query]) -> list[SearchResult]:
        """Answer a few queries, gathering for all of them together where that shares work."""
        if not self.k or not self.matching:
            return [self._result([], query, 0, 0, 0) for query in queries]
        if self.lane == "approximate" or (self.lane is None and self._worth_gathering()):
            return [self._approximate(query) for query in queries]
        return self._exhaustive(queries)

    def select(self, query: RoutedQuery) -> torch.Tensor:
        """Positions of the tokens to gather with."""
        if self.route_k == "all":
            import torch

            return torch.arange(len(query.embeddings))
        return query.select(self.route_k, ordered=False)

    @cached_property
    def matching(self) -> int:
        """How many documents there are to rank."""
        if self.allowed is None:
            return int(self.view.snapshot.starts[-1])
        return int(np.count_nonzero(self.allowed))

    def _worth_gathering(self) -> bool:
        """Whether the approximate lane is faster, and what was asked for allows it."""
        coded = any(part.postings is not None for part in self.view.snapshot.parts)
        enough = self.matching > max(_WORTH_GATHERING, _WORTH_FACTOR * max(self.k, self.depth or 0))
        return coded and enough and self.route_k != "all" and can_gather()

    def _approximate(self, query: _Query) -> SearchResult:
        """Answer one query by way of the centroids."""
        routed = len(query.selected)
        rows = query.rows
        gathering: torch.Tensor | NDArray[np.int64] = query.selected.numpy()
        if not self.refine:
            rows, gathering = query.gathering, np.arange(routed)
        elif query.routed.in_context(routed):
            gathering = query.gathering
        depth = max(self.k, self.depth or max(DEPTH_FACTOR * self.k, DEPTH_LEAST, DEPTH_TOKENS // max(routed, 1)))
        knobs = {"nprobe": self.nprobe or max(NPROBE, PROBES // max(routed, 1)), "depth": depth}
        words, most = self._by_words(query)
        found = approximate(self.view.snapshot, rows, gathering, self.allowed, most, **knobs)
        if len(found.numbers) - found.added < min(self.k, self.matching):
            return self._exhaustive([query])[0]
        hits = self._ranked(found.numbers, found.scores, len(rows), words)
        if self.refine:
            cost = len(found.numbers), found.gathered, found.scored
        else:
            cost = 0, found.gathered + found.scored, 0
        return self._result(hits, query, *cost, found.added, "approximate")

    def _exhaustive(self, queries: Sequence[_Query]) -> list[SearchResult]:
        """Answer queries together, by comparing their routed tokens with every document."""
        depth = max(self.k, self.depth or max(GATHER_FACTOR * self.k, GATHER_LEAST))
        whole = [self._whole(len(query.rows), len(query.selected), depth) for query in queries]
        rows = [query.rows if w else query.gathering for query, w in zip(queries, whole, strict=True)]
        scores, met = exhaustive(self.view.snapshot, rows, self.allowed)
        return [
            self._scanned(query, row, met, depth, whole=w) for query, row, w in zip(queries, scores, whole, strict=True)
        ]

    def _whole(self, tokens: int, routed: int, depth: int) -> bool:
        """Whether to compare all tokens at once, because gathering and refining would compare no less."""
        matching = self.matching
        return routed == tokens or (
            self.refine and matching * routed + min(depth, matching) * tokens >= matching * tokens
        )

    def _scanned(
        self, query: _Query, scores: NDArray[np.float32], met: int, depth: int, *, whole: bool
    ) -> SearchResult:
        """Rank by the scores of every document: of the query's routed tokens, or of all of them."""
        gathered = met * (len(query.rows) if whole else len(query.selected))
        words, most = self._by_words(query)
        if self.refine and not whole:
            own = best(scores, depth)
            candidates = union(own, most)
            refined, seen = rescore(self.view.snapshot, query.rows, candidates)
            hits = self._ranked(candidates, refined, len(query.rows), words)
            added = len(candidates) - len(own)
            return self._result(hits, query, len(candidates), gathered, seen * len(query.rows), added)
        own = best(scores, self.k if words is None else depth)
        candidates = union(own, most)
        tokens, added = len(query.rows) if whole else len(query.selected), len(candidates) - len(own)
        hits = self._ranked(candidates, scores[candidates], tokens, words)
        if self.refine and len(query.selected) < len(query.rows):  # everything was refined, nothing gathered
            return self._result(hits, query, self.matching, 0, gathered, added)
        return self._result(hits, query, 0, gathered, 0, added)

    def _by_words(self, query: _Query) -> tuple[NDArray[np.float32] | None, NDArray[np.int64]]:
        """In a hybrid search, BM25 of every document, and which share most words with the query."""
        if query.text is None:
            return None, np.zeros(0, np.int64)
        words = self.view.lexical().scores(query.text, self.allowed)
        some = np.where(words > 0, words, np.float32(-np.inf))
        return words, best(some, max(WORDS_FACTOR * self.k, WORDS_LEAST))

    def _ranked(
        self,
        numbers: NDArray[np.int64],
        scores: NDArray[np.float32],
        tokens: int,
        words: NDArray[np.float32] | None,
    ) -> list[Hit]:
        """The best of some candidates.

        Args:
            numbers: (C,) the candidates.
            scores: (C,) of the query's tokens.
            tokens: of how many.
            words: (N,) what the words of every document score, in a hybrid search.
        """
        if words is not None:
            scores = fuse(scores, words[numbers], tokens)
        chosen = best(scores, self.k)
        return self._fetch(numbers[chosen], scores[chosen])

    def _fetch(self, numbers: NDArray[np.int64], scores: NDArray[np.float32]) -> list[Hit]:
        """The k best of these documents, ties broken by id, with what the catalogue says of them."""
        places = self.view.snapshot.places(numbers)
        if len(places) <= self.k:
            hits = map(_hit, self.view.reader.at(places), scores.tolist())
            return sorted(hits, key=lambda hit: (-hit.score, hit.id))
        ids = self.view.reader.ids_at(places)
        order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))[: self.k]
        documents = self.view.reader.at(places[i] for i in order)
        return [_hit(document, float(scores[i])) for i, document in zip(order, documents, strict=True)]

    def _result(
        self,
        hits: list[Hit],
        query: _Query,
        candidates: int,
        gathered: int,
        refined: int,
        by_words: int = 0,
        lane: Lane = "exhaustive",
    ) -> SearchResult:
        full = len(query.rows) * self.view.snapshot.tokens
        selected = query.selected.tolist()
        return SearchResult(hits, query.routed, selected, candidates, gathered, refined, full, lane, by_words)


def _hit(document: Document, score: float) -> Hit:
    return Hit(document.id, score, document.text, document.metadata)


def _encoded(index: FastLaneIndex, queries: Sequence[str] | Sequence[RoutedQuery]) -> list[RoutedQuery]:
    if isinstance(queries, str) or not all(hasattr(query, "embeddings") for query in queries):
        queries = index.model.encode_routed(check_texts(cast("Sequence[str]", queries), "queries"))
    return [_checked(query, index.dim) for query in cast("Sequence[RoutedQuery]", queries)]


def _texts(queries: Sequence[str] | Sequence[RoutedQuery], texts: Sequence[str] | None) -> list[str]:
    """The queries as texts."""
    if texts is None:
        if not all(isinstance(query, str) for query in queries):
            raise InvalidInputError("hybrid=True ranks by words too: give the texts of encoded queries as texts=[...]")
        texts = cast("Sequence[str]", queries)
    found = check_texts(texts, "texts")
    if len(found) != len(queries):
        raise InvalidInputError(f"{len(queries)} queries but {len(found)} texts")
    return found


def _checked(query: RoutedQuery, dim: int) -> RoutedQuery:
    """The query on the CPU, where the index is."""
    found = query.embeddings.shape[-1]
    if found != dim:
        raise InvalidInputError(f"the query has {found} dimensions, the index {dim}")
    if not math.isfinite(float(query.embeddings.sum())):  # one NaN or infinity is enough, two may make a NaN
        raise InvalidInputError("the query's embeddings hold NaN or infinite values")
    return query.to_cpu()


def _check_route_k(route_k: RouteK | None) -> None:
    number = isinstance(route_k, int) and not isinstance(route_k, bool) and route_k >= 1
    if route_k is not None and route_k not in ("auto", "all") and not number:
        raise InvalidInputError(f"route_k must be a number from 1, 'auto', 'all' or None, not {route_k!r}")


def _check_knobs(lane: Lane | None, nprobe: int | None, depth: int | None) -> None:
    if lane not in (None, "exhaustive", "approximate"):
        raise InvalidInputError(f"lane must be 'exhaustive', 'approximate' or None, not {lane!r}")
    for name, value in (("nprobe", nprobe), ("depth", depth)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidInputError(f"{name} must be a number from 1 or None, not {value!r}")
    if lane == "approximate" and not can_gather():
        raise InvalidInputError(
            "lane='approximate' needs the compiled kernels, which do not run here: fastlane doctor says why"
        )
