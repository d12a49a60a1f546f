"""Which codec an index is told to use."""

from fastlane_rag.codecs.base import HalfCodec
from fastlane_rag.errors import InvalidInputError

__all__ = ["CODECS", "check_codec", "residual_bits"]

# Exhaustive search has the nDCG@10 of half precision with it; docs/tuning.md has the figures, and those of fewer bits.
_AUTO = "residual4"
CODECS = ("fp16", "residual1", "residual2", "residual4", "residual8")
"""What an index can be told to store its tokens in."""


def check_codec(name: str) -> str:
    """The codec that a user asks for.

    Raises:
        InvalidInputError: there is none of this name.
    """
    if name == "auto":
        return _AUTO
    if name not in CODECS:
        raise InvalidInputError(f"codec must be 'auto', {', '.join(map(repr, CODECS))}, not {name!r}")
    return name


def residual_bits(policy: str) -> int | None:
    """Bits a dimension that an index told to store its tokens in this way shall use; None for fp16.

    Raises:
        ValueError: this version knows no such codec.
    """
    if policy not in CODECS:
        raise ValueError(f"codec {policy!r} is unknown to this version of fastlane-rag; a newer one may read it")
    return None if policy == HalfCodec.name else int(policy.removeprefix("residual"))
