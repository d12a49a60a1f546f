"""What a search gives: hits, and what finding them took."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastlane_rag.errors import FastLaneError
from fastlane_rag.lengths import warn_caller
from fastlane_rag.types import Lane

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastlane_rag.explain import Explanation
    from fastlane_rag.search.query import EncodedQuery

__all__ = ["STAGES", "Hit", "Pool", "SearchResult", "relevance", "remember", "warn_of_hints", "with_relevance"]

STAGES = ("filter", "route", "gather", "words", "refine", "fetch")
"""The stages of a search, in the order they run; `words` is BM25, which only a hybrid search needs."""


class _Explained:
    """What a hit knows of its search: slots and no fields, so no part of equality and repr."""

    __slots__ = ("_explain", "_relevance")


@dataclass(frozen=True, slots=True)
class Hit(_Explained):
    """One search result.

    Attributes:
        id: the document's id.
        score: SumMaxSim (or the routed score when not refined); what `hybrid` and `fusion` say of a hybrid search;
            BM25 in the lane of words. Higher is better.
        text: the document's text as it was added.
        metadata: the document's metadata, a copy the caller may change.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def relevance(self) -> float:
        """The score on a scale from 0 to 1 that allows comparison across queries.

        Of SumMaxSim, hybrid or not, it is the mean score a query token, moved from [-1, 1] to [0, 1]; of reciprocal
        ranks the share of what rank 1 in both gives; of BM25 the share of what repeating the query's words without end
        would reach. Copies and pickles keep it; a hit made by hand has 0.
        """
        return float(getattr(self, "_relevance", 0.0))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.id, self.score, self.text, self.metadata, self.relevance)

    def explain(self) -> Explanation:
        """Which query tokens were routed, and what each matched in the text, as character spans.

        Computed when called, by encoding the query and the text once more.

        Raises:
            FastLaneError: the hit does not come from a search that encodes its query, or was copied or pickled since.
            ModelError: the model cannot say where its tokens are.
        """
        explain: Callable[[str], Explanation] | None = getattr(self, "_explain", None)
        if explain is None:
            raise FastLaneError(
                f"the hit {self.id!r} does not know its search: it was copied, pickled, made or found by words; "
                "index.explain(query, hit) explains it"
            )
        return explain(self.text)


def relevance(score: float, tokens: int) -> float:
    """The score's mean over `tokens` query tokens, mapped from [-1, 1] to [0, 1] and clipped."""
    return min(max((score / tokens + 1) / 2, 0.0), 1.0)


def with_relevance(hit: Hit, relevance: float) -> Hit:
    """Give a hit its relevance, and the hit back."""
    object.__setattr__(hit, "_relevance", relevance)
    return hit


def _made(id_: str, score: float, text: str, metadata: dict[str, Any], relevant: float) -> Hit:
    """What copying and unpickling call."""
    return with_relevance(Hit(id_, score, text, metadata), relevant)


def warn_of_hints(results: Iterable[SearchResult]) -> None:
    """Warn of each filter that matched nothing, with what its keys or types tell, at the line that called."""
    for hint in {result.hint for result in results if result.hint}:
        warn_caller(f"nothing matches the filter: {hint}")


def remember(hit: Hit, explain: Callable[[str], Explanation]) -> None:
    """Give a hit what its `explain` calls with its text."""
    object.__setattr__(hit, "_explain", explain)


@dataclass(frozen=True, slots=True)
class Pool:
    """The candidates of a hybrid search before fusion, from an index that is a part of a larger collection.

    Attributes:
        ids: of the C candidates.
        scores: (C,) float32 SumMaxSim.
        words: (C,) float32 BM25.
        tokens: query tokens that `scores` is of.
    """

    ids: list[str]
    scores: NDArray[np.float32]
    words: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One query's hits, and what they cost: comparisons of a query token with a document token, and milliseconds.

    Attributes:
        hits: best first.
        routed: the query's embeddings and router scores; none in the lane of words.
        selected: positions of the query tokens that gathered.
        candidates: documents that were refined, or would have been.
        gathered: comparisons of the gather. In the approximate lane these are comparisons of the routed tokens with
            the codec's centroids, and with the document tokens near them; in the vector lane, of vectors.
        refined: comparisons of the refinement, those of the other query tokens with the centroids included.
        full: what SumMaxSim of all query tokens with every live document takes.
        lane: how candidates were gathered.
        by_words: candidates of a hybrid search that its words alone brought.
        milliseconds: wall-clock time of each of `STAGES`; 0 where a stage did not run. Encoding the query is not
            included. Queries of one call that share a stage each get an equal part of its time.
        hint: why the filter matched nothing, where its keys or the types of its values tell; empty otherwise.
        pool: the candidates instead of hits, of a hybrid search in a part of a collection; None otherwise.
    """

    hits: list[Hit]
    routed: EncodedQuery = field(compare=False)
    selected: list[int]
    candidates: int
    gathered: int
    refined: int
    full: int
    lane: Lane
    by_words: int = 0
    milliseconds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0), compare=False)
    hint: str = ""
    pool: Pool | None = field(default=None, compare=False, repr=False)

    @property
    def comparisons(self) -> int:
        """Gathered and refined."""
        return self.gathered + self.refined

    def summary(self) -> dict[str, Any]:
        """What the search took, for events and logs: lane, hits, candidates, comparisons and milliseconds, as JSON."""
        return {
            "lane": self.lane,
            "hits": len(self.hits),
            "candidates": self.candidates,
            "comparisons": self.comparisons,
            "milliseconds": dict(self.milliseconds),
            **({"hint": self.hint} if self.hint else {}),
        }
