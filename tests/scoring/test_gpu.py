"""Scores and gradients on a CUDA device against the float64 definition."""

import pytest
import torch

from fastlane_rag.scoring import Codebook, Codes, maxsim, maxsim_groups, token_maxima
from fastlane_rag.scoring.reference import reference_maxsim, reference_token_maxima

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_scores_match_the_definition(case, dtype, assert_close):
    queries, documents = case.batches(dtype)
    actual = maxsim(
        queries.packed.cuda(),
        documents.packed.cuda(),
        query_offsets=queries.offsets,
        document_offsets=documents.offsets.cuda(),
    )
    assert actual.is_cuda
    assert_close(actual, reference_maxsim(queries.sequences, documents.sequences), dtype)


def test_float32_queries_keep_their_digits_on_half_documents(case, assert_close):
    """The kernel multiplies such queries in two parts; rounding them would miss the tolerance."""
    queries, _ = case.batches(torch.float32)
    _, documents = case.batches(torch.float16)
    actual = maxsim(
        queries.packed.cuda(),
        documents.packed.cuda(),
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
    )
    assert_close(actual, reference_maxsim(queries.sequences, documents.sequences))


def test_token_maxima_match_the_definition(case, dtype, assert_close):
    queries, documents = case.batches(dtype)
    for query in queries.sequences:
        values, argmax = token_maxima(query.cuda(), documents.packed.cuda(), documents.offsets)
        assert_close(values, reference_token_maxima(query, documents.sequences), dtype)
        assert (argmax.cpu() >= 0).tolist() == (documents.offsets.diff() > 0)[:, None].expand(argmax.shape).tolist()


def test_gradients_equal_those_on_the_cpu(dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(3, 17, 40, generator=generator).to(dtype),
        torch.randn(3, 4, 70, 40, generator=generator).to(dtype),
        torch.rand(3, 17, generator=generator).to(dtype),
    ]
    mask = torch.arange(70) < torch.randint(1, 71, (3, 4), generator=generator)[:, :, None]

    def gradients(device):
        leaves = [t.to(device).requires_grad_() for t in inputs]
        scores = maxsim_groups(leaves[0], leaves[1], document_mask=mask.to(device), query_weights=leaves[2])
        scores.square().sum().backward()
        return [leaf.grad.cpu().float() for leaf in leaves]

    tolerance = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-2 if dtype == torch.bfloat16 else 1e-3}
    for on_device, on_cpu in zip(gradients("cuda"), gradients("cpu"), strict=True):
        torch.testing.assert_close(on_device, on_cpu, **tolerance)


def on_device(codes, device="cuda"):
    """The codes there."""
    book = Codebook(codes.codebook.centroids.to(device), codes.codebook.steps.to(device), codes.codebook.bits)
    return Codes(book, codes.centroid_ids.to(device), codes.scales.to(device), codes.residuals.to(device))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_codes_score_as_what_they_decode_to(case, bits, draw_codes, tolerance):
    queries, documents = case.batches()
    codes = draw_codes(len(documents.packed), case.dim, bits)
    actual = maxsim(
        queries.packed.cuda(),
        on_device(codes),
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
    )
    expected = reference_maxsim(queries.sequences, codes.decode(slice(None)).split(case.documents))
    atol = max(case.queries, default=1) * tolerance(queries.packed, codes)
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_token_maxima_over_codes(case, bits, draw_codes, tolerance):
    queries, documents = case.batches()
    codes = draw_codes(len(documents.packed), case.dim, bits)
    decoded = codes.decode(slice(None))
    for query in queries.sequences:
        values, argmax = token_maxima(query.cuda(), on_device(codes), documents.offsets)
        expected = reference_token_maxima(query, decoded.split(case.documents))
        torch.testing.assert_close(values.cpu().double(), expected, rtol=1e-5, atol=tolerance(query, codes))
        assert (argmax.cpu() >= 0).tolist() == (documents.offsets.diff() > 0)[:, None].expand(argmax.shape).tolist()


def test_a_query_beyond_float16_and_a_centroid_that_does_not_exist(draw_codes):
    codes = draw_codes(20, 64, 4)
    codes.centroid_ids[15] = 37
    query, offsets = torch.rand(3, 64) * 2**20, torch.tensor([0, 10, 20])
    on_cpu = maxsim(query, codes, document_offsets=offsets)
    actual = maxsim(query.cuda(), on_device(codes), document_offsets=offsets).cpu()
    assert actual.isnan().tolist() == [[False, True]]
    torch.testing.assert_close(actual[:, :1], on_cpu[:, :1], rtol=1e-2, atol=2**14)
    halfs = torch.rand(20, 64).half()
    expected = maxsim(query, halfs, document_offsets=offsets)
    torch.testing.assert_close(maxsim(query.cuda(), halfs.cuda(), document_offsets=offsets).cpu(), expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_rows_may_be_on_another_device_than_the_current_one(draw_codes):
    codes, query, offsets = draw_codes(20, 64, 4), torch.rand(3, 64), torch.tensor([0, 10, 20])
    expected = maxsim(query.cuda(), on_device(codes), document_offsets=offsets).cpu()
    actual = maxsim(query.to("cuda:1"), on_device(codes, "cuda:1"), document_offsets=offsets)
    assert actual.device == torch.device("cuda:1")
    assert torch.equal(actual.cpu(), expected)
