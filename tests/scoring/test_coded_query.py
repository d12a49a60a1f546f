"""A query that meets documents in code several times, with the compiled kernels and without."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlane_rag.scoring import Codes, cpu_backend
from fastlane_rag.scoring.coded import CodedQuery
from fastlane_rag.scoring.codes import Codebook, pack_levels


def coded(chance: np.random.Generator, lengths: list[int], bits: int, dim: int, centroids: int) -> Codes:
    tokens = sum(lengths)
    middles = torch.from_numpy(chance.standard_normal((centroids, dim)).astype(np.float32))
    middles /= middles.norm(dim=1, keepdim=True)
    book = Codebook(middles, torch.full((dim,), 0.3 / 2**bits), bits)
    levels = torch.from_numpy(chance.integers(0, 2**bits, (tokens, dim)).astype(np.uint8))
    return Codes(
        book,
        torch.from_numpy(chance.integers(0, centroids, tokens).astype(np.uint16)),
        torch.from_numpy(chance.integers(100, 156, tokens).astype(np.uint8)),
        pack_levels(levels, bits),
    )


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=40),
    bits=st.sampled_from([1, 2, 4, 8]),
    dim=st.sampled_from([5, 16, 128]),
    centroids=st.integers(1, 30),
    tokens=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_near_scores_are_what_they_say(compiled, lengths, bits, dim, centroids, tokens, seed):
    """Against the definition: each token's best near row, or the least where that is more."""
    chance = np.random.default_rng(seed)
    documents = coded(chance, lengths, bits, dim, centroids)
    offsets = np.cumsum([0, *lengths])
    query = torch.from_numpy(chance.standard_normal((tokens + 2, dim)).astype(np.float32))
    query /= query.norm(dim=1, keepdim=True)
    columns = chance.permutation(tokens + 2)[:tokens]
    near = chance.random(centroids) < 0.3
    selection = np.flatnonzero(chance.random(len(lengths)) < 0.7)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(cpu_backend, "coded_query", lambda *_: None)
        asked = CodedQuery(query, documents.codebook)
    least = asked.products[:, columns].min(axis=0)  # in the kernels' terms, which differ from the product
    found, met = asked.near_scores(documents, offsets, selection, columns, near, least)

    true_least = (documents.codebook.centroids @ query.T).numpy()[:, columns].min(axis=0)
    rows = documents.decode(slice(None)) @ query[columns].T
    expected, counted = [], 0
    for n in selection:
        here = np.arange(offsets[n], offsets[n + 1])
        mine = here[near[documents.centroid_ids.numpy()[here]]]
        counted += len(mine)
        expected.append(np.vstack([true_least, rows[mine].numpy()]).max(axis=0).sum())
    assert met == counted
    assert found.tolist() == pytest.approx(expected, abs=0.004 * tokens)
