"""Every level of the compiled kernels that this machine has, against the float64 reference and plain numpy."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastlane_rag.codecs.residual import ResidualCodec, _nearest, _searchable
from fastlane_rag.scoring import Codebook, Codes, maxsim, token_maxima
from fastlane_rag.scoring.codes import CodedDocuments, CodedQuery, pack_levels
from fastlane_rag.scoring.native import kernels, library
from fastlane_rag.scoring.reference import reference_maxsim, reference_token_maxima

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the compiled kernels are not here")

ROWS_TOLERANCE = 1e-5  # products of rows are summed in float32; for what codes may differ see `tolerance`


@pytest.fixture(params=kernels.levels() or ["none"])
def level(request):
    """Run a test at each level."""
    found, before = library.library(), kernels.level()
    assert found.fastlane_set_level(request.param.encode()) == 0
    yield request.param
    found.fastlane_set_level(before.encode())


lengths = st.lists(st.one_of(st.integers(0, 9), st.integers(0, 70)), max_size=8)
shapes = {
    "queries": st.lists(st.integers(0, 40), max_size=4),
    "documents": lengths,
    "dim": st.integers(1, 70),
    "seed": st.integers(0, 2**32 - 1),
}
each_level = settings(max_examples=40, deadline=None)


def tokens(chance, count, dim):
    rows = torch.from_numpy(chance.standard_normal((count, dim)))
    return torch.nn.functional.normalize(rows, dim=1)


def test_the_best_level_is_used_unless_told_otherwise():
    asked = os.environ.get(library.LEVEL_VARIABLE)
    assert kernels.level() == (asked or kernels.levels()[0])
    assert kernels.levels()[-1] == "scalar"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_rows(level, dtype):
    @each_level
    @given(**shapes)
    def check(queries, documents, dim, seed):
        chance = np.random.default_rng(seed)
        asked = [tokens(chance, n, dim).float() for n in queries]
        stored = [tokens(chance, n, dim).to(dtype) for n in documents]
        rows = torch.cat([torch.empty(0, dim, dtype=dtype), *stored])
        packed = torch.cat([torch.empty(0, dim), *asked])
        bounds, offsets = (torch.tensor([0, *some]).cumsum(0) for some in (queries, documents))
        weights = torch.from_numpy(chance.random(len(packed)).astype(np.float32))
        found = maxsim(packed, rows, query_offsets=bounds, document_offsets=offsets, query_weights=weights)
        expected = reference_maxsim(asked, stored, weights.split(queries) if queries else [])
        torch.testing.assert_close(found.double(), expected, rtol=ROWS_TOLERANCE, atol=40 * ROWS_TOLERANCE)
        values, argmax = token_maxima(packed, rows, offsets)
        torch.testing.assert_close(
            values.double(), reference_token_maxima(packed, stored), rtol=ROWS_TOLERANCE, atol=ROWS_TOLERANCE
        )
        here, which = (argmax >= 0).nonzero(as_tuple=True)
        matched = (packed[which] * rows.float()[argmax[here, which]]).sum(1)
        torch.testing.assert_close(values[here, which], matched, rtol=ROWS_TOLERANCE, atol=ROWS_TOLERANCE)

    check()


def draw(chance, count, dim, bits, centroids):
    """Codes of the size real ones have."""
    middles = tokens(chance, centroids, dim).float()
    book = Codebook(middles, torch.full((dim,), 1.5 / (2**bits * dim**0.5)), bits)
    return Codes(
        book,
        torch.from_numpy(chance.integers(0, centroids, count).astype(np.uint16)),
        torch.from_numpy(chance.integers(90, 200, count).astype(np.uint8)),
        pack_levels(torch.from_numpy(chance.integers(0, 2**bits, (count, dim)).astype(np.uint8)), bits),
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8], ids="{}-bit".format)
def test_codes(level, bits, tolerance):
    @each_level
    @given(**shapes, centroids=st.integers(1, 40))
    def check(queries, documents, dim, seed, centroids):
        chance = np.random.default_rng(seed)
        asked = [tokens(chance, n, dim).float() for n in queries]
        codes = draw(chance, sum(documents), dim, bits, centroids)
        packed = torch.cat([torch.empty(0, dim), *asked])
        bounds, offsets = (torch.tensor([0, *some]).cumsum(0) for some in (queries, documents))
        decoded = codes.decode(slice(None)).split(documents) if documents else []
        found = maxsim(packed, codes, query_offsets=bounds, document_offsets=offsets)
        expected = reference_maxsim(asked, decoded)
        rounding = tolerance(packed, codes)
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=rounding * max([1, *queries]))
        values, argmax = token_maxima(packed, codes, offsets)
        torch.testing.assert_close(values.double(), reference_token_maxima(packed, decoded), rtol=1e-5, atol=rounding)
        here, which = (argmax >= 0).nonzero(as_tuple=True)
        matched = (packed[which] * codes.decode(slice(None))[argmax[here, which]]).sum(1)
        torch.testing.assert_close(values[here, which], matched, rtol=1e-5, atol=rounding)

    check()


@pytest.mark.parametrize("bits", [1, 2, 4, 8], ids="{}-bit".format)
def test_near_rows(level, bits, tolerance):
    @each_level
    @given(documents=lengths, dim=shapes["dim"], seed=shapes["seed"], count=st.integers(1, 40), more=st.integers(0, 9))
    def check(documents, dim, seed, count, more):
        chance = np.random.default_rng(seed)
        codes = draw(chance, sum(documents) + 1, dim, bits, 12)  # the last row belongs to no document
        query = tokens(chance, count + more, dim).float()
        near = chance.random(12) < 0.4
        offsets = np.cumsum([0, *documents])
        ready = CodedQuery(query, codes.codebook)
        least = ready.products[:, :count].min(0)
        numbers = np.arange(len(documents))
        found, met = ready.near_scores(CodedDocuments([(codes, offsets)], [0]), numbers, count, near, least)
        floor = (codes.codebook.centroids @ query[:count].T).min(0).values
        ids, decoded = codes.centroid_ids.numpy(), codes.decode(slice(None))
        for n, (first, last) in enumerate(itertools.pairwise(offsets)):
            mine = decoded[first:last][torch.from_numpy(near[ids[first:last]])] @ query[:count].T
            expected = torch.cat([floor[None], mine]).max(0).values.sum()
            assert found[n] == pytest.approx(float(expected), abs=1e-5 + tolerance(query, codes) * count)
        assert met == near[ids[:-1]].sum()

    check()


def test_nearest_centroids(level):
    @each_level
    @given(count=st.integers(0, 100), dim=shapes["dim"], centroids=st.integers(1, 60), seed=shapes["seed"])
    def check(count, dim, centroids, seed):
        chance = np.random.default_rng(seed)
        rows, middles = tokens(chance, count, dim).float(), tokens(chance, centroids, dim).float()
        found = _nearest(rows, _searchable(middles))
        assert found.shape == (count,)
        distances = torch.cdist(rows, middles)
        if count:
            assert (distances.gather(1, found[:, None])[:, 0] - distances.min(1).values).max() < 0.1

    check()


@pytest.mark.parametrize("bits", [1, 2, 4, 8], ids="{}-bit".format)
def test_coding_of_rows(level, bits):
    """The bytes that torch would store, but for scales halfway between two."""

    @each_level
    @given(count=st.integers(0, 60), dim=shapes["dim"], centroids=st.integers(1, 20), seed=shapes["seed"])
    def check(count, dim, centroids, seed):
        chance = np.random.default_rng(seed)
        middles = tokens(chance, centroids, dim).float().numpy()
        steps = (chance.random(dim) / 2**bits + 1e-3).astype(np.float32)
        codec, rows = ResidualCodec(middles, steps, bits), tokens(chance, count, dim).float()
        found = codec.encode(rows.numpy())
        levels, scales = codec._code_rows(rows, torch.from_numpy(found["centroids"].astype(np.int64)))
        assert found["residuals"].tolist() == levels.tolist()
        assert np.abs(found["scales"].astype(int) - scales.astype(int)).max(initial=0) <= 1

    check()


def test_all_levels_give_the_same():
    """Scores within the tolerance of one level of those of another; what is chosen by whole numbers, exactly."""
    chance = np.random.default_rng(0)
    codes, query = draw(chance, 500, 96, 4, 64), tokens(chance, 32, 96).float()
    rows, offsets = tokens(chance, 500, 96).half(), torch.arange(0, 501, 10)
    similar = (rows[:90].float() @ rows[:90].float().T).clamp(min=0).contiguous().numpy()
    weights = chance.random(90).astype(np.float32)
    book, nearest = codes.codebook, chance.integers(0, 64, 500)
    found, before, stored = {}, kernels.level(), set()
    for name in kernels.levels():
        library.library().fastlane_set_level(name.encode())
        packed, scales = kernels.code_rows(rows.float().numpy(), nearest, book.base.numpy(), book.for_kernels)
        stored.add(packed.tobytes() + scales.tobytes())
        coded = maxsim(query, codes, document_offsets=offsets)
        found[name] = coded, maxsim(query, rows, document_offsets=offsets), kernels.cover(similar, weights, 30)
    library.library().fastlane_set_level(before.encode())
    assert len(stored) == 1
    first = found[kernels.levels()[0]]
    for name, (coded, exact, picked) in found.items():
        torch.testing.assert_close(coded, first[0], rtol=1e-5, atol=1e-5, msg=name)
        torch.testing.assert_close(exact, first[1], rtol=1e-5, atol=1e-5, msg=name)
        assert picked.tolist() == first[2].tolist()


def test_nan_and_infinity(level):
    """A NaN in a row or in the query makes the score NaN; of equal rows the first is returned."""
    for bad in (torch.nan, torch.inf):
        rows = torch.rand(40, 20)
        rows[33, 7] = bad
        scores = maxsim(torch.rand(3, 20) + 0.1, rows, document_offsets=torch.tensor([0, 20, 40]))[0]
        assert scores[0].isfinite()
        assert not scores[1].isfinite()
    query = torch.rand(3, 20)
    query[1, 5] = torch.nan
    codes = draw(np.random.default_rng(0), 40, 20, 4, 5)
    assert maxsim(query, codes, document_offsets=torch.tensor([0, 40])).isnan().all()
    same = torch.ones(30, 20)
    assert token_maxima(torch.ones(9, 20), same, torch.tensor([0, 13, 30]))[1].tolist() == [[0] * 9, [13] * 9]


def test_codes_of_a_damaged_file(level):
    """A row with a centroid that does not exist makes the score of its document NaN, and no other."""
    codes = draw(np.random.default_rng(0), 200, 20, 4, 5)
    offsets = torch.arange(0, 201, 20)
    for row in range(0, 200, 7):
        ids = codes.centroid_ids.clone()
        ids[row] = 65535
        damaged = Codes(codes.codebook, ids, codes.scales, codes.residuals)
        scores = maxsim(torch.rand(33, 20), damaged, document_offsets=offsets)[0]
        assert scores.isnan().tolist() == [n == row // 20 for n in range(10)]
        documents = CodedDocuments([(damaged, offsets.numpy())], [0])
        ready = CodedQuery(torch.rand(3, 20), codes.codebook)
        near = ready.near_scores(documents, np.arange(10), 2, np.ones(5, np.bool_), ready.products.min(0)[:2])
        assert np.isfinite(near[0]).all()
        assert near[1] == 199


def test_bounds_of_posting_lists_that_lie(level):
    """With a damaged file, documents may be missed, but nothing outside its arrays is read."""
    documents = np.arange(10, dtype=np.uint16)
    for lists in ([0, 5, 10], [-4, 5, 10], [0, 1 << 40, 10], [3, -(1 << 50), 1 << 62]):
        bounds = np.array(lists, np.int64)
        block = [documents.ctypes.data, 2, 10, bounds.ctypes.data, 2, 0, 0, 10]
        gathering = kernels.Gathering(np.array([block], np.int64), 10)
        centroids, gains = np.array([[0, 1, 7, -3]]), np.ones((1, 4), np.float32)
        found, scores = gathering.gather(centroids, gains, None, 0.5, 1)
        assert set(found.tolist()) <= set(range(10))
        assert set(scores.tolist()) <= {1.5}
    assert len(found) <= 10


def test_a_level_can_be_asked_for():
    def run(name):
        program = "from fastlane_rag.scoring.native import kernels; print(kernels.level())"
        environment = os.environ | {library.LEVEL_VARIABLE: name, "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)

    for name in [*kernels.levels(), "none"]:
        assert run(name).stdout.strip() == name
    done = run("mmx")
    assert done.returncode
    assert "FASTLANE_NATIVE_LEVEL is 'mmx', but this processor runs" in done.stderr


def test_products_of_vectors(level):
    """Whole numbers are added up, so every level gives the same bits; dimensions beyond the query's do not count."""

    @each_level
    @given(st.integers(0, 40), st.integers(1, 300), st.integers(0, 9), st.integers(0, 2**32 - 1), st.booleans())
    def check(count, size, more, seed, some):
        chance = np.random.default_rng(seed)
        levels = chance.integers(-127, 128, (count, size + more), dtype=np.int8)
        scales = chance.random(count).astype(np.float32)
        query = chance.integers(-2047, 2048, size).astype(np.int16)
        numbers = np.flatnonzero(chance.random(count) < 0.5) if some else None
        sums = levels[:, :size].astype(np.int64) @ query.astype(np.int64)
        expected = (sums.astype(np.float32) * scales)[slice(None) if numbers is None else numbers]
        assert np.array_equal(kernels.multiply_vectors(levels, scales, query, numbers), expected)

    check()
