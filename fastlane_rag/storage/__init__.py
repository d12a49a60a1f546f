"""Bytes, locks and SQL: what an index is on disk. Nothing here knows of searching."""
