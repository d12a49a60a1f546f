"""Fitting a vector map to a corpus, without labels. docs/tuning.md has the evidence for the constants."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fastlane_rag.vectors.map import VectorMap, features, maxima_of

__all__ = ["FIT_DOCUMENTS", "SAMPLE", "fit"]

# Dimensions of a vector, a byte each.
SIZE = 512
# Tokens whose MaxSim with a document makes its vector: more fit better, and adding a document takes longer.
SAMPLE = 6144
# Features that bend at a threshold; a query computes all of them for each of its tokens.
LANDMARKS = 1024
# Thresholds spread evenly from 0 to this product of landmark and token.
HIGHEST_THRESHOLD = 0.4
# Documents on whose differences the projection is fitted.
FIT_DOCUMENTS = 1024
# Ridge, in multiples of the mean squared feature.
RIDGE = 0.01


def fit(sample: NDArray[np.floating], rows: NDArray[np.floating], offsets: NDArray[np.int64]) -> VectorMap:
    """Fit a map. Deterministic: the same arrays give the same map.

    Args:
        sample: (S, dim) token rows in random order, from all over the corpus; S about `SAMPLE`.
        rows: (T, dim) token rows of N documents drawn at random, N about `FIT_DOCUMENTS`.
        offsets: (N + 1,) int64; document n owns the rows offsets[n]:offsets[n + 1].

    Raises:
        ValueError: there are no rows, or they are not finite.
    """
    kept = np.ascontiguousarray(sample, np.float16)
    if not len(kept) or len(offsets) < 2 or not np.isfinite(kept).all() or not np.isfinite(rows).all():
        raise ValueError("a vector map is fitted on finite rows: at least one token, and one document")
    tokens = torch.from_numpy(kept).float()
    landmarks = tokens[:LANDMARKS]
    thresholds = torch.linspace(0, HIGHEST_THRESHOLD, len(landmarks))
    phi = features(tokens, landmarks, thresholds)
    maxima = maxima_of(tokens, torch.from_numpy(rows), offsets)
    del sample, rows  # what follows takes as much memory again
    means = maxima.mean(1)
    # In float64: many features are nearly the same.
    gram = (phi.T @ phi).double()
    gram.diagonal().add_(RIDGE * float(gram.diagonal().mean()))
    lower = torch.linalg.cholesky(gram)
    products = phi.T @ torch.cat([maxima - means[:, None], means[:, None]], 1)
    # Each column is a document's ridge solution, in coordinates in which its length is that of its predictions.
    whitened = torch.linalg.solve_triangular(lower, products.double(), upper=False)
    apart, mean = whitened[:, :-1], whitened[:, -1:]
    _, directions = torch.linalg.eigh(apart @ apart.T)
    best = directions[:, -min(SIZE, len(directions)) :].flip(1)
    mixing = torch.linalg.solve_triangular(lower.T, torch.cat([best, mean], 1), upper=True)
    return VectorMap(kept, thresholds.numpy(), mixing.float().contiguous().numpy(), means.numpy())
