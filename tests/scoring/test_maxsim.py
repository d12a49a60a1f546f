"""MaxSim against its definition in float64: shapes, dtypes, layouts, blocks, bad input."""

import itertools

import numpy as np
import pytest
import torch

from fastlane_rag.scoring import maxsim, maxsim_groups, token_maxima
from fastlane_rag.scoring.reference import reference_maxsim, reference_token_maxima
from fastlane_rag.scoring.torch import backend as torch_backend

pytestmark = pytest.mark.usefixtures("backend")


def test_packed_matches_the_definition(case, dtype, assert_close):
    queries, documents = case.batches(dtype)
    actual = maxsim(
        queries.packed,
        documents.packed,
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
    )
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(actual, reference_maxsim(queries.sequences, documents.sequences), dtype)


@pytest.mark.parametrize("layouts", list(itertools.product(["padded", "packed"], repeat=2)), ids="-".join)
def test_either_side_may_be_padded_or_packed(case, layouts, assert_close):
    queries, documents = case.batches()
    left = {"query_mask": queries.mask} if layouts[0] == "padded" else {"query_offsets": queries.offsets}
    right = {"document_mask": documents.mask} if layouts[1] == "padded" else {"document_offsets": documents.offsets}
    actual = maxsim(getattr(queries, layouts[0]), getattr(documents, layouts[1]), **left, **right)
    assert_close(actual, reference_maxsim(queries.sequences, documents.sequences))


def test_more_documents_than_a_launch_has_programs(backend, monkeypatch, assert_close):
    """On a device there are up to 2 ** 31 programs, one a document and some queries."""
    if backend != "triton":
        pytest.skip("a CPU has no launches")
    monkeypatch.setattr("fastlane_rag.scoring.triton.backend._MOST_PROGRAMS", 7)
    generator = torch.Generator().manual_seed(0)
    queries = [torch.randn(length, 8, generator=generator) for length in (70, 2, 33)]
    documents = [torch.randn(length, 8, generator=generator) for length in (3, 0, 9, 1, 4, 6, 2, 5)]
    bounds = [np.cumsum([0, *map(len, rows)]) for rows in (queries, documents)]
    offsets = dict(zip(("query_offsets", "document_offsets"), bounds, strict=True))
    actual = maxsim(torch.cat(queries), torch.cat(documents), **offsets)
    assert_close(actual, reference_maxsim(queries, documents))
    values, rows = token_maxima(queries[0], torch.cat(documents), bounds[1])
    assert_close(values, reference_token_maxima(queries[0], documents))
    for n, document in enumerate(documents):
        best = (queries[0] @ document.T).argmax(1) + bounds[1][n] if len(document) else torch.full((70,), -1)
        assert torch.equal(rows[n], best)


def test_weights_multiply_each_token_maximum(case, assert_close):
    queries, documents = case.batches()
    weights = [torch.linspace(-1, 2, len(q)) for q in queries.sequences]
    expected = reference_maxsim(queries.sequences, documents.sequences, weights)
    packed_weights = torch.cat([torch.empty(0), *weights])
    padded_weights = torch.full(queries.mask.shape, torch.nan)
    padded_weights[queries.mask] = packed_weights

    packed = maxsim(
        queries.packed,
        documents.packed,
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
        query_weights=packed_weights,
    )
    padded = maxsim(
        queries.padded,
        documents.packed,
        query_mask=queries.mask,
        document_offsets=documents.offsets,
        query_weights=padded_weights,
    )
    assert_close(packed, expected)
    assert_close(padded, expected)


def test_groups_score_each_query_against_its_own_documents(dtype, assert_close):
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 5, 17, generator=generator).to(dtype)
    documents = torch.randn(3, 4, 9, 17, generator=generator).to(dtype)
    query_mask = torch.arange(5) < torch.tensor([5, 2, 4])[:, None]
    document_mask = torch.arange(9) < torch.tensor([[9, 1, 0, 3], [2, 2, 2, 2], [8, 9, 1, 5]])[:, :, None]
    weights = torch.rand(3, 5, generator=generator)

    actual = maxsim_groups(
        queries, documents, query_mask=query_mask, document_mask=document_mask, query_weights=weights
    )
    for b in range(3):
        expected = reference_maxsim(
            [queries[b][query_mask[b]]],
            [documents[b, n][document_mask[b, n]] for n in range(4)],
            [weights[b][query_mask[b]]],
        )
        assert_close(actual[b : b + 1], expected, dtype)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)], ids=["no-queries", "no-documents"])
def test_empty_groups_give_empty_scores(shape):
    batch, count = shape
    assert maxsim_groups(torch.rand(batch, 4, 8), torch.rand(batch, count, 5, 8)).shape == shape


def test_token_maxima_are_what_the_score_sums(case, dtype, assert_close):
    queries, documents = case.batches(dtype)
    for query in queries.sequences:
        values, argmax = token_maxima(query, documents.packed, documents.offsets)
        assert_close(values, reference_token_maxima(query, documents.sequences), dtype)
        assert argmax.shape == values.shape
        for n, (start, end) in enumerate(itertools.pairwise(documents.offsets.tolist())):
            if start == end:
                assert (argmax[n] == -1).all()
                continue
            assert ((argmax[n] >= start) & (argmax[n] < end)).all()
            matched = (query.double() * documents.packed[argmax[n]].double()).sum(1)
            assert_close(values[n], matched, dtype)


def test_dtypes_may_be_mixed(assert_close):
    query, document = torch.rand(3, 16), torch.rand(9, 16).half()
    assert_close(maxsim(query, document[None]), reference_maxsim([query], [document]))


def test_queries_beyond_the_range_of_float16(assert_close):
    """On documents in half precision: tokens of any size, each with its own weight."""
    query, document = torch.rand(3, 16) * torch.tensor([[2.0**20], [1.0], [7e4]]), torch.rand(9, 16).half()
    weights = torch.tensor([2**-20, 1.0, 1e-5])
    assert_close(maxsim(query, document[None], query_weights=weights), reference_maxsim([query], [document], [weights]))
    values, _ = token_maxima(query, document, torch.tensor([0, 4, 9]))
    assert_close(values, reference_token_maxima(query, [document[:4], document[4:]]))


def test_numpy_arrays_are_accepted(assert_close):
    query, document = np.random.default_rng(0).random((2, 4, 8), dtype=np.float32)
    document.setflags(write=False)
    actual = maxsim(query, document, document_offsets=np.array([0, 1, 4]))
    rows = torch.tensor(document)
    assert_close(actual, reference_maxsim([torch.tensor(query)], [rows[:1], rows[1:]]))


def test_a_strided_view_scores_as_its_copy(assert_close):
    wide = torch.rand(12, 40)
    offsets = torch.tensor([0, 5, 12])
    view, query = wide[:, ::4], torch.rand(10, 3).T
    assert_close(
        maxsim(query, view, document_offsets=offsets),
        reference_maxsim([query], [view[:5], view[5:]]),
    )


def test_a_selection_scores_as_its_documents_alone(case, dtype, assert_close):
    """Numbers may repeat and come in any order."""
    queries, documents = case.batches(dtype)
    numbers = torch.randint(len(case.documents), (7,)) if case.documents else torch.empty(0, dtype=torch.int64)
    chosen = [documents.sequences[n] for n in numbers]
    actual = maxsim(
        queries.packed,
        documents.packed,
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
        selection=numbers,
    )
    assert_close(actual, reference_maxsim(queries.sequences, chosen), dtype)
    for query in queries.sequences:
        values, argmax = token_maxima(query, documents.packed, documents.offsets, selection=numbers)
        assert_close(values, reference_token_maxima(query, chosen), dtype)
        numbers_found, tokens_found = (argmax >= 0).nonzero(as_tuple=True)
        matched = documents.packed[argmax[numbers_found, tokens_found]]
        similarity = (query[tokens_found].double() * matched.double()).sum(-1)
        assert_close(values[numbers_found, tokens_found], similarity, dtype)


def test_many_query_tokens_cross_tiles(assert_close):
    """Token counts around every width of the CPU kernels' query tiles."""
    documents = [torch.rand(n, 11) - 0.5 for n in (3, 20, 8)]
    offsets = torch.tensor([0, 3, 23, 31])
    for count in (1, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32, 33, 63, 64, 65, 100, 129):
        query = torch.rand(count, 11) - 0.5
        actual = maxsim(query, torch.cat(documents), document_offsets=offsets)
        assert_close(actual, reference_maxsim([query], documents))


def test_small_blocks_change_nothing(case, monkeypatch, assert_close):
    """With a budget of a few tokens every query and document is a block of its own."""
    queries, documents = case.batches()
    monkeypatch.setattr(torch_backend, "CPU_BLOCK_BYTES", 64)
    actual = maxsim(
        queries.packed,
        documents.packed,
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
    )
    assert_close(actual, reference_maxsim(queries.sequences, documents.sequences))


@pytest.mark.parametrize("spoilt", ["query", "document"])
def test_nan_is_never_hidden(spoilt):
    """A NaN embedding makes its own scores NaN, and no others."""
    query, documents = torch.rand(2, 3, 8), torch.rand(2, 5, 8)
    (query if spoilt == "query" else documents)[1, 2, 3] = torch.nan
    bad = maxsim(query, documents).isnan()
    assert bad.tolist() == ([[False] * 2, [True] * 2] if spoilt == "query" else [[False, True]] * 2)


BAD_INPUT = {
    "dimension": (
        {"queries": torch.rand(1, 2, 8), "documents": torch.rand(3, 4, 9)},
        r"\(1, 2, 8\).*\(3, 4, 9\)",
    ),
    "offsets-fall": (
        {
            "queries": torch.rand(2, 8),
            "documents": torch.rand(4, 8),
            "document_offsets": torch.tensor([0, 3, 2, 4]),
        },
        r"offsets\[1\] = 3 and offsets\[2\] = 2",
    ),
    "offsets-short": (
        {
            "queries": torch.rand(2, 8),
            "documents": torch.rand(4, 8),
            "document_offsets": torch.tensor([0, 3]),
        },
        "from 0 to the 4 rows given, but run from 0 to 3",
    ),
    "offsets-float": (
        {
            "queries": torch.rand(2, 8),
            "documents": torch.rand(4, 8),
            "document_offsets": torch.tensor([0.0, 4.0]),
        },
        "must be .* integers.*float32",
    ),
    "offsets-missing": ({"queries": torch.rand(2, 8), "documents": torch.rand(4, 8)}, "need offsets"),
    "offsets-and-padded": (
        {
            "queries": torch.rand(2, 8),
            "documents": torch.rand(1, 4, 8),
            "document_offsets": torch.tensor([0, 4]),
        },
        "came with offsets too",
    ),
    "mask-and-packed": (
        {"queries": torch.rand(2, 8), "documents": torch.rand(1, 4, 8), "query_mask": torch.ones(1, 2)},
        "came with a mask",
    ),
    "mask-shape": (
        {"queries": torch.rand(2, 8), "documents": torch.rand(1, 4, 8), "document_mask": torch.ones(1, 3)},
        r"\(1, 4\).*\(1, 3\)",
    ),
    "weights-shape": (
        {"queries": torch.rand(2, 8), "documents": torch.rand(1, 4, 8), "query_weights": torch.ones(3)},
        r"\(2,\).*\(3,\)",
    ),
    "selection-outside": (
        {
            "queries": torch.rand(2, 8),
            "documents": torch.rand(4, 8),
            "document_offsets": torch.tensor([0, 4]),
            "selection": torch.tensor([0, 1]),
        },
        "numbers from 0 to 0, but runs from 0 to 1",
    ),
    "selection-of-wrong-offsets": (
        {
            "queries": torch.rand(2, 8),
            "documents": torch.rand(4, 8),
            "document_offsets": torch.tensor([0, 2, 9]),
            "selection": torch.tensor([1]),
        },
        "1 cannot own the rows 2 to 9 of the 4 given",
    ),
    "one-dimensional": ({"queries": torch.rand(8), "documents": torch.rand(1, 4, 8)}, r"\(8,\)"),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_is_named(name):
    arguments, message = BAD_INPUT[name]
    with pytest.raises(ValueError, match=message):
        maxsim(**arguments)


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"floating point.*int64"):
        maxsim(torch.ones(2, 8, dtype=torch.int64), torch.rand(1, 4, 8))


def test_groups_refuse_another_batch_size():
    with pytest.raises(ValueError, match="same first size"):
        maxsim_groups(torch.rand(2, 3, 8), torch.rand(3, 2, 4, 8))
