"""The evidence of one query token, and a piece of text that is evidence."""

from dataclasses import dataclass

__all__ = ["Span", "TokenMatch"]


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """One query token and the document token that is most similar to it.

    Attributes:
        token: the query token.
        query_span: (start, end), in the query, of the word it is or is a piece of; None for a token that is not
            in it, such as [CLS].
        score: the router's; -inf where it may not be routed.
        weight: the softmax of the scores, so that all weights sum to 1; 0 where it may not be routed.
        routed: whether it gathered candidates.
        span: (start, end), in the document's text, of the word it matched; None for a token that is not in it.
        matched: that word, or else the document token.
        similarity: of the two embeddings, from -1 to 1; the sum over all query tokens is the SumMaxSim score.
    """

    token: str
    query_span: tuple[int, int] | None
    score: float
    weight: float
    routed: bool
    span: tuple[int, int] | None
    matched: str
    similarity: float


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a document's text that query tokens matched.

    Attributes:
        start: first character.
        end: one behind the last character.
        text: the characters between.
        weight: its share of all evidence in the text, above 0 and at most 1.
    """

    start: int
    end: int
    text: str
    weight: float
