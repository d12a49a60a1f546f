"""What explains hits and documents, wherever they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.explain import Explanation, explain, explain_image
from fastlane_rag.index.checks import check_explained
from fastlane_rag.search.result import Hit, remember
from fastlane_rag.types import IMAGE_KEY, Document, RouteK

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.search.options import SearchOptions
    from fastlane_rag.search.policy import SearchPolicy
    from fastlane_rag.search.query import EncodedQuery
    from fastlane_rag.search.result import SearchResult

__all__ = ["evidence_of", "explained", "give_evidence"]


def evidence_of(
    model: FastLaneModel, query: str, route_k: RouteK | None, policy: SearchPolicy, *, weighted: bool
) -> Callable[..., Explanation]:
    """What explains a text for a query, or with `image=` an image. It keeps the model alive, and no index.

    Args:
        model: of the index.
        query: the query.
        route_k: how many tokens are routed; None for what the policy says.
        policy: of the search.
        weighted: whether the router's weights count.
    """
    chosen = policy.route_k if route_k is None else route_k
    return partial(_of_kind, model, query, route_k=None if chosen == "all" else chosen, weighted=weighted)


def give_evidence(
    model: Callable[[], FastLaneModel],
    queries: Sequence[str] | Sequence[EncodedQuery],
    results: Iterable[SearchResult],
    told: SearchOptions,
    policy: SearchPolicy,
) -> None:
    """Let the hits of queries that are texts explain themselves; those of the lane of words have nothing to say.

    Args:
        model: gives the model, where it is needed.
        queries: one for each result.
        results: of one call.
        told: the call's options.
        policy: of the index.
    """
    for query, result in zip(queries, results, strict=True):
        if isinstance(query, str) and told.lane != "words":
            evidence = evidence_of(model(), query, told.route_k, told.policy or policy, weighted=told.weighted)
            for hit in result.hits:
                remember(hit, partial(evidence, image=hit.metadata.get(IMAGE_KEY)))


def explained(
    model: FastLaneModel,
    get: Callable[[list[str]], list[Document]],
    query: str,
    hit: Hit | str,
    route_k: RouteK | None,
    policy: SearchPolicy,
    *,
    weighted: bool,
) -> Explanation:
    """The explanation of a hit, or of the document with an id, which `get` reads.

    Raises:
        InvalidInputError: no document has this id, or an argument is not what it must be.
    """
    query, told = check_explained(query, hit, route_k, weighted)
    document: Hit | Document
    if isinstance(hit, str):
        found = get([hit])
        if not found:
            raise InvalidInputError(f"the index holds no document with the id {hit!r}")
        document = found[0]
    else:
        document = hit
    image = document.metadata.get(IMAGE_KEY)
    return evidence_of(model, query, told.route_k, policy, weighted=told.weighted)(document.text, image=image)


def _of_kind(model: FastLaneModel, query: str, text: str, *, image: object = None, **options: Any) -> Explanation:
    if isinstance(image, str) and getattr(model, "takes_images", False):
        return explain_image(model, query, image, text, **options)
    return explain(model, query, text, **options)
