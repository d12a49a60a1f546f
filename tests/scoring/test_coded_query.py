"""`CodedQuery`, with the compiled kernels and without."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlane_rag.scoring.codes import Codebook, CodedDocuments, CodedQuery, Codes, pack_levels
from fastlane_rag.scoring.native import kernels


def codebook(chance: np.random.Generator, bits: int, dim: int, centroids: int) -> Codebook:
    middles = torch.from_numpy(chance.standard_normal((centroids, dim)).astype(np.float32))
    middles /= middles.norm(dim=1, keepdim=True)
    return Codebook(middles, torch.full((dim,), 0.3 / 2**bits), bits)


def coded(chance: np.random.Generator, book: Codebook, tokens: int) -> Codes:
    levels = torch.from_numpy(chance.integers(0, 2**book.bits, (tokens, book.dim)).astype(np.uint8))
    return Codes(
        book,
        torch.from_numpy(chance.integers(0, len(book.centroids), tokens).astype(np.uint16)),
        torch.from_numpy(chance.integers(100, 156, tokens).astype(np.uint8)),
        pack_levels(levels, book.bits),
    )


class Several:
    """Documents in several packs, with gaps between their numbers, and a query for them."""

    def __init__(self, chance, packs, bits, dim, centroids, tokens, compiled):
        book = codebook(chance, bits, dim, centroids)
        rows = [coded(chance, book, sum(lengths)) for lengths in packs]
        offsets = [np.cumsum([0, *lengths]) for lengths in packs]
        firsts = np.cumsum([3, *(len(lengths) + 2 for lengths in packs)])[:-1].tolist()
        self.documents = CodedDocuments(list(zip(rows, offsets, strict=True)), firsts)
        self.query = torch.nn.functional.normalize(
            torch.from_numpy(chance.standard_normal((tokens, dim)).astype(np.float32)), dim=1
        )
        with pytest.MonkeyPatch.context() as patch:
            if not compiled:
                patch.setattr(kernels, "available", lambda: False)
            self.asked = CodedQuery(self.query, book)
        # Every document's decoded rows and their centroids, by number.
        self.rows, self.centroids = {}, {}
        for codes, bounds, first in zip(rows, offsets, firsts, strict=True):
            decoded, ids = codes.decode(slice(None)), codes.centroid_ids.numpy()
            for r, (start, end) in enumerate(itertools.pairwise(bounds)):
                self.rows[first + r], self.centroids[first + r] = decoded[start:end], ids[start:end]
        self.selection = np.array([number for number in self.rows if chance.random() < 0.7], np.int64)


drawn = {
    "packs": st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=20), min_size=1, max_size=4),
    "bits": st.sampled_from([1, 2, 4, 8]),
    "dim": st.sampled_from([5, 16, 128]),
    "centroids": st.integers(1, 30),
    "tokens": st.integers(1, 40),
    "seed": st.integers(0, 2**32 - 1),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
@settings(max_examples=25, deadline=None)
@given(**drawn)
def test_scores_are_sums_of_maxima(compiled, packs, bits, dim, centroids, tokens, seed):
    several = Several(np.random.default_rng(seed), packs, bits, dim, centroids, tokens, compiled)
    found, met = several.asked.scores(several.documents, several.selection)
    rows = [several.rows[number] for number in several.selection]
    expected = [float((one @ several.query.T).max(0).values.sum()) if len(one) else -np.inf for one in rows]
    count = sum(map(len, rows))
    theirs = {centroid for number in several.selection for centroid in several.centroids[number].tolist()}
    assert met == count
    assert several.asked.multiplied == (compiled and (len(theirs) if count < 2 * centroids else centroids))
    assert found.tolist() == pytest.approx(expected, abs=0.006 * tokens)

    # Once all centroids are known the scores are the same, and only rows are compared.
    assert len(several.asked.products) == centroids
    again, met = several.asked.scores(several.documents, several.selection)
    assert (again.tolist(), met) == (found.tolist(), count)
    assert several.asked.multiplied == compiled * centroids


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
@settings(max_examples=25, deadline=None)
@given(**drawn)
def test_near_scores_are_what_they_say(compiled, packs, bits, dim, centroids, tokens, seed):
    """Compare with the definition: each token's best near row, but at least its `least`."""
    chance = np.random.default_rng(seed)
    several = Several(chance, packs, bits, dim, centroids, tokens + 2, compiled)
    near = chance.random(centroids) < 0.3
    asked, query = several.asked, several.query
    least = asked.products[:, :tokens].min(axis=0)  # on the kernels' scale: minus a constant of the token
    found, met = asked.near_scores(several.documents, several.selection, tokens, near, least)

    true_least = (several.documents.codebook.centroids @ query.T).numpy()[:, :tokens].min(axis=0)
    expected, counted = [], 0
    for number in several.selection:
        mine = several.rows[number][near[several.centroids[number]]] @ query[:tokens].T
        counted += len(mine)
        expected.append(np.vstack([true_least, mine.numpy()]).max(axis=0).sum())
    assert met == counted
    assert found.tolist() == pytest.approx(expected, abs=0.006 * tokens)


def test_documents_know_their_numbers():
    """Numbers between packs belong to other documents."""
    several = Several(np.random.default_rng(0), [[1, 2], [3], [1, 0, 2]], 4, 16, 8, 3, compiled=False)
    numbers = np.arange(-1, max(several.rows) + 4)
    assert several.documents.has(numbers).tolist() == [int(number) in several.rows for number in numbers]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "torch"])
def test_what_does_not_fit_together_is_refused(compiled):
    chance = np.random.default_rng(0)
    several = Several(chance, [[3, 4], [5]], 4, 16, 8, 3, compiled)
    other = codebook(chance, 4, 16, 8)
    with pytest.raises(ValueError, match="one pack or more, all of one codebook"):
        CodedDocuments([], [])
    rows = several.documents.packs[0]
    with pytest.raises(ValueError, match="one pack or more, all of one codebook"):
        CodedDocuments([rows, (coded(chance, other, 2), np.array([0, 2]))], [0, 2])
    with pytest.raises(ValueError, match="codebook is not the one"):
        several.asked.scores(CodedDocuments([(coded(chance, other, 2), np.array([0, 2]))], [0]), np.array([0]))
    for offsets in ([0, 9], [5, 2], [-1, 2]):
        damaged = CodedDocuments([(rows[0], np.array(offsets))], [0])
        with pytest.raises(ValueError, match="offsets of the documents do not divide"):
            several.asked.scores(damaged, np.array([0]))
