"""Products of vectors on a device."""

import numpy as np
import pytest

from fastlane_rag.device import ResidentVectors
from fastlane_rag.search.lanes.ranking import best


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


def test_the_nearest_are_chosen_on_the_device(device):
    chance = np.random.default_rng(0)
    levels = chance.integers(-127, 128, (60, 12)).astype(np.int8)
    scales, query = chance.random(60).astype(np.float32), chance.standard_normal(5).astype(np.float32)
    resident = ResidentVectors(device, levels, scales)
    values = resident.products(query)
    for allowed in (None, chance.random(60) < 0.5, np.zeros(60, bool)):
        some = values if allowed is None else np.where(allowed, values, -np.inf)
        for count in (1, 7, 29, 60, 100):
            assert resident.nearest(query, allowed, count).tolist() == best(some, count).tolist()


def test_more_ties_than_come_back_are_left_to_others(device):
    levels, scales = np.ones((10, 4), np.int8), np.ones(10, np.float32)
    levels[3] = 2
    resident, query = ResidentVectors(device, levels, scales), np.ones(4, np.float32)
    assert resident.nearest(query, None, 1).tolist() == [3]
    assert resident.nearest(query, None, 2) is None
    assert resident.nearest(query, np.arange(10) < 4, 3).tolist() == [0, 1, 2, 3]
    assert resident.nearest(query, None, 5).tolist() == list(range(10))
    scales[3] = np.nan
    resident = ResidentVectors(device, levels, scales)
    assert resident.nearest(query, None, 9).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert ResidentVectors(device, levels[:0], scales[:0]).nearest(query, None, 1).tolist() == []
