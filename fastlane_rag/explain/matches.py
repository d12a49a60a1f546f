"""The match of one query token, and a span of text that query tokens matched."""

from dataclasses import dataclass

__all__ = ["Span", "TokenMatch"]


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """One query token and the document token that is most similar to it.

    Attributes:
        token: the query token.
        query_span: (start, end) in the query, in characters, of the token's word; None for a token that is not in the
            query, such as [CLS].
        score: router score; -inf where the token may not be routed.
        share: softmax of the router scores, so that all shares sum to 1; 0 where the token may not be routed.
        weight: how much the token counts in the score; the mean over a query's tokens is 1.
        routed: whether the token gathered candidates.
        span: (start, end) in the document's text, in characters, of the matched word; None for a document token that is
            not in the text, and in an image.
        matched: the matched word, the patch of an image, or the document token where there is neither.
        similarity: dot product of the two embeddings, from -1 to 1.
        patch: (row, column) of the matched patch of an image, counted from 0; None for a text.
    """

    token: str
    query_span: tuple[int, int] | None
    score: float
    share: float
    weight: float
    routed: bool
    span: tuple[int, int] | None
    matched: str
    similarity: float
    patch: tuple[int, int] | None = None

    @property
    def contribution(self) -> float:
        """What the token adds to the score: weight times similarity."""
        return self.weight * self.similarity


@dataclass(frozen=True, slots=True)
class Span:
    """A span of a document's text that query tokens matched.

    Attributes:
        start: offset of the first character.
        end: offset after the last character.
        text: the characters of the span.
        weight: share of all evidence in the text, above 0 and at most 1.
    """

    start: int
    end: int
    text: str
    weight: float
