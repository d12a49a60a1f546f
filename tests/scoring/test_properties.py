"""Properties MaxSim has by definition, searched by hypothesis over lengths and contents."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from fastlane_rag.scoring import maxsim

lengths = st.lists(st.integers(0, 12), min_size=1, max_size=8)
settings.register_profile("scoring", max_examples=40, deadline=None)


def draw(seed: int, count: int, dim: int = 6) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def offsets(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


@settings(settings.get_profile("scoring"))
@given(lengths, st.randoms(use_true_random=False), st.integers(0, 99))
def test_permuting_documents_permutes_scores(lengths, random, seed):
    query, rows = draw(seed, 4), draw(seed + 1, sum(lengths))
    order = list(range(len(lengths)))
    random.shuffle(order)
    split = rows.split(lengths)
    shuffled = torch.cat([split[n] for n in order])
    straight = maxsim(query, rows, document_offsets=offsets(lengths))
    permuted = maxsim(query, shuffled, document_offsets=offsets([lengths[n] for n in order]))
    torch.testing.assert_close(permuted, straight[:, order])


@settings(settings.get_profile("scoring"))
@given(lengths, lengths, st.integers(0, 5), st.integers(0, 99))
def test_packing_is_padding(query_lengths, document_lengths, extra, seed):
    def both(lengths, seed):
        rows = draw(seed, sum(lengths))
        mask = torch.arange(max(lengths) + extra) < torch.tensor(lengths)[:, None]
        padded = torch.full((*mask.shape, rows.shape[1]), 1e6, dtype=rows.dtype)
        padded[mask] = rows
        return rows, padded, mask

    queries, padded_queries, query_mask = both(query_lengths, seed)
    documents, padded_documents, document_mask = both(document_lengths, seed + 1)
    packed = maxsim(
        queries,
        documents,
        query_offsets=offsets(query_lengths),
        document_offsets=offsets(document_lengths),
    )
    padded = maxsim(padded_queries, padded_documents, query_mask=query_mask, document_mask=document_mask)
    torch.testing.assert_close(padded, packed)


@settings(settings.get_profile("scoring"))
@given(lengths, st.data(), st.integers(0, 99))
def test_scoring_in_parts_is_scoring_at_once(lengths, data, seed):
    cut = data.draw(st.integers(0, len(lengths)))
    query, rows = draw(seed, 4), draw(seed + 1, sum(lengths))
    whole = maxsim(query, rows, document_offsets=offsets(lengths))
    here = sum(lengths[:cut])
    parts = [
        maxsim(query, rows[:here], document_offsets=offsets(lengths[:cut])),
        maxsim(query, rows[here:], document_offsets=offsets(lengths[cut:])),
    ]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


@settings(settings.get_profile("scoring"))
@given(st.lists(st.booleans(), min_size=1, max_size=9), lengths, st.integers(0, 99))
def test_weights_of_zero_and_one_are_a_mask(keep, lengths, seed):
    query, rows = draw(seed, len(keep))[None], draw(seed + 1, sum(lengths))
    mask = torch.tensor([keep])
    masked = maxsim(query, rows, document_offsets=offsets(lengths), query_mask=mask)
    weighted = maxsim(query, rows, document_offsets=offsets(lengths), query_weights=mask.double())
    torch.testing.assert_close(weighted, masked)


@settings(settings.get_profile("scoring"))
@given(lengths, st.integers(0, 99))
def test_repeating_a_token_changes_no_score(lengths, seed):
    query, rows = draw(seed, 4), draw(seed + 1, sum(lengths))
    doubled = rows.repeat_interleave(2, dim=0)
    straight = maxsim(query, rows, document_offsets=offsets(lengths))
    torch.testing.assert_close(maxsim(query, doubled, document_offsets=2 * offsets(lengths)), straight)


@pytest.mark.parametrize("scale", [2.0, 0.5])
def test_scores_scale_with_the_query(scale):
    query, rows = draw(0, 4), draw(1, 9)
    scores = maxsim(query, rows, document_offsets=torch.tensor([0, 4, 9]))
    torch.testing.assert_close(maxsim(query * scale, rows, document_offsets=torch.tensor([0, 4, 9])), scores * scale)
