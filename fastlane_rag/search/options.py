"""What a search can be told: every option once, with its default, its check and its documentation.

`SearchOptions` is the list. Searches, adapters and the command line take options as keyword arguments, make one
`SearchOptions` of them, and pass it on. A new option is a field there, and its type in `RankingKeywords`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from numbers import Real
from typing import Any, Literal, Self, TypedDict, cast, get_args

import numpy as np

from fastlane_rag.errors import FilterError, InvalidInputError, UnknownOptionError
from fastlane_rag.lengths import unique_keys
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.filters import AllOf, DocumentFilter, Filter, all_of
from fastlane_rag.types import Fusion, Lane, RouteK, whole_number

__all__ = [
    "RankingKeywords",
    "SearchKeywords",
    "SearchOptions",
    "about",
    "call_filter",
    "check_count",
    "check_flag",
    "check_keywords",
    "check_policy",
    "check_seconds",
    "check_share",
    "check_weight",
    "parse_filter",
    "parse_route_k",
]


# Locks wait no longer than their clocks can count, and a hundred years are for ever.
_LONGEST_SECONDS = 100 * 365 * 86400.0


class RankingKeywords(TypedDict, total=False):
    """The options but `k` and `filter` as keyword arguments, for type checkers."""

    route_k: RouteK | None
    refine: bool
    weighted: bool
    lane: Lane | None
    nprobe: int | None
    depth: int | None
    hybrid: bool | float
    fusion: Fusion
    score_threshold: float | None
    policy: SearchPolicy | None


class SearchKeywords(RankingKeywords, total=False):
    """The options but `k` as keyword arguments, for type checkers. A test holds it against `SearchOptions`."""

    filter: Filter | None


def check_count(value: Any, name: str = "k") -> int:
    """A whole number, 0 or more.

    Raises:
        InvalidInputError: anything else.
    """
    number = whole_number(value)
    if number is None or number < 0:
        raise InvalidInputError(f"{name} must be a whole number, 0 or more, not {value!r}")
    return number


def _check_filter(value: Any, name: str) -> Filter | None:
    """What may be a filter; what is wrong in it is told where it is compiled."""
    if value is None or callable(value) or isinstance(value, Mapping | AllOf | DocumentFilter):
        return cast("Filter | None", value)
    raise FilterError(f"a filter is a dict like {{'lang': 'en'}}, not {value!r}")


def _check_route_k(value: Any, name: str) -> RouteK | None:
    if value is None or (isinstance(value, str) and value in ("auto", "all")):
        return cast("RouteK | None", value)
    number = whole_number(value)
    if number is None or number < 1:
        raise InvalidInputError(f"{name} must be a number from 1, 'auto', 'all' or None, not {value!r}")
    return number


def check_flag(value: Any, name: str) -> bool:
    """True or False.

    Raises:
        InvalidInputError: anything else.
    """
    if isinstance(value, Real | np.bool_) and value in (True, False):
        return bool(value)
    raise InvalidInputError(f"{name} must be True or False, not {value!r}")


def check_keywords(given: Iterable[str], known: Sequence[str], of: str) -> None:
    """Check that keyword arguments are known.

    Raises:
        UnknownOptionError: one is not; the message names the nearest one that is.
    """
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; it takes {', '.join(known) or 'none'}"
            raise UnknownOptionError(f"{name!r} is an unexpected keyword argument of {of}{hint}")


def call_filter(own: Filter | None, given: Filter | None, *, override: bool) -> Filter | None:
    """The filter of one call to what has a filter of its own, which may keep tenants apart: both are applied.

    Args:
        own: of the retriever.
        given: with the call.
        override: `override_filter=True`: the given one alone.

    Raises:
        InvalidInputError: there is none to replace the own one with.
    """
    if not check_flag(override, "override_filter"):
        return all_of(own, given)
    if given is None:
        raise InvalidInputError("override_filter=True needs the filter to use instead; filter={} passes all documents")
    return given


def _check_lane(value: Any, name: str) -> Any:
    if value is None or (isinstance(value, str) and value in get_args(Lane)):
        return value
    raise InvalidInputError(f"{name} must be {', '.join(map(repr, get_args(Lane)))} or None, not {value!r}")


def _check_fusion(value: Any, name: str) -> Any:
    if isinstance(value, str) and value in get_args(Fusion):
        return value
    raise InvalidInputError(f"{name} must be 'relative' or 'rrf', not {value!r}")


def check_share(value: Any, name: str) -> float | None:
    """A number from 0 to 1, or None.

    Raises:
        InvalidInputError: anything else.
    """
    number = _real(value)
    if value is not None and (number is None or not 0 <= number <= 1):
        raise InvalidInputError(f"{name} must be a number from 0 to 1 or None, not {value!r}")
    return number


def check_weight(value: Any, name: str) -> float:
    """A number from 0 to 1.

    Raises:
        InvalidInputError: anything else.
    """
    number = _real(value)
    if number is None or not 0 <= number <= 1:
        raise InvalidInputError(f"{name} must be a number from 0 to 1, not {value!r}")
    return number


def _check_hybrid(value: Any, name: str) -> bool | float:
    if isinstance(value, bool | np.bool_):
        return bool(value)
    number = _real(value)
    if number is None or not 0 <= number <= 1:
        raise InvalidInputError(f"{name} must be True, False or the words' weight, above 0 and up to 1, not {value!r}")
    return number or False


def _check_knob(value: Any, name: str) -> int | None:
    if value is None:
        return None
    number = whole_number(value)
    if number is None or number < 1:
        raise InvalidInputError(f"{name} must be a number from 1 or None, not {value!r}")
    return number


def check_policy(value: Any, name: str = "policy") -> SearchPolicy | None:
    """The constants of planning, or None.

    Raises:
        InvalidInputError: anything else.
    """
    if value is None or isinstance(value, SearchPolicy):
        return value
    raise InvalidInputError(f"{name} must be a SearchPolicy or None, not {value!r}")


def check_seconds(value: Any, name: str = "timeout") -> float:
    """A time in seconds, 0 or more.

    Raises:
        InvalidInputError: anything else.
    """
    number = _real(value)
    if number is None or not number >= 0:
        raise InvalidInputError(f"{name} must be a number of seconds, 0 or more, not {value!r}")
    return min(number, _LONGEST_SECONDS)


def _real(value: Any) -> float | None:
    """The value as a float, numpy's numbers included; None for anything else."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf if cast("int", value) > 0 else -math.inf


def parse_route_k(text: str) -> RouteK:
    """A number above 0, "auto" or "all", from the command line.

    Raises:
        ValueError: anything else.
    """
    if text in ("auto", "all"):
        return cast('Literal["auto", "all"]', text)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is neither a number above 0, nor 'auto', nor 'all'")
    return int(text)


def _parse_number(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no whole number")
    return int(text)


def _parse_real(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no number") from error


def parse_filter(text: str) -> dict[str, Any]:
    """A filter from its JSON.

    Raises:
        ValueError: the text is no JSON object, or has a key twice, of which one would be lost.
    """
    try:
        parsed = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise ValueError(f"{text!r} is not JSON: {error.msg} at column {error.colno}") from error
    except ValueError as error:
        raise ValueError(f"{text!r} {error}; $and takes several conditions on one") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{text!r} is no JSON object")
    return parsed


def about(help: str, check: Callable[[Any, str], Any], parse: Callable[[str], Any] | None = None) -> dict[str, Any]:
    """What an option's field says of it.

    Args:
        help: what it does, in one sentence.
        check: gives its value in the form searches use, or raises InvalidInputError.
        parse: its value from a text of the command line, or ValueError; None keeps it off the command line. An option
            whose default is True or False needs none: it is a flag there, and with one it takes a weight as well.
    """
    return {"help": help, "check": check, "parse": parse}


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """What one search is told.

    Attributes:
        k: hits wanted; min(k, matching documents) come back.
        filter: only documents whose metadata pass are ranked: a dict (see `fastlane_rag.storage.filters`), or a
            callable that takes the metadata and says yes or no. It applies before ranking, so `k` is honoured.
        route_k: query tokens that gather candidates: a number, "auto" (the router decides) or "all" (exact, nothing
            to refine); None leaves it to the policy.
        refine: whether the candidates are scored again with all query tokens.
        weighted: whether a score of all query tokens counts each by the router's weight, whose mean is 1: the sum of
            w_i max_j Q_i.D_j. False is SumMaxSim as it is; so is True where the model has no weights.
        lane: "exhaustive", "approximate" or "vector" forces how candidates are gathered; None chooses by what there is
            to rank. "vector" compares one vector of the query, of all its tokens or of as many as `route_k` says, with
            one of each document. Documents without a code or a vector are gathered exhaustively, and so is everything
            where a lane finds fewer than k, or no document has a vector. "words" ranks by BM25 alone, without a model;
            it finds the documents that share a word with the query, and no others.
        nprobe: centroids that each routed token probes in the approximate lane; more find more, slower. None leaves
            it to the policy.
        depth: candidates to refine; None leaves it to the policy.
        hybrid: rank by words (BM25) too: True, or the weight w of the words, above 0 and up to 1 (1 - alpha, where
            alpha is the weight of the vectors). Documents of high BM25 join the candidates. What True weighs, and how
            scores are joined, is up to `fusion`.
        fusion: how a hybrid search joins scores. "relative": with a weight, (1 - w) * SumMaxSim + w * L * BM25 / best,
            for L query tokens and the best BM25 there is; with True, SumMaxSim + `words_weight` of the policy * L *
            BM25 / best, which ranks as w = .13 does. "rrf": (1 - w) / (c + rank) + w / (c + rank by BM25), for the
            policy's `rrf_constant` c and ranks among the candidates from 1; True takes the policy's `rrf_weight`.
        score_threshold: hits of lower relevance (`Hit.relevance`, from 0 to 1) are left out of the k best.
        policy: constants of planning for this search; None takes the index's. `bm25_k1`, `bm25_b`, `gather_block`,
            `gather_postings` and `filters_kept` are always the index's, because searches share what depends on them.

    Raises:
        InvalidInputError: an option is not what it must be; the message names it and its value.
    """

    k: int = field(default=10, metadata=about("Hits wanted.", check_count))
    filter: Filter | None = field(
        default=None, metadata=about("Metadata filter, a JSON object.", _check_filter, parse_filter)
    )
    route_k: RouteK | None = field(
        default=None,
        metadata=about("Query tokens to gather with: a number, 'auto' or 'all'.", _check_route_k, parse_route_k),
    )
    refine: bool = field(default=True, metadata=about("Rank by the routed tokens alone.", check_flag))
    weighted: bool = field(default=True, metadata=about("Count all query tokens the same.", check_flag))
    lane: Lane | None = field(
        default=None,
        metadata=about(
            "How to gather: 'exhaustive', 'approximate' or 'vector'; 'words' ranks by BM25.", _check_lane, str
        ),
    )
    nprobe: int | None = field(
        default=None, metadata=about("Centroids each routed token probes.", _check_knob, _parse_number)
    )
    depth: int | None = field(default=None, metadata=about("Candidates to refine.", _check_knob, _parse_number))
    hybrid: bool | float = field(
        default=False,
        metadata=about("Rank by words (BM25) too, for exact names and codes.", _check_hybrid, _parse_real),
    )
    fusion: Fusion = field(
        default="relative", metadata=about("How a hybrid search joins scores: 'relative' or 'rrf'.", _check_fusion, str)
    )
    score_threshold: float | None = field(
        default=None, metadata=about("Leave out hits of lower relevance, 0 to 1.", check_share, _parse_real)
    )
    policy: SearchPolicy | None = field(default=None, metadata=about("Constants of planning.", check_policy))

    def __post_init__(self) -> None:
        for one in fields(self):
            checked = one.metadata["check"](getattr(self, one.name), one.name)
            object.__setattr__(self, one.name, checked)

    @classmethod
    def of(cls, **keywords: Any) -> Self:
        """Options from keyword arguments.

        Raises:
            UnknownOptionError: a keyword is no option; the message names the nearest one.
            InvalidInputError: a value is not what it must be.
        """
        check_keywords(keywords, cls.names(), "a search")
        return cls(**keywords)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The options, `k` first."""
        return tuple(one.name for one in fields(cls))
