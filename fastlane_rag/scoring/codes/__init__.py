"""Documents in code, and queries prepared to be scored against them."""

from fastlane_rag.scoring.codes.codebook import (
    Codebook,
    Codes,
    fill_words,
    pack_levels,
    packed_width,
    to_bytes,
    unpack_levels,
)
from fastlane_rag.scoring.codes.documents import CodedDocuments
from fastlane_rag.scoring.codes.query import CodedQuery

__all__ = [
    "Codebook",
    "CodedDocuments",
    "CodedQuery",
    "Codes",
    "fill_words",
    "pack_levels",
    "packed_width",
    "to_bytes",
    "unpack_levels",
]
