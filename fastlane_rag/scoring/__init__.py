"""The only code that computes MaxSim: training, search, reranking and benchmarks use it."""

from fastlane_rag.scoring.api import maxsim, maxsim_groups, token_maxima
from fastlane_rag.scoring.codes import Codebook, Codes
from fastlane_rag.scoring.threads import get_threads, set_threads

__all__ = ["Codebook", "Codes", "get_threads", "maxsim", "maxsim_groups", "set_threads", "token_maxima"]
