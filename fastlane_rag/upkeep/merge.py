"""Which segments to merge.

The rules keep the number of segments logarithmic in the size of the index, and copy each token row a logarithmic number
of times. docs/tuning.md says what is known of the constants.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator

from fastlane_rag.storage.snapshot import Part
from fastlane_rag.storage.tables import PENDING

__all__ = ["to_merge"]

# Rows in the catalogue become a segment when they take more than this; a search compares every token that waits.
PENDING_BYTES = 1 << 20
# Segments of one size class that are merged into one; a class spans this factor.
FAN = 4
# Larger segments are merged by `compact` alone.
LARGEST_BYTES = 4 << 30


def to_merge(parts: Iterable[Part], dim: int) -> Iterator[list[int]]:
    """The segments to write into one, each time a list of them; 0 is the pending rows."""
    classes: dict[int, list[int]] = defaultdict(list)
    for part in parts:
        # Size in half precision whatever the codec, so that the rules are the same for all codecs.
        size = int(part.source.offsets[-1]) * dim * 2
        if part.segment == PENDING:
            if size > PENDING_BYTES:
                yield [PENDING]
        elif 2 * part.documents < len(part):
            yield [part.segment]
        elif size <= LARGEST_BYTES:
            classes[max(0, math.floor(math.log(size / PENDING_BYTES, FAN)))].append(part.segment)
    yield from (segments for segments in classes.values() if len(segments) >= FAN)
