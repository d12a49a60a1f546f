"""The measured constants of planning and gathering, in one place. docs/tuning.md has the evidence for each."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from numbers import Integral, Real

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.types import DEFAULT_ROUTE_K, RouteK

__all__ = ["SearchPolicy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchPolicy:
    """How a search is planned where its options leave the choice open.

    Give one to `FastLaneIndex.create` or `open` for all searches of an index, or to one search, to trade speed for
    quality. `dataclasses.replace(SearchPolicy(), refine_least=200)` changes one value.

    Attributes:
        route_k: query tokens that gather, where a search names no number.
        exhaustive_documents: up to this many documents to rank, the exhaustive lane is used.
        exhaustive_factor: so is it up to this many times k documents.
        candidates_factor: the exhaustive lane refines this many times k candidates.
        candidates_least: it refines at least this many.
        nprobe: centroids each routed token probes in the approximate lane, at least.
        probes: centroids a routed token alone probes, at least; each of k probes this over k to the power of 1.5.
        near_probes: where vectors sift, rows are re-scored at so many of these centroids over the routed tokens, the
            nearest of each token, `nprobe` at least; elsewhere at all of them.
        refine_factor: the approximate lane refines this many times k candidates.
        refine_least: it refines at least this many.
        vector_factor: the vector lane refines this many times k candidates.
        vector_least: it refines at least this many.
        vector_tokens: queries of more tokens than this are answered in the vector lane where documents have vectors,
            unless the search names a lane or how many tokens gather.
        vector_scan: it scans by this many leading dimensions of the vectors, which hold most of what they say.
        vector_whole: and compares whole vectors of this many times as many as it refines.
        vector_graph: segments of this many documents and more get a graph of their vectors (faiss's HNSW) at the first
            search by vectors.
        sift_least: the vectors of at least this many documents are compared, the best by centroid score.
        sift_factor: and of at least this many for each candidate to refine.
        sift_kept: so many of them are re-scored by the routed tokens' near rows, at least.
        sift_each: and so many for each candidate to refine, at least.
        context_tokens: more routed tokens than this are then compared by their own embeddings, not in context.
        sift_tokens: what the scores of routed tokens count beside the vectors: this times the query's tokens, over the
            root of how many are routed.
        rescore_share: where documents have no vectors, and in unrefined searches: of N documents in code, re-score the
            best N divided by this, by centroid score.
        rescore_least: re-score at least this many documents.
        rescore_most: re-score at most this many.
        rescore_tokens: with fewer routed tokens than this, re-score proportionally more documents.
        rescore_comparisons: but at most this many divided by the routed tokens.
        rescore_few: and at most this many, and at most half of the documents.
        rescore_refined: where fewer candidates than this are refined, re-score proportionally fewer documents.
        rescore_each: but at least this many for each candidate to refine.
        words_factor: a hybrid search adds the best of this many times k documents by BM25.
        words_least: it adds at least this many.
        words_weight: what the best BM25 is worth for each query token; other documents get it in proportion.
        rrf_constant: what reciprocal rank fusion adds to ranks.
        rrf_weight: the weight of words in it, where a search names none.
        bm25_k1: BM25's saturation of repeated words.
        bm25_b: BM25's weight of document length.
        batch_queries: queries that the exhaustive lane scores together, at most.
        batch_scores: scores that are held at once for them, at most.
        device_queries: queries that are searched together on a CUDA device, at most.
        device_share: of the memory that is free on a CUDA device, how much documents may take.
        device_graph_after: after so many searches of one query of a shape at a commit, record the next as a CUDA graph.
        gather_block: documents whose posting lists are walked at once, so that their scores stay in a core's cache.
        gather_postings: postings that are worth a thread of their own.
        filters_kept: filters whose matching documents are remembered until the next commit.

    Raises:
        InvalidInputError: a value is not a number, or too small.
    """

    route_k: RouteK = DEFAULT_ROUTE_K
    exhaustive_documents: int = 512
    exhaustive_factor: int = 4
    candidates_factor: int = 10
    candidates_least: int = 256
    nprobe: int = 4
    probes: int = 64
    near_probes: int = 16
    refine_factor: int = 4
    refine_least: int = 96
    vector_factor: int = 4
    vector_least: int = 128
    vector_tokens: int = 128
    vector_scan: int = 128
    vector_whole: int = 16
    vector_graph: int = 500_000
    sift_least: int = 4096
    sift_factor: int = 16
    sift_kept: int = 384
    sift_each: int = 3
    context_tokens: int = 4
    sift_tokens: float = 0.5
    rescore_share: int = 8
    rescore_least: int = 512
    rescore_most: int = 2048
    rescore_tokens: int = 16
    rescore_comparisons: int = 16_384
    rescore_few: int = 4096
    rescore_refined: int = 96
    rescore_each: int = 11
    words_factor: int = 4
    words_least: int = 64
    words_weight: float = 0.15
    rrf_constant: int = 10
    rrf_weight: float = 0.3
    bm25_k1: float = 0.9
    bm25_b: float = 0.4
    batch_queries: int = 32
    batch_scores: int = 1 << 24
    device_queries: int = 256
    device_share: float = 0.8
    device_graph_after: int = 16
    gather_block: int = 1 << 14
    gather_postings: int = 5_000
    filters_kept: int = 16

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "route_k" and isinstance(value, str) and value in ("auto", "all"):
                continue
            # Numbers of numpy are numbers.
            kind, least = (Real, 0) if isinstance(one.default, float) else (Integral, 1)
            number = math.nan
            if isinstance(value, kind) and not isinstance(value, bool):
                number = int(value) if isinstance(value, Integral) else float(value)
            if not least <= number < 2**63:
                raise InvalidInputError(f"{one.name} of a SearchPolicy must be a number from {least}, not {value!r}")
            object.__setattr__(self, one.name, number)

    def candidates(self, k: int, depth: int | None) -> int:
        """Candidates that the exhaustive lane refines for k hits; `depth` is what the search asks for."""
        return max(k, depth or max(self.candidates_factor * k, self.candidates_least))

    def refined(self, k: int, depth: int | None) -> int:
        """Candidates that the approximate lane refines for k hits; `depth` is what the search asks for."""
        return max(k, depth or max(self.refine_factor * k, self.refine_least))

    def by_vector(self, k: int, depth: int | None) -> int:
        """Candidates that the vector lane refines for k hits."""
        return max(k, depth or max(self.vector_factor * k, self.vector_least))

    def sifted(self, refined: int) -> int:
        """Documents whose vectors are compared where so many candidates will be refined."""
        return max(self.sift_least, self.sift_factor * refined)

    def kept(self, refined: int) -> int:
        """Of these documents, those that are re-scored."""
        return max(self.sift_kept, self.sift_each * refined)

    def near(self, routed: int) -> int:
        """Of the centroids that each of this many routed tokens probes, those looked at for rows beside vectors."""
        return max(self.nprobe, self.near_probes // max(routed, 1))

    def probed(self, routed: int) -> int:
        """Centroids that each of this many routed tokens probes."""
        return max(self.nprobe, int(self.probes / max(routed, 1) ** 1.5))

    def rescored(self, documents: int, routed: int, refined: int) -> int:
        """Documents to re-score by the codes of their tokens near the probed centroids.

        Args:
            documents: of the codec.
            routed: tokens.
            refined: candidates that will be refined.
        """
        least = max(self.rescore_least, min(documents // self.rescore_share, self.rescore_most))
        wanted = min(self.rescore_tokens * least, self.rescore_comparisons) // routed
        most = max(least, min(self.rescore_few, documents // 2, wanted))
        return max(refined, min(most, max(most * refined // self.rescore_refined, self.rescore_each * refined)))

    def worth_gathering(self, matching: int, k: int, depth: int | None) -> bool:
        """Whether the approximate lane is faster than the exhaustive one for this many documents to rank."""
        return matching > max(self.exhaustive_documents, self.exhaustive_factor * max(k, depth or 0))
