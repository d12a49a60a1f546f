"""Gradients of MaxSim: by finite differences, and against autograd through the definition."""

import pytest
import torch

from fastlane_rag.scoring import maxsim, maxsim_groups
from fastlane_rag.scoring.reference import reference_maxsim
from fastlane_rag.scoring.torch import backend as torch_backend

pytestmark = pytest.mark.usefixtures("backend")


def _leaf(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_gradcheck_packed(weighted):
    weights = _leaf(6, seed=2) if weighted else None

    def score(queries, documents, weights):
        return maxsim(
            queries,
            documents,
            query_offsets=torch.tensor([0, 4, 6]),
            document_offsets=torch.tensor([0, 3, 4, 9]),
            query_weights=weights,
        )

    assert torch.autograd.gradcheck(score, (_leaf(6, 5, seed=0), _leaf(9, 5, seed=1), weights))


def test_gradcheck_padded_with_masks():
    query_mask = torch.tensor([[True, True, False], [True, False, False]])
    document_mask = torch.tensor([[True, True, True, False], [False, True, False, True]])

    def score(queries, documents, weights):
        return maxsim(queries, documents, query_mask=query_mask, document_mask=document_mask, query_weights=weights)

    assert torch.autograd.gradcheck(score, (_leaf(2, 3, 5, seed=0), _leaf(2, 4, 5, seed=1), _leaf(2, 3, seed=2)))


def test_gradcheck_groups():
    document_mask = torch.tensor([[[True, True, False], [True, True, True]], [[True, False, False]] * 2])

    def score(queries, documents, weights):
        return maxsim_groups(queries, documents, document_mask=document_mask, query_weights=weights)

    assert torch.autograd.gradcheck(score, (_leaf(2, 2, 4, seed=0), _leaf(2, 2, 3, 4, seed=1), _leaf(2, 2, seed=2)))


def test_gradients_match_autograd_through_the_definition(case, dtype, assert_close):
    queries, documents = case.batches(dtype)
    if 0 in (len(queries.packed), len(documents.packed)):
        pytest.skip("nothing to differentiate")
    weights = torch.linspace(0.5, 1.5, len(queries.packed), dtype=dtype)
    upstream = torch.linspace(-1, 1, len(case.queries) * len(case.documents), dtype=torch.float64)
    upstream = upstream.reshape(len(case.queries), -1)
    leaves = [t.clone().requires_grad_() for t in (queries.packed, documents.packed, weights)]
    scores = maxsim(
        leaves[0],
        leaves[1],
        query_offsets=queries.offsets,
        document_offsets=documents.offsets,
        query_weights=leaves[2],
    )
    filled = torch.tensor(case.documents) > 0
    (scores * upstream.to(scores.dtype))[:, filled].sum().backward()

    expected = [t.double().requires_grad_() for t in (queries.packed, documents.packed, weights)]
    reference = reference_maxsim(
        expected[0].split(case.queries), expected[1].split(case.documents), expected[2].split(case.queries)
    )
    (reference * upstream)[:, filled].sum().backward()
    for actual, wanted in zip(leaves, expected, strict=True):
        assert actual.grad.dtype == dtype
        # A gradient is stored in its leaf's dtype, so it is exact up to one rounding.
        torch.testing.assert_close(
            actual.grad.double(),
            wanted.grad,
            rtol=2 * torch.finfo(dtype).eps,
            atol=100 * torch.finfo(dtype).eps,
        )


def test_gradcheck_selection():
    def score(queries, documents):
        return maxsim(
            queries,
            documents,
            document_offsets=torch.tensor([0, 3, 4, 9]),
            selection=torch.tensor([2, 0, 2]),
        )

    assert torch.autograd.gradcheck(score, (_leaf(3, 5, seed=0), _leaf(9, 5, seed=1)))


def test_an_empty_document_gets_no_gradient():
    queries, documents = _leaf(3, 4, seed=0), _leaf(5, 4, seed=1)
    scores = maxsim(queries, documents, document_offsets=torch.tensor([0, 0, 5]))
    assert scores[0, 0] == -torch.inf
    scores.sum().backward()
    alone = [t.detach().clone().requires_grad_() for t in (queries, documents)]
    maxsim(alone[0], alone[1][None]).sum().backward()
    torch.testing.assert_close(queries.grad, alone[0].grad)
    torch.testing.assert_close(documents.grad, alone[1].grad)


@pytest.mark.parametrize("lengths", [[7, 0, 1, 12], [0, 0, 0, 20], [5, 15, 0, 0]], ids=str)
def test_small_blocks_change_no_gradient(lengths, monkeypatch):
    def gradients():
        leaves = [_leaf(8, 6, seed=0), _leaf(20, 6, seed=1), _leaf(8, seed=2)]
        scores = maxsim(
            *leaves[:2],
            query_offsets=torch.tensor([0, 3, 8]),
            document_offsets=torch.tensor([0, *lengths]).cumsum(0),
            query_weights=leaves[2],
        )
        scores[:, torch.tensor(lengths) > 0].square().sum().backward()
        return [leaf.grad for leaf in leaves]

    whole = gradients()
    monkeypatch.setattr(torch_backend, "CPU_BLOCK_BYTES", 64)
    for blocked, expected in zip(gradients(), whole, strict=True):
        torch.testing.assert_close(blocked, expected)


def test_only_the_requested_gradient_is_computed():
    weights = _leaf(3, seed=2)
    maxsim(torch.rand(3, 4), torch.rand(2, 5, 4), query_weights=weights).sum().backward()
    assert weights.grad.shape == (3,)
