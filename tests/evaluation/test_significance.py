"""The paired randomization test against values worked out by hand, and on noise."""

from itertools import product

import numpy as np
import pytest

from fastlane_rag.evaluation.significance import randomization_test


def by_query(values: object) -> dict[str, float]:
    return {f"q{i}": float(value) for i, value in enumerate(np.asarray(values))}


def test_the_share_of_all_exchanges() -> None:
    """With six queries every exchange can be listed."""
    differences = np.array([0.3, 0.1, 0.2, -0.1, 0.4, 0.05])
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=6)]
    exact = np.mean([one >= differences.sum() - 1e-12 for one in sums])
    p = randomization_test(by_query(differences), by_query(np.zeros(6)), draws=40_000)
    assert p == pytest.approx(exact, abs=0.01)


def test_the_same_values_do_not_differ_and_the_order_of_queries_does_not_matter() -> None:
    values = by_query(np.linspace(0, 1, 50))
    assert randomization_test(values, dict(reversed(values.items()))) == 1.0


def test_symmetric_and_repeatable() -> None:
    random = np.random.default_rng(3)
    a, b = by_query(random.random(40)), by_query(random.random(40))
    assert randomization_test(a, b) == randomization_test(b, a) == randomization_test(a, b)


def test_noise_is_rarely_significant_and_a_real_gain_is() -> None:
    random = np.random.default_rng(0)
    chance = [
        randomization_test(by_query(random.random(60)), by_query(random.random(60)), draws=500) for _ in range(200)
    ]
    assert np.mean(np.array(chance) < 0.05) == pytest.approx(0.05, abs=0.04)
    base = random.random(60) / 2
    assert randomization_test(by_query(base + 0.1), by_query(base)) < 0.001


def test_different_queries_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different queries \(2 and 3\)"):
        randomization_test(by_query([1, 0]), by_query([1, 0, 1]))
