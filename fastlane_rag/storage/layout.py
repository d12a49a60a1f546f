"""Names of the files in an index directory. STORE_FORMAT.md describes their contents."""

__all__ = ["CATALOGUE", "DRAFT_SUFFIX", "LOCK", "MARKER", "OURS", "SEGMENTS", "SEGMENT_SUFFIX"]

CATALOGUE = "catalogue.sqlite3"
SEGMENTS = "segments"
LOCK = "writer.lock"
MARKER = "commits"
OURS = frozenset({CATALOGUE, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", f"{CATALOGUE}-journal", SEGMENTS, LOCK, MARKER})
"""All entries that an index directory may have."""

SEGMENT_SUFFIX = ".safetensors"
DRAFT_SUFFIX = ".draft"
"""Suffix of a segment that is being written."""
