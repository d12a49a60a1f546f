"""Significance of the difference between two methods on the same queries."""

from collections.abc import Mapping

import numpy as np

DRAWS = 10_000
_AT_ONCE = 500


def randomization_test(a: Mapping[str, float], b: Mapping[str, float], *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference, by a paired randomization test (random exchange per query).

    Args:
        a: a metric's value by query id, for one method.
        b: the values of the other method for the same queries.
        draws: random exchanges to draw; the smallest p-value is 1 / (draws + 1).
        seed: of the draws.

    Raises:
        ValueError: the queries of the two differ.
    """
    if a.keys() != b.keys():
        raise ValueError(f"the methods were judged on different queries ({len(a)} and {len(b)})")
    differences = np.array([a[query] - b[query] for query in a])
    differences = differences[differences != 0]  # exchanging equal values changes nothing
    if not len(differences):
        return 1.0
    observed = abs(differences.sum())
    random = np.random.default_rng(seed)
    as_far = 0
    for start in range(0, draws, _AT_ONCE):
        signs = random.integers(0, 2, (min(_AT_ONCE, draws - start), len(differences)), np.int8) * 2 - 1
        # Allow for rounding: equal sums may differ, because they add the same numbers in another order.
        as_far += int((np.abs(signs @ differences) >= observed * (1 - 1e-9)).sum())
    return (as_far + 1) / (draws + 1)
