"""K-means as a device does it, with the CPU as its stand-in, and as faiss does it."""

import numpy as np
import pytest
import torch

from fastlane_rag.codecs.means import by_faiss, by_torch, device_means


@pytest.fixture(scope="module")
def rows():
    """Unit rows around twenty directions."""
    chance = np.random.default_rng(0)
    drawn = chance.standard_normal((20, 24))[chance.integers(20, size=3000)] + 0.3 * chance.standard_normal((3000, 24))
    return torch.from_numpy((drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32))


def loss(rows, centroids):
    """Mean squared distance to the nearest centroid."""
    return float(torch.cdist(rows, centroids).min(1).values.square().mean())


def test_the_loss_falls_and_both_agree(rows, monkeypatch):
    faiss = pytest.importorskip("faiss", reason="the extra cpu has it")
    monkeypatch.setattr("fastlane_rag.codecs.means._BLOCK", 700)  # several blocks
    found = by_torch(rows, 50, 5, "cpu")
    assert found.shape == (50, 24)
    assert loss(rows, found) < 0.7 * loss(rows, rows[:50])
    other = by_faiss(faiss, rows, 50, 5, faiss.IndexFlatL2(24))
    assert other.shape == (50, 24)
    assert loss(rows, other) == pytest.approx(loss(rows, found), rel=0.02)


def test_a_centroid_without_members_keeps_its_place():
    rows = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert by_torch(rows, 2, 1, "cpu").tolist() == [[pytest.approx(1 / 3)] * 2, [0.0, 0.0]]


@pytest.mark.gpu
def test_on_a_device(rows):
    found = device_means(rows, 50, 5, "cuda")
    assert found.device.type == "cpu"
    assert loss(rows, found) == pytest.approx(loss(rows, by_torch(rows, 50, 5, "cpu")), rel=0.02)
