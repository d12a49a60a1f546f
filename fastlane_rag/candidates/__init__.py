"""The vector lane in a database that is there already: candidates come from it, codes and refinement stay here."""

from fastlane_rag.candidates.index import CandidateIndex
from fastlane_rag.candidates.source import CandidateSource

__all__ = ["CandidateIndex", "CandidateSource"]
