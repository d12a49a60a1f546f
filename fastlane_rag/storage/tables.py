"""The rows of the catalogue's tables as Python values."""

from dataclasses import dataclass

__all__ = ["PENDING", "Entry", "Place", "SegmentInfo"]

Entry = tuple[str, str, str]
"""A document to store: id, text, metadata as JSON."""

Place = tuple[int, int]
"""Where a document's token rows are: (segment, row).

Segment 0 is the table `pending`: float16 token rows that wait in the catalogue until there are enough for a segment.
Their row is the key `n` of that table.
"""

PENDING = 0


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What the catalogue records about a segment.

    Attributes:
        name: file name without suffix, 32 hexadecimal digits.
        documents: documents in it, dead ones included.
        tokens: token rows.
        bytes: size of the file.
        header: SHA-256 of its first 4,096 bytes, in hexadecimal.
        codec: name of the codec of its rows.
    """

    name: str
    documents: int
    tokens: int
    bytes: int
    header: str
    codec: str
