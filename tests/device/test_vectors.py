"""Products of vectors on a device."""

import numpy as np
import pytest

from fastlane_rag.device import ResidentVectors


@pytest.mark.parametrize("dimensions", [12, 5], ids="{}-of-12".format)
@pytest.mark.parametrize("numbers", [None, [6, 0, 6], []], ids=["all", "some", "none"])
def test_products_are_those_of_the_definition(device, monkeypatch, dimensions, numbers):
    monkeypatch.setattr("fastlane_rag.device.vectors._BLOCK", 3)
    chance = np.random.default_rng(0)
    levels = chance.integers(-127, 128, (7, 12)).astype(np.int8)
    scales, query = chance.random(7).astype(np.float32), chance.standard_normal(12).astype(np.float32)[:dimensions]
    resident = ResidentVectors(device, levels, scales)
    assert resident.bytes == device.copied == 7 * 12 + 7 * 4
    at = None if numbers is None else np.array(numbers, np.int64)
    expected = (levels[:, :dimensions].astype(np.float64) @ query * scales)[slice(None) if at is None else at]
    np.testing.assert_allclose(resident.products(query, at), expected, rtol=1e-5, atol=1e-4)
