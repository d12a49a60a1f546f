"""The one place that computes MaxSim, for training, search, reranking and benchmarks alike."""

from fastlane_rag.scoring.maxsim import maxsim, maxsim_groups, token_maxima

__all__ = ["maxsim", "maxsim_groups", "token_maxima"]
