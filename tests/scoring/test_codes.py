"""Scores of documents in code, compared with scores of their decoded rows."""

from dataclasses import replace

import pytest
import torch

from fastlane_rag.scoring import Codebook, Codes, backends, maxsim, set_threads, token_maxima
from fastlane_rag.scoring.codes import pack_levels, unpack_levels
from fastlane_rag.scoring.inputs import Packed, Request, in_order
from fastlane_rag.scoring.reference import reference_maxsim, reference_token_maxima

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(params=[1, 2, 4, 8], ids="{}-bit".format)
def bits(request):
    return request.param


@pytest.mark.parametrize("dim", [1, 5, 8, 33, 96, 128, 384])
def test_levels_unpack_to_what_was_packed(dim, bits):
    levels = torch.randint(2**bits, (11, dim), dtype=torch.uint8)
    packed = pack_levels(levels, bits)
    assert packed.shape == (11, -(-dim * bits // 8))
    assert torch.equal(unpack_levels(packed, bits, dim), levels)


def test_decoding_follows_the_formula(bits, draw_codes):
    codes = draw_codes(13, 10, bits)
    levels = unpack_levels(codes.residuals, bits, 10)
    for row in range(13):
        residual = codes.codebook.steps * (levels[row] - (2**bits - 1) / 2)
        scale = 0.5 + int(codes.scales[row]) / 256
        expected = scale * (codes.codebook.centroids[int(codes.centroid_ids[row])] + residual)
        torch.testing.assert_close(codes.decode(torch.tensor([row]))[0], expected)


def test_scores_are_those_of_the_decoded_rows(case, bits, draw_codes, tolerance):
    queries, documents = case.batches()
    codes = draw_codes(len(documents.packed), case.dim, bits)
    decoded = codes.decode(slice(None)).split(case.documents)
    weights = torch.linspace(0.5, 1.5, len(queries.packed))
    actual = maxsim(
        queries.packed,
        codes,
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
        query_weights=weights,
    )
    expected = reference_maxsim(queries.sequences, decoded, weights.split(case.queries))
    longest = max(case.queries, default=1)
    atol = 1.5 * longest * tolerance(queries.packed, codes)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=atol)


def test_token_maxima_and_selections(case, bits, draw_codes, tolerance):
    queries, documents = case.batches()
    codes = draw_codes(len(documents.packed), case.dim, bits)
    decoded = codes.decode(slice(None))
    chosen = torch.arange(len(case.documents)).flip(0)
    sequences = [decoded.split(case.documents)[n] for n in chosen]
    for query in queries.sequences:
        values, argmax = token_maxima(query, codes, documents.offsets, selection=chosen)
        expected = reference_token_maxima(query, sequences)
        atol = tolerance(query, codes)
        torch.testing.assert_close(values.double(), expected, rtol=1e-5, atol=atol)
        found, tokens = (argmax >= 0).nonzero(as_tuple=True)
        matched = (query[tokens] * decoded[argmax[found, tokens]]).sum(-1)
        torch.testing.assert_close(values[found, tokens], matched, rtol=1e-5, atol=atol)


def test_rounding_the_query_costs_little_beside_the_code(bits, draw_codes):
    """At the size of real embeddings: a thousandth of a token's score, most of the time far less."""
    codes = draw_codes(500, 96, bits, centroids=100)
    query = torch.nn.functional.normalize(torch.randn(32, 96, generator=torch.Generator().manual_seed(0)), dim=1)
    values, _ = token_maxima(query, codes, torch.arange(501))
    exact = (codes.decode(slice(None)) @ query.T).double()
    assert (values - exact).square().mean().sqrt() < 1e-3


def test_threads_change_no_bit(bits, monkeypatch, draw_codes):
    codes, query = draw_codes(700, 24, bits), torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
    offsets = torch.arange(0, 701, 7)
    monkeypatch.setattr("fastlane_rag.scoring.native.kernels._WORTH_A_THREAD", 1000)
    alone = maxsim(query, codes, document_offsets=offsets)
    set_threads(3)
    try:
        assert torch.equal(maxsim(query, codes, document_offsets=offsets), alone)
    finally:
        set_threads(None)


def test_a_table_that_is_too_large_is_refused(backend, monkeypatch, draw_codes):
    """The Triton kernel numbers its entries with 31 bits."""
    if backend != "triton":
        pytest.skip("other kernels make no such table")
    monkeypatch.setattr("fastlane_rag.scoring.triton.backend._ENTRIES", 2 * 30 * 37)
    codes = draw_codes(20, 16, 4)
    assert maxsim(torch.ones(30, 16), codes, document_offsets=torch.tensor([0, 20])).shape == (1, 1)
    with pytest.raises(torch.OutOfMemoryError, match="a query of 31 tokens needs a table of 0 GiB on cpu"):
        maxsim(torch.ones(31, 16), codes, document_offsets=torch.tensor([0, 20]))


def test_many_queries_are_scored_in_parts(bits, monkeypatch, draw_codes):
    """The tables of products of query tokens and centroids stay within their budget."""
    codes, queries = draw_codes(40, 16, bits), torch.randn(12, 5, 16, generator=torch.Generator().manual_seed(1))
    offsets = torch.tensor([0, 10, 40])
    whole = maxsim(queries, codes, document_offsets=offsets)
    for backend in ("native", "triton"):
        monkeypatch.setattr(f"fastlane_rag.scoring.{backend}.backend._TABLE_BYTES", 37 * 4 * 12)
    torch.testing.assert_close(maxsim(queries, codes, document_offsets=offsets), whole)


@pytest.mark.parametrize("tokens", [1, 3, 40], ids="{}-tokens".format)
def test_documents_of_each_query_alone(bits, tokens, draw_codes):
    """Groups, as a refinement scores them; what was prepared for the queries serves the next documents too."""
    codes = draw_codes(60, 24, bits)
    query = torch.nn.functional.normalize(torch.randn(3, tokens, 24, generator=torch.Generator().manual_seed(1)), dim=2)
    weights = torch.linspace(0.5, 1.5, 3 * tokens)
    queries = in_order(query.flatten(0, 1), torch.arange(4) * tokens)
    whole = maxsim(query, codes, document_offsets=torch.arange(0, 61, 5), query_weights=weights.view(3, tokens))
    numbers = torch.tensor([[3, 0], [1, 1], [2, 11]])
    documents = Packed(codes, numbers.flatten() * 5, torch.full((6,), 5))
    request = Request(queries, documents, weights, grouped=True)
    backend = backends.choose(queries.rows, codes)
    torch.testing.assert_close(backend.scores(request)[0], whole.gather(1, numbers))
    second = replace(request, documents=Packed(codes, numbers.flip(1).flatten() * 5, torch.tensor([5, 0] * 3)))
    scores = backend.scores(second)[0]
    torch.testing.assert_close(scores[:, 0], whole.gather(1, numbers[:, 1:])[:, 0])
    assert (scores[:, 1] == -torch.inf).all()


def test_queries_beyond_the_range_of_float16(bits, draw_codes):
    """Nothing overflows: a query is as exact as its own size allows."""
    codes, query = draw_codes(30, 16, bits), torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    offsets = torch.tensor([0, 10, 30])
    expected = maxsim(query, codes, document_offsets=offsets) * 2**20
    torch.testing.assert_close(maxsim(query * 2**20, codes, document_offsets=offsets), expected)
    wide = maxsim((query * 2**20).bfloat16(), codes, document_offsets=offsets)
    torch.testing.assert_close(wide, expected, rtol=0.05, atol=2**16)


def test_a_centroid_that_does_not_exist_makes_its_document_nan(bits, draw_codes):
    codes = draw_codes(20, 8, bits)
    codes.centroid_ids[15] = 37
    offsets = torch.tensor([0, 10, 20])
    assert maxsim(torch.rand(3, 8), codes, document_offsets=offsets)[0].isnan().tolist() == [False, True]
    assert token_maxima(torch.rand(3, 8), codes, offsets)[0].isnan().all(1).tolist() == [False, True]


def test_a_centroid_that_does_not_exist_is_seen_behind_others_that_do(bits, draw_codes):
    """In the last of several tiles, which is not full."""
    codes = draw_codes(40, 8, bits)
    codes.centroid_ids[38] = 37
    offsets = torch.tensor([0, 20, 39, 40])
    assert maxsim(torch.rand(3, 8), codes, document_offsets=offsets)[0].isnan().tolist() == [False, True, False]
    values, rows = token_maxima(torch.rand(3, 8), codes, offsets)
    assert values.isnan().all(1).tolist() == [False, True, False]
    assert (rows[0] < 20).all()
    assert (rows[2] == 39).all()


def test_nan_queries_score_nan(bits, draw_codes):
    query = torch.rand(2, 3, 8)
    query[1, 2, 3] = torch.nan
    scores = maxsim(query, draw_codes(10, 8, bits), document_offsets=torch.tensor([0, 4, 10]))
    assert scores.isnan().tolist() == [[False, False], [True, True]]


def test_codes_have_no_gradient(bits, draw_codes):
    query = torch.rand(2, 8, requires_grad=True)
    with pytest.raises(ValueError, match="no gradient"):
        maxsim(query, draw_codes(10, 8, bits), document_offsets=torch.tensor([0, 10]))
    with torch.no_grad():
        assert maxsim(query, draw_codes(10, 8, bits), document_offsets=torch.tensor([0, 10])).shape == (1, 1)


def test_codes_that_do_not_fit_are_named(draw_codes):
    good = draw_codes(10, 8, 4)
    book, columns = good.codebook, [good.centroid_ids, good.scales, good.residuals]
    with pytest.raises(ValueError, match="bits must be 1, 2, 4 or 8, but are 3"):
        Codebook(book.centroids, book.steps, bits=3)
    with pytest.raises(TypeError, match=r"steps of codes must be torch.float32, but are torch.float64"):
        Codebook(book.centroids, book.steps.double(), bits=4)
    with pytest.raises(ValueError, match=r"steps must be \(8,\) like a centroid, but have the shape \(7,\)"):
        Codebook(book.centroids, book.steps[1:], bits=4)
    with pytest.raises(ValueError, match=r"residuals of 10 tokens with 8 dimensions in 2 bits.*\(10, 2\).*\(10, 4\)"):
        Codes(Codebook(book.centroids, book.steps, bits=2), *columns)
    with pytest.raises(ValueError, match="need offsets"):
        maxsim(torch.rand(2, 8), good)
    with pytest.raises(ValueError, match="differ in their last size"):
        maxsim(torch.rand(2, 9), good, document_offsets=torch.tensor([0, 10]))
