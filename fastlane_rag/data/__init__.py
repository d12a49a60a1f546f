"""Passages in JSON Lines, and the sample of Python Enhancement Proposals that ships with the package."""

from pathlib import Path

from fastlane_rag.data.ingest import add_passages, document_of
from fastlane_rag.data.jsonl import Passage, parse_passage, read_passages, read_records

__all__ = ["Passage", "add_passages", "document_of", "parse_passage", "read_passages", "read_records", "sample_path"]


def sample_path() -> Path:
    """Path of the sample corpus: about 2,000 real passages, gzipped JSON Lines; PROVENANCE.md is beside it."""
    return Path(__file__).with_name("peps.jsonl.gz")
