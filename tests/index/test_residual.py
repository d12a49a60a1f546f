"""The residual codec: its loss, its errors, and that its bytes restore it."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from word_model import WordModel

from fastlane_rag import FastLaneIndex, scoring
from fastlane_rag.codecs.residual import ResidualCodec
from fastlane_rag.errors import IndexFormatError
from fastlane_rag.scoring import maxsim, set_threads


def draw(count, dim=24, seed=0):
    """Unit rows around forty directions, as token embeddings gather around meanings."""
    generator = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((40, dim))
    rows = directions[generator.integers(40, size=count)] + 0.6 * generator.standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def codec():
    return ResidualCodec.train(draw(3000), 4)


# Squared distance between a unit row and its code.
@pytest.mark.parametrize(("bits", "loss"), [(1, 0.12), (2, 0.05), (4, 0.006), (8, 0.0003)])
def test_more_bits_lose_less(bits, loss):
    codec, rows = ResidualCodec.train(draw(3000), bits), draw(500, seed=1)
    arrays = codec.encode(rows)
    assert sum(array.nbytes for array in arrays.values()) == 500 * (3 * bits + 3)
    assert np.square(codec.decode(arrays) - rows).sum(1).mean() < loss


def test_scores_on_codes_rank_as_the_rows_do(codec):
    documents, queries = draw(4000, seed=1), torch.from_numpy(draw(64, seed=2)).view(8, 8, -1)
    offsets = torch.arange(0, 4001, 20)
    exact = maxsim(queries, documents, document_offsets=offsets)
    coded = maxsim(queries, codec.codes(codec.encode(documents)), document_offsets=offsets)
    for row in range(8):
        assert exact[row].topk(10).indices[0] in coded[row].topk(3).indices
    torch.testing.assert_close(coded, exact, rtol=0, atol=0.15)


def test_threads_that_need_the_codebook_at_once_get_the_same(codec, monkeypatch):
    """Python 3.12 took the lock from cached properties: queries and documents then had codebooks of their own."""
    together, made = threading.Barrier(2, timeout=5), scoring.Codebook

    def slow(*arguments):
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        return made(*arguments)

    monkeypatch.setattr(scoring, "Codebook", slow)
    fresh = ResidualCodec.from_bytes(codec.to_bytes())
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: fresh.codebook, range(2))
    assert first is second is fresh.codebook


def test_the_layout_is_what_encode_gives(codec):
    layout, arrays = codec.layout(24), codec.encode(draw(7))
    assert arrays.keys() == layout.keys()
    for name, (dtype, shape) in layout.items():
        assert arrays[name].dtype == dtype
        assert arrays[name].shape == (7, *shape)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60))
def test_rows_are_independent(codec, first, second):
    """Encoding a part of the rows gives that part of the arrays, whatever is encoded beside it."""
    rows = draw(60)
    low, high = sorted((first, second))
    whole, part = codec.encode(rows), codec.encode(rows[low:high])
    for name in whole:
        assert np.array_equal(whole[name][low:high], part[name])


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_change_no_bit(codec, threads):
    rows = draw(5000)
    alone = codec.encode(rows)
    set_threads(threads)
    try:
        together, trained = codec.encode(rows), ResidualCodec.train(draw(3000), 4)
    finally:
        set_threads(None)
    assert all(np.array_equal(alone[name], together[name]) for name in alone)
    assert trained.name == codec.name


def test_inference_mode_trains_and_encodes_the_same_in_threads():
    """The mode belongs to a thread; helper threads use it as well."""
    rows = draw(9000, seed=5)
    outside = ResidualCodec.train(rows, 4)
    set_threads(3)
    try:
        with torch.inference_mode():
            inside = ResidualCodec.train(rows, 4)
            arrays = inside.encode(rows)
    finally:
        set_threads(None)
    for name, array in outside.encode(rows).items():
        np.testing.assert_array_equal(arrays[name], array)


def test_parameters_survive_being_written(codec):
    again = ResidualCodec.from_bytes(codec.to_bytes())
    assert again.name == codec.name
    rows = draw(50)
    assert np.array_equal(again.decode(again.encode(rows)), codec.decode(codec.encode(rows)))


def test_another_training_has_another_name(codec):
    assert ResidualCodec.train(draw(3000, seed=5), 4).name != codec.name
    assert codec.name.startswith("residual4-")


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-5], lambda data: b"x" * 200, lambda data: data.replace(b"steps", b"stups")],
    ids=["empty", "cut", "noise", "renamed"],
)
def test_damaged_parameters_are_named(codec, damage):
    with pytest.raises(IndexFormatError, match="damaged"):
        ResidualCodec.from_bytes(damage(codec.to_bytes()))


def test_a_newer_version_is_named(codec):
    newer = codec.to_bytes().replace(b'codec":"1"', b'codec":"2"')
    with pytest.raises(IndexFormatError, match="version 2; this fastlane-rag reads 1"):
        ResidualCodec.from_bytes(newer)


def test_bad_rows_are_refused(codec):
    rows = draw(9)
    rows[3, 5] = np.nan
    with pytest.raises(ValueError, match="1 of 9 token embeddings hold NaN"):
        codec.encode(rows)
    with pytest.raises(ValueError, match="trained for 24 dimensions, the tokens have 25"):
        codec.encode(draw(9, dim=25))
    with pytest.raises(ValueError, match="NaN or infinity"):
        ResidualCodec.train(rows)
    with pytest.raises(ValueError, match="at least one"):
        ResidualCodec.train(rows[:0])
    with pytest.raises(ValueError, match="bits must be 1, 2, 4 or 8, but are 3"):
        ResidualCodec.train(draw(9), 3)


def loss(rows, decoded):
    return np.square(decoded - rows).sum(1).mean()


def through(codec, rows):
    return codec.decode(codec.encode(rows))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rows_in_code_are_recoded_without_being_rounded_again(bits):
    """With more centroids and the same steps, recoded rows lose only what lies beyond the levels."""
    rows, sample = draw(600, seed=1), draw(6000)
    few = ResidualCodec.train(sample, bits, centroids=40)
    coded = through(few, rows)
    recoded, rounded = (
        through(ResidualCodec.train(through(few, sample), bits, centroids=64, like=like), coded) for like in (few, None)
    )
    once = loss(rows, coded)
    assert loss(rows, recoded) - once < 0.2 * (loss(rows, rounded) - once)


def test_a_sample_in_half_precision_trains_the_same_codec():
    """It is not brought into float32 as a whole, and block by block gives the same numbers."""
    half = draw(40_000).astype(np.float16)
    assert ResidualCodec.train(half, 4).name == ResidualCodec.train(half.astype(np.float32), 4).name


def test_steps_that_no_longer_fit_are_not_kept():
    """An index may begin with texts that are all the same, and go on with others."""
    same = np.repeat(draw(1), 400, axis=0)
    first = ResidualCodec.train(same, 4, centroids=4)
    later = ResidualCodec.train(draw(3000), 4, like=first)
    rows = draw(500, seed=1)
    assert loss(rows, through(later, rows)) < 0.006


def test_tiny_and_flat_samples_still_make_a_codec():
    """One row, and rows that are all the same: no residual is left to measure."""
    rows = np.repeat(draw(1), 5, axis=0)
    for sample in (rows[:1], rows):
        codec = ResidualCodec.train(sample, 2)
        np.testing.assert_allclose(codec.decode(codec.encode(rows)), rows, atol=1e-4)


def test_no_rows_encode_to_no_rows(codec):
    assert codec.decode(codec.encode(draw(0))).shape == (0, 24)


@pytest.mark.parametrize("bits", [4, 8])
def test_rows_unlike_the_few_it_was_trained_on_are_stored_all_the_same(bits):
    """Twenty distinct rows, repeated: with twenty centroids all residuals would be 0, and give no steps."""
    known, new = unit_rows(20, 16, seed=1), unit_rows(50, 16, seed=2)
    codec = ResidualCodec.train(np.tile(known, (30, 1)), bits)
    decoded = codec.decode(codec.encode(new))
    cosines = (decoded * new).sum(1) / np.linalg.norm(decoded, axis=1)
    assert cosines.mean() > {4: 0.9, 8: 0.97}[bits]


def unit_rows(count, dim, seed):
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_an_index_has_one_codec_whoever_reads_it_meanwhile():
    codec = ResidualCodec.train(draw(300), 4)
    meanwhile = []

    class Slow:
        def codec(self, name):
            if not meanwhile:
                meanwhile.append(None)
                meanwhile[0] = index._storage.codec(self, name)
            return ResidualCodec.from_bytes(codec.to_bytes())

    with FastLaneIndex.create(model=WordModel()) as index:
        assert index._storage.codec(Slow(), codec.name) is meanwhile[0]
        assert index._storage.codec(Slow(), codec.name) is meanwhile[0]
