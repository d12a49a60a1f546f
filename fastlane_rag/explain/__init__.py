"""Why a document was found: which query tokens were routed, and which words of the text they matched."""

from fastlane_rag.explain.evidence import Explanation, explain
from fastlane_rag.explain.image import ImageExplanation, explain_image
from fastlane_rag.explain.matches import Span, TokenMatch

__all__ = ["Explanation", "ImageExplanation", "Span", "TokenMatch", "explain", "explain_image"]
