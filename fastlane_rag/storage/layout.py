"""The names of the files in an index directory. STORE_FORMAT.md says what is in them."""

__all__ = ["CATALOGUE", "DRAFT_SUFFIX", "LOCK", "MARKER", "OURS", "SEGMENTS", "SEGMENT_SUFFIX"]

CATALOGUE = "catalogue.sqlite3"
SEGMENTS = "segments"
LOCK = "writer.lock"
MARKER = "commits"
OURS = frozenset({CATALOGUE, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", f"{CATALOGUE}-journal", SEGMENTS, LOCK, MARKER})
"""Everything that may stand in an index directory."""

SEGMENT_SUFFIX = ".safetensors"
DRAFT_SUFFIX = ".draft"
"""Of a segment that is still being written."""
