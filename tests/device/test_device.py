"""Searches over resident documents, compared with scores of all documents on the host."""

import gc
import re
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from fastlane_rag.device import Asked, Device, Resident, search
from fastlane_rag.errors import DeviceError
from fastlane_rag.scoring import Codes, maxsim

PLENTY = 1 << 30


def scores(sources, query, weights=None):
    """(N,) of all documents, on the host."""
    found = [
        maxsim(query, source.packed, document_offsets=source.offsets, query_weights=weights)[0].numpy()
        for source in sources
    ]
    return np.concatenate(found)


def best(values, depth):
    """The documents that score no less than the depth-th best, ascending."""
    return np.flatnonzero((values >= np.sort(values)[-depth]) & (values > -np.inf)).tolist()


def assert_chosen(found, expected, values):
    """These documents, with these scores but for rounding: the CPU rounds the query in another way."""
    assert found.numbers.tolist() == expected
    np.testing.assert_allclose(found.scores, values[expected], atol=0.02)


@pytest.fixture
def sources(library):
    """Three segments: in code, in code, and in half precision with a document that has no tokens."""
    return [library.codes(5, 3, 7, 1), library.codes(2, 9), library.halfs(4, 0, 6)]


def test_the_best_by_some_tokens_are_scored_with_all(library, device, sources):
    queries = [library.query(5), library.query(2), library.query(7)]
    routed = [queries[0][:2], queries[1][1:], queries[2][3:6]]
    collection = Resident(device, PLENTY).hold(sources)
    for found, query, few in zip(
        search(collection, Asked(routed), Asked(queries), None, 4), queries, routed, strict=True
    ):
        assert found.own == 4
        assert_chosen(found, best(scores(sources, few), 4), scores(sources, query))


def test_without_refinement_the_first_scores_count(library, device, sources):
    query = library.query(3)
    [found] = search(Resident(device, PLENTY).hold(sources), Asked([query]), None, None, 5)
    assert_chosen(found, best(scores(sources, query), 5), scores(sources, query))


def test_weights_multiply_the_maxima(library, device, sources):
    query, weights = library.query(4), torch.tensor([2.0, 0.0, 0.5, 1.0])
    collection = Resident(device, PLENTY).hold(sources)
    expected = scores(sources, query, weights)
    for gathering, refining in ((Asked([query], [weights]), None), (Asked([query]), Asked([query], [weights]))):
        [found] = search(collection, gathering, refining, None, 8)
        np.testing.assert_allclose(found.scores, expected[found.numbers], atol=0.03)


def test_filters_leave_documents_out(library, device, sources):
    query = library.query(3)
    collection = Resident(device, PLENTY).hold(sources)
    allowed = torch.tensor([True, False, False, True, False, True, True, True, False], device=device.torch)
    [found] = search(collection, Asked([query[:1]]), Asked([query]), allowed, 9)
    # Document 7 is allowed, and has no tokens.
    assert_chosen(found, [0, 3, 5, 6], scores(sources, query))
    [found] = search(collection, Asked([query]), None, torch.zeros_like(allowed), 9)
    assert (len(found.numbers), found.own) == (0, 0)


def test_documents_of_an_empty_index(device):
    [found] = search(Resident(device, PLENTY).hold([]), Asked([torch.rand(2, 16)]), None, None, 3)
    assert (len(found.numbers), found.own) == (0, 0)


@pytest.mark.parametrize("refined", [True, False], ids=["refined", "not-refined"])
def test_candidates_from_elsewhere_are_scored_too(library, device, sources, refined):
    queries = [library.query(3), library.query(2)]
    few = [query[:1] for query in queries]
    also = [np.array([8, 0, 1]), np.zeros(0, np.int64)]
    collection = Resident(device, PLENTY).hold(sources)
    found = search(collection, Asked(few), Asked(queries) if refined else None, None, 2, also)
    for n, one in enumerate(found):
        own = best(scores(sources, few[n]), 2)
        assert one.own == len(own)
        assert_chosen(one, sorted({*own, *also[n].tolist()}), scores(sources, (queries if refined else few)[n]))


def test_all_that_tie_with_the_last_are_chosen(library, device):
    """As many copies of a document as there are, beside a better one."""
    same, good = library.halfs(3), library.halfs(2)
    query = good.packed.float()
    copies = replace(same, packed=same.packed.repeat(50, 1), offsets=np.arange(51) * 3)
    collection = Resident(device, PLENTY).hold([good, copies])
    queries = [query, -query]
    found = search(collection, Asked(queries), Asked([query, query]), None, 2)
    assert found[0].numbers.tolist() == list(range(51))
    assert found[1].numbers.tolist() == best(scores([good, copies], -query), 2)
    assert len(found[1].numbers) >= 50


def test_a_score_that_is_no_number_is_never_best(library, device):
    source = library.codes(3, 3, 3)
    source.packed.centroid_ids[4] = 60_000  # no such centroid: the file is damaged
    query = library.query(2)
    [found] = search(Resident(device, PLENTY).hold([source]), Asked([query]), None, None, 3)
    assert found.numbers.tolist() == [0, 2]


def test_only_new_segments_are_copied(library, device, sources):
    resident = Resident(device, PLENTY)
    first = resident.hold(sources[:2])
    copied = device.copied
    second = resident.hold(sources)
    assert device.copied - copied == sources[2].packed.nbytes + 16 * 3
    assert second.resident_bytes == first.resident_bytes + sources[2].packed.nbytes + 16 * 3
    assert [block for _, block in second.blocks[:2]] == [block for _, block in first.blocks]


def test_segments_that_are_gone_leave_the_device(library, device, sources):
    resident = Resident(device, PLENTY)
    before = resident.hold(sources)
    gone = weakref.ref(before.blocks[0][1])
    resident.hold(sources[1:])
    gc.collect()
    assert gone() is not None, "a search may still go on over what was there before"
    query = library.query(2)
    [found] = search(before, Asked([query]), None, None, 3)
    assert_chosen(found, best(scores(sources, query), 3), scores(sources, query))
    del before
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("share", [0, 0.3, 0.7], ids="{}-resident".format)
@pytest.mark.parametrize("block", [1, 200], ids="blocks-of-{}-bytes".format)
def test_what_does_not_fit_is_streamed(library, device, sources, monkeypatch, share, block):
    monkeypatch.setattr("fastlane_rag.device.resident._BLOCK_BYTES", block)
    monkeypatch.setattr("fastlane_rag.device.memory._STAGE_BYTES", 24)
    whole = Resident(device, PLENTY).hold(sources).resident_bytes
    collection = Resident(device, int(share * whole)).hold(sources)
    assert collection.resident_bytes <= share * whole
    assert collection.resident_bytes + collection.streamed_bytes == whole
    assert collection.streamed_bytes >= (1 - share) * whole
    queries = [library.query(3), library.query(5)]
    few = [query[:1] for query in queries]
    allowed = torch.tensor([True] * 8 + [False], device=device.torch)
    for found, query, one in zip(search(collection, Asked(few), Asked(queries), allowed, 4), queries, few, strict=True):
        partial = np.where(allowed.cpu(), scores(sources, one), -np.inf)
        assert_chosen(found, best(partial, 4), scores(sources, query))


def test_a_device_that_is_full_keeps_what_it_has(library, device, sources):
    """The budget was too hopeful: something else took the memory."""
    whole = Resident(device, PLENTY).hold(sources[:1]).resident_bytes
    device.memory, device.copied = device.copied + 10, 0
    collection = Resident(device, PLENTY).hold(sources)
    assert collection.resident_bytes == whole
    assert collection.streamed_bytes > 0
    device.memory = 1 << 40
    query = library.query(2)
    [found] = search(collection, Asked([query]), None, None, 3)
    assert_chosen(found, best(scores(sources, query), 3), scores(sources, query))
    device.memory = 0
    with pytest.raises(torch.OutOfMemoryError):
        search(collection, Asked([query]), None, None, 3)


def test_codecs_may_differ_from_segment_to_segment(library, device):
    first = library.codes(3, 4)
    library.codec = None
    sources = [first, library.codes(5, 2)]
    query = library.query(3)
    [found] = search(Resident(device, PLENTY).hold(sources), Asked([query[:2]]), Asked([query]), None, 3)
    assert isinstance(first.packed, Codes)
    assert_chosen(found, best(scores(sources, query[:2]), 3), scores(sources, query))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuda:x", "device must be None or the name of a CUDA device, such as 'cuda:0', not 'cuda:x'"),
        ("mps", "an index can be searched on a CUDA device, not on 'mps'"),
        (7.5, "not 7.5"),
    ],
    ids=str,
)
def test_what_is_no_device_is_named(name, message):
    with pytest.raises(DeviceError, match=re.escape(message)):
        Device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_machine_without_cuda_is_told_plainly(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(DeviceError, match="needs torch with CUDA"):
        Device("cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    with pytest.raises(DeviceError, match="no CUDA device can be used; nvidia-smi says"):
        Device("cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(DeviceError, match="there are 2 CUDA devices, numbered from 0"):
        Device("cuda:2")
