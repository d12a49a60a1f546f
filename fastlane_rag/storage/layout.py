"""Names of the files in an index directory. STORE_FORMAT.md describes their contents."""

__all__ = ["CATALOGUE", "DRAFT_SUFFIX", "LOCK", "MARKER", "OURS", "SEGMENTS", "SEGMENT_SUFFIX", "SYSTEM"]

CATALOGUE = "catalogue.sqlite3"
SEGMENTS = "segments"
LOCK = "writer.lock"
MARKER = "commits"
OURS = frozenset({CATALOGUE, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", f"{CATALOGUE}-journal", SEGMENTS, LOCK, MARKER})
"""All entries that an index directory may have."""

SYSTEM = frozenset({"lost+found", ".DS_Store", ".fseventsd", ".Spotlight-V100", ".Trashes", "Thumbs.db", "desktop.ini"})
"""What file systems and file managers put into a directory that is empty to its user."""

SEGMENT_SUFFIX = ".safetensors"
DRAFT_SUFFIX = ".draft"
"""Suffix of a segment that is being written."""
