"""The query plan: route, gather, refine, fetch, for queries that are encoded already.

route   the router picks the k tokens worth comparing
gather  they find candidates among the documents that pass the filter, in one of three lanes:
        exhaustive   by their partial SumMaxSim with every document
        approximate  by the centroids near them, and the documents that have a token there
        vector       by the product of one vector of the query with one of each document
refine  full SumMaxSim over all query tokens, weighted by the router, for the candidates alone
fetch   text and metadata of the best

A hybrid search adds the documents of highest BM25 to the candidates, and ranks all by both scores. The lane of words
ranks by BM25 alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.search.bm25 import WordStatistics
from fastlane_rag.search.engines.base import Engine, Scan, Scanned
from fastlane_rag.search.engines.host import HostEngine
from fastlane_rag.search.fusion import fused
from fastlane_rag.search.lanes.approximate import approximate
from fastlane_rag.search.lanes.found import Found
from fastlane_rag.search.lanes.gather import can_gather
from fastlane_rag.search.lanes.ranking import best
from fastlane_rag.search.lanes.vector import by_vector
from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.search.query import EncodedQuery
from fastlane_rag.search.result import STAGES, Hit, Pool, SearchResult, relevance, with_relevance
from fastlane_rag.search.state import SearchState
from fastlane_rag.search.vectors import Guess
from fastlane_rag.types import Document, Lane, RouteK

if TYPE_CHECKING:
    from fastlane_rag.storage.snapshot import Mask
    from fastlane_rag.storage.transactions import View

__all__ = ["answer"]


def answer(
    view: View,
    state: SearchState,
    queries: Sequence[EncodedQuery],
    options: SearchOptions,
    texts: Sequence[str] | None = None,
    engine: Engine | None = None,
    whole: WordStatistics | None = None,
) -> list[SearchResult]:
    """Search for several queries at one commit.

    Args:
        view: of the commit.
        state: of the same commit.
        queries: on the CPU, in the dimensions of the index.
        options: of the search.
        texts: of the queries; a hybrid search and the lane of words need them.
        engine: compares queries with all documents; None for the host's.
        whole: statistics of the words of the collection that the index is a part of; None where it is all of it. With
            them a hybrid search gives its candidates (`SearchResult.pool`), because fusion compares all there are.

    Raises:
        InvalidInputError: the approximate lane was asked for, and cannot run here.
        FilterError: the filter means nothing.
    """
    if options.lane == "approximate" and not can_gather():
        raise InvalidInputError(
            "lane='approximate' needs the compiled kernels, which do not run here: fastlane doctor says why"
        )
    clock = _Clock()
    allowed = state.allowed(view.reader, options.filter)
    plan = _Plan(view, state, options, options.policy or state.policy, allowed, clock, engine or HostEngine(), whole)
    size, filtering = plan.batch_size, clock.lap() / max(1, len(queries))
    asked = [plan.ask(query, None if texts is None else texts[n], filtering) for n, query in enumerate(queries)]
    batches = (asked[first : first + size] for first in range(0, len(asked), size))
    return [result for batch in batches for result in plan.run(batch)]


class _Clock:
    """A stopwatch. One call searches in one thread, so its queries share a clock."""

    def __init__(self) -> None:
        self._last = perf_counter()

    def lap(self) -> float:
        """Milliseconds since the lap before."""
        last, self._last = self._last, perf_counter()
        return 1000 * (self._last - last)


@dataclass(frozen=True, slots=True)
class _Query:
    """A query on its way.

    Attributes:
        routed: the query as it was encoded.
        selected: positions of the tokens that gather.
        rows: (L, dim) float32: its token embeddings, each times its weight. As max_j w Q_i.D_j = w max_j Q_i.D_j, what
            compares them weighs them.
        text: its text, where words count.
        milliseconds: what each stage took.
    """

    routed: EncodedQuery
    selected: torch.Tensor
    rows: torch.Tensor
    text: str | None
    milliseconds: dict[str, float]

    def spend(self, stage: str, milliseconds: float) -> None:
        """Add to what a stage took."""
        self.milliseconds[stage] += milliseconds

    @property
    def gathering(self) -> torch.Tensor:
        """(k, dim) float32: what the routed tokens are compared by."""
        if self.routed.in_context(len(self.selected)):
            return self.routed.compared(self.selected)
        return self.rows[self.selected]


@dataclass(frozen=True)
class _Plan:
    """What all queries of one call share."""

    view: View
    state: SearchState
    options: SearchOptions
    policy: SearchPolicy
    allowed: Mask | None
    clock: _Clock
    engine: Engine
    whole: WordStatistics | None

    @property
    def k(self) -> int:
        """Hits wanted."""
        return self.options.k

    @property
    def refine(self) -> bool:
        """Whether all query tokens score the candidates."""
        return self.options.refine

    @property
    def route_k(self) -> RouteK:
        """How many tokens gather."""
        return self.options.route_k or self.policy.route_k

    @property
    def batch_size(self) -> int:
        """Queries that are gathered together."""
        return self.engine.together(self.policy, int(self.view.snapshot.starts[-1]))

    def ask(self, query: EncodedQuery, text: str | None, filtering: float) -> _Query:
        """Route a query; `filtering` is its share, in milliseconds, of what the filter took."""
        self.clock.lap()
        selected = self.select(query)
        asked = _Query(query, selected, self.weighed(query, len(selected)), text, dict.fromkeys(STAGES, 0.0))
        asked.spend("filter", filtering)
        asked.spend("route", self.clock.lap())
        return asked

    def run(self, queries: Sequence[_Query]) -> list[SearchResult]:
        """Answer a few queries, gathering for all of them together where that shares work."""
        if not self.k or not self.matching:
            self.clock.lap()
            hint = "" if self.matching else self.state.hint(self.view.reader, self.options.filter)
            return [self._result([], query, 0, 0, 0, hint=hint) for query in queries]
        if self.options.lane == "words":
            return [self._words_alone(query) for query in queries]
        if self.options.lane == "approximate" or (self.options.lane is None and self._worth_gathering()):
            return [self._by_vector(query) if self._long(query) else self._approximate(query) for query in queries]
        if self.options.lane == "vector" and self.state.vectors(self.view.reader).any:
            return [self._by_vector(query) for query in queries]
        return self._exhaustive(queries)

    def select(self, query: EncodedQuery) -> torch.Tensor:
        """Positions of the tokens to gather with."""
        if self.route_k == "all":
            return torch.arange(len(query.embeddings))
        return query.select(self.route_k, ordered=False)

    def weighed(self, query: EncodedQuery, routed: int) -> torch.Tensor:
        """The query's rows, times their weights where all tokens score: their weights have the mean 1, no others'."""
        whole = self.refine or routed == len(query.embeddings)
        return query.embeddings * query.weights[:, None] if self.options.weighted and whole else query.embeddings

    @cached_property
    def matching(self) -> int:
        """How many documents there are to rank."""
        if self.allowed is None:
            return int(self.view.snapshot.starts[-1])
        return int(np.count_nonzero(self.allowed))

    def _worth_gathering(self) -> bool:
        """Whether the approximate lane is faster, and what was asked for allows it."""
        coded = any(part.postings is not None for part in self.view.snapshot.parts)
        enough = self.policy.worth_gathering(self.matching, self.k, self.options.depth)
        return coded and enough and self.route_k != "all" and can_gather() and not self.engine.scans_all

    def _long(self, query: _Query) -> bool:
        """Whether so few of a query's tokens gather that the vector of all finds more."""
        free = self.options.lane is None and self.options.route_k is None and self.refine
        return free and len(query.rows) > self.policy.vector_tokens and self.state.vectors(self.view.reader).any

    def _approximate(self, query: _Query) -> SearchResult:
        """Answer one query by way of the centroids."""
        routed = len(query.selected)
        rows = query.rows if self.refine else query.gathering
        vectors = self.state.vectors(self.view.reader) if self.refine else None
        guess = Guess(vectors, rows, self.engine) if vectors and vectors.any else None
        gathering = rows
        if self._routes(query):  # beside vectors, several tokens need not stand for the others
            own = guess is not None and routed > self.policy.context_tokens
            gathering = rows[query.selected] if own else query.gathering
        words, most = self._by_words(query)
        self.clock.lap()
        found = approximate(
            self.state,
            rows,
            gathering,
            self.allowed,
            most,
            nprobe=self.options.nprobe or self.policy.probed(routed),
            depth=self.policy.refined(self.k, self.options.depth),
            policy=self.policy,
            guess=guess,
        )
        return self._gathered(query, found, len(rows), words, "approximate")

    def _by_vector(self, query: _Query) -> SearchResult:
        """Answer one query by way of the documents' vectors: with all its tokens, or as many as the search names."""
        rows = query.rows if self.refine else query.gathering
        some = self.options.route_k not in (None, "all") and self.refine
        gathering = rows[query.selected] if some else rows
        words, most = self._by_words(query)
        self.clock.lap()
        vectors, depth = self.state.vectors(self.view.reader), self.policy.by_vector(self.k, self.options.depth)
        found = by_vector(
            self.state,
            vectors,
            rows,
            gathering,
            self.allowed,
            most,
            depth=depth,
            policy=self.policy,
            multiplier=self.engine,
        )
        return self._gathered(query, found, len(rows), words, "vector")

    def _gathered(
        self, query: _Query, found: Found, tokens: int, words: NDArray[np.float32] | None, lane: Lane
    ) -> SearchResult:
        """Rank what a lane found; where that is too little, gather exhaustively."""
        refining = 1000 * found.scoring_seconds if self.refine else 0.0
        query.spend("gather", self.clock.lap() - refining)
        query.spend("refine", refining)
        if len(found.numbers) - found.added < min(self.k, self.matching):
            return self._exhaustive([query])[0]
        hits = self._ranked(found.numbers, found.scores, tokens, words)
        if self.refine:
            cost = len(found.numbers), found.gathered, found.scored
        else:
            cost = 0, found.gathered + found.scored, 0
        return self._result(hits, query, *cost, found.added, lane)

    def _exhaustive(self, queries: Sequence[_Query]) -> list[SearchResult]:
        """Answer queries together, by comparing their routed tokens with every document."""
        depth = self.policy.candidates(self.k, self.options.depth)
        whole = [self._whole(len(query.rows), len(query.selected), depth) for query in queries]
        answers: dict[int, SearchResult] = {}
        for w in sorted(set(whole)):
            some = [n for n, one in enumerate(whole) if one is w]
            answers |= zip(some, self._scan([queries[n] for n in some], depth, whole=w), strict=True)
        return [answers[n] for n in range(len(queries))]

    def _whole(self, tokens: int, routed: int, depth: int) -> bool:
        """Whether to compare all tokens at once, because gathering and refining would compare no less."""
        matching = self.matching
        return routed == tokens or (
            self.refine and matching * routed + min(depth, matching) * tokens >= matching * tokens
        )

    def _scan(self, queries: Sequence[_Query], depth: int, *, whole: bool) -> list[SearchResult]:
        """Rank by the scores of every document: of the queries' routed tokens, or of all of them."""
        words, most = zip(*(self._by_words(query) for query in queries), strict=True)
        refined, hybrid = self.refine and not whole, any(one is not None for one in words)
        asked = Scan(
            gathering=[query.rows if whole else query.gathering for query in queries],
            refining=[query.rows for query in queries] if refined else None,
            allowed=self.allowed,
            depth=depth if refined or hybrid else self.k,
            also=most,
        )
        found = self.engine.scan(self.state, asked)
        self.clock.lap()
        return [self._scanned(*one, whole=whole, refined=refined) for one in zip(queries, found, words, strict=True)]

    def _scanned(
        self, query: _Query, found: Scanned, words: NDArray[np.float32] | None, *, whole: bool, refined: bool
    ) -> SearchResult:
        """The result of one query from what the engine found."""
        everything = whole and self._routes(query)  # everything was refined, nothing gathered
        query.spend("refine" if everything else "gather", found.gathering_ms)
        query.spend("refine", found.refining_ms)
        tokens = len(query.rows) if whole else len(query.selected)
        gathered, added = found.gathered * tokens, len(found.numbers) - found.own
        hits = self._ranked(found.numbers, found.scores, len(query.rows) if refined else tokens, words)
        if refined:
            return self._result(hits, query, len(found.numbers), gathered, found.refined * len(query.rows), added)
        if everything:
            return self._result(hits, query, self.matching, 0, gathered, added)
        return self._result(hits, query, 0, gathered, 0, added)

    def _routes(self, query: _Query) -> bool:
        """Whether some tokens were to gather and all to refine."""
        return self.refine and len(query.selected) < len(query.rows)

    def _by_words(self, query: _Query) -> tuple[NDArray[np.float32] | None, NDArray[np.int64]]:
        """In a hybrid search, BM25 of every document, and which share most words with the query."""
        if query.text is None:
            return None, np.zeros(0, np.int64)
        self.clock.lap()
        words = self.state.lexical(self.view.reader).scores(query.text, self.allowed, self.whole)
        some = np.where(words > 0, words, np.float32(-np.inf))
        most = best(some, max(self.policy.words_factor * self.k, self.policy.words_least))
        query.spend("words", self.clock.lap())
        return words, most

    def _words_alone(self, query: _Query) -> SearchResult:
        """Answer one query by BM25, with the documents that have a word of it."""
        self.clock.lap()
        lane = self.state.lexical(self.view.reader)
        words, limit = lane.scores_and_limit(query.text or "", self.allowed, self.whole)
        chosen = best(np.where(words > 0, words, np.float32(-np.inf)), self.k)
        query.spend("words", self.clock.lap())
        hits = self._fetch(chosen, words[chosen], lambda score: min(score / limit, 1.0))
        return self._result(hits, query, 0, 0, 0, len(chosen), "words")

    def _ranked(
        self,
        numbers: NDArray[np.int64],
        scores: NDArray[np.float32],
        tokens: int,
        words: NDArray[np.float32] | None,
    ) -> list[Hit] | Pool:
        """The best of some candidates; all of them where others must join before fusion.

        Args:
            numbers: (C,) the candidates.
            scores: (C,) of the query's tokens.
            tokens: of how many.
            words: (N,) what the words of every document score, in a hybrid search.
        """
        if words is not None and self.whole is not None:
            ids = self.view.reader.ids_at(self.view.snapshot.places(numbers))
            return Pool(ids, scores, words[numbers], tokens)
        relevant: Callable[[float], float] = partial(relevance, tokens=tokens)
        if words is not None:
            scores, relevant = fused(scores, words[numbers], tokens, self.options, self.policy)
        chosen = best(scores, self.k)
        return self._fetch(numbers[chosen], scores[chosen], relevant)

    def _fetch(
        self, numbers: NDArray[np.int64], scores: NDArray[np.float32], relevant: Callable[[float], float]
    ) -> list[Hit]:
        """The k best of these documents that pass the threshold, with what the catalogue says of them.

        Ties are broken by id.
        """
        least = self.options.score_threshold
        if least is not None:
            kept = np.array([relevant(score) >= least for score in scores.tolist()], bool)
            numbers, scores = numbers[kept], scores[kept]
        places = self.view.snapshot.places(numbers)
        if len(places) <= self.k:
            hits = (
                _hit(document, score, relevant(score))
                for document, score in zip(self.view.reader.at(places), scores.tolist(), strict=True)
            )
            return sorted(hits, key=lambda hit: (-hit.score, hit.id))
        ids = self.view.reader.ids_at(places)
        order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))[: self.k]
        documents = self.view.reader.at(places[i] for i in order)
        found = scores[order].tolist()
        return [_hit(document, score, relevant(score)) for document, score in zip(documents, found, strict=True)]

    def _result(
        self,
        hits: list[Hit] | Pool,
        query: _Query,
        candidates: int,
        gathered: int,
        refined: int,
        by_words: int = 0,
        lane: Lane = "exhaustive",
        hint: str = "",
    ) -> SearchResult:
        full = len(query.rows) * self.view.snapshot.tokens
        selected = query.selected.tolist()
        query.spend("fetch", self.clock.lap())
        cost = candidates, gathered, refined, full
        pool, hits = (hits, []) if isinstance(hits, Pool) else (None, hits)
        return SearchResult(hits, query.routed, selected, *cost, lane, by_words, query.milliseconds, hint, pool)


def _hit(document: Document, score: float, relevant: float) -> Hit:
    return with_relevance(Hit(document.id, score, document.text, document.metadata), relevant)
