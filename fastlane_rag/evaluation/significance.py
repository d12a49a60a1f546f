"""Whether two methods differ on the same queries by more than chance explains."""

from collections.abc import Mapping

import numpy as np

DRAWS = 10_000
_AT_ONCE = 500


def randomization_test(a: Mapping[str, float], b: Mapping[str, float], *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value of the mean difference under random exchange of the two methods, query by query.

    Args:
        a: a metric's value by query id, for one method.
        b: the same queries' values for the other.
        draws: exchanges drawn; the smallest p-value is 1 / (draws + 1).
        seed: of the drawing.

    Raises:
        ValueError: the two were not judged on the same queries.
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
        # As far up to rounding: the sums are of the same numbers in another order.
        as_far += int((np.abs(signs @ differences) >= observed * (1 - 1e-9)).sum())
    return (as_far + 1) / (draws + 1)
