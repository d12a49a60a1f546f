"""The codec that an index is told to use."""

from fastlane_rag.codecs.base import HalfCodec
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.lengths import plain

__all__ = ["CODECS", "check_codec", "residual_bits"]

# Keeps the nDCG@10 of half precision in exhaustive search; docs/tuning.md has the figures, also for fewer bits.
_AUTO = "residual4"
CODECS = ("fp16", "residual1", "residual2", "residual4", "residual8")
"""The codecs an index can be told to use."""


def check_codec(name: str) -> str:
    """Check a codec's name, and turn "auto" into the name it stands for.

    Raises:
        InvalidInputError: no codec has this name.
    """
    if name == "auto":
        return _AUTO
    if name not in CODECS:
        raise InvalidInputError(f"codec must be 'auto', {', '.join(map(repr, CODECS))}, not {name!r}")
    return plain(name)


def residual_bits(policy: str) -> int | None:
    """Bits per dimension of a residual codec's name, 1, 2, 4 or 8; None for fp16.

    Raises:
        ValueError: this version does not know the codec.
    """
    if policy not in CODECS:
        raise ValueError(f"codec {policy!r} is unknown to this version of fastlane-rag; a newer one may read it")
    return None if policy == HalfCodec.name else int(policy.removeprefix("residual"))
