"""What a search gives: hits, and what finding them took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fastlane_rag.errors import FastLaneError
from fastlane_rag.types import Lane

if TYPE_CHECKING:
    from fastlane_rag.explain import Explanation
    from fastlane_rag.search.query import EncodedQuery

__all__ = ["STAGES", "Hit", "SearchResult", "remember"]

STAGES = ("filter", "route", "gather", "words", "refine", "fetch")
"""The stages of a search, in the order they run; `words` is BM25, which only a hybrid search needs."""


class _Explained:
    """What a hit knows of its search: a slot and no field, so no part of equality, repr, copies and pickles."""

    __slots__ = ("_explain",)


@dataclass(frozen=True, slots=True)
class Hit(_Explained):
    """One search result.

    Attributes:
        id: the document's id.
        score: SumMaxSim (or the routed score when not refined), of a hybrid search plus what `search` says
            for words; higher is better.
        text: the document's text as it was added.
        metadata: the document's metadata, a copy the caller may change.
    """

    id: str
    score: float
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)

    def explain(self) -> Explanation:
        """Which query tokens were routed, and what each matched in the text, as character spans.

        Computed when called, by encoding the query and the text once more.

        Raises:
            FastLaneError: the hit does not come from a search, or was copied or pickled since.
            ModelError: the model cannot say where its tokens are.
        """
        explain: Callable[[str], Explanation] | None = getattr(self, "_explain", None)
        if explain is None:
            raise FastLaneError(
                f"the hit {self.id!r} does not know its search, because it was copied, pickled or made by hand; "
                "index.explain(query, hit) explains it"
            )
        return explain(self.text)


def remember(hit: Hit, explain: Callable[[str], Explanation]) -> None:
    """Give a hit what its `explain` calls with its text."""
    object.__setattr__(hit, "_explain", explain)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """One query's hits, and what they cost: comparisons of a query token with a document token, and milliseconds.

    Attributes:
        hits: best first.
        routed: the query's embeddings and router scores.
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
    """

    hits: list[Hit]
    routed: EncodedQuery
    selected: list[int]
    candidates: int
    gathered: int
    refined: int
    full: int
    lane: Lane
    by_words: int = 0
    milliseconds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0), compare=False)

    @property
    def comparisons(self) -> int:
        """Gathered and refined."""
        return self.gathered + self.refined
