"""The names of the files in an index directory. STORE_FORMAT.md says what is in them."""

__all__ = ["CATALOGUE", "DRAFT_SUFFIX", "LOCK", "MARKER", "OURS", "SEGMENTS", "SEGMENT_SUFFIX", "SYSTEM"]

CATALOGUE = "catalogue.sqlite3"
SEGMENTS = "segments"
LOCK = "writer.lock"
MARKER = "commits"
OURS = frozenset({CATALOGUE, f"{CATALOGUE}-wal", f"{CATALOGUE}-shm", f"{CATALOGUE}-journal", SEGMENTS, LOCK, MARKER})
"""Everything that may stand in an index directory."""

SYSTEM = frozenset({"lost+found", ".DS_Store", ".fseventsd", ".Spotlight-V100", ".Trashes", "Thumbs.db", "desktop.ini"})
"""What file systems and file managers put into a directory that is empty to its user."""

SEGMENT_SUFFIX = ".safetensors"
DRAFT_SUFFIX = ".draft"
"""Of a segment that is still being written."""
