"""Searches that are recorded, compared with the same searches that are not."""

import gc
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from fastlane_rag.device import Asked, Device, Resident, search
from fastlane_rag.device.recording import Recordings
from fastlane_rag.device.searching import _found
from fastlane_rag.device.sending import received, sent
from fastlane_rag.errors import FastLaneWarning
from fastlane_rag.scoring import Codebook, Codes, backends
from fastlane_rag.scoring.inputs import Packed
from fastlane_rag.scoring.triton import backend as triton_backend

PLENTY = 1 << 30
again = partial(search, record_after=0)


@pytest.fixture
def sources(library):
    return [library.codes(5, 3, 7, 1), library.codes(2, 9), library.halfs(4, 0, 6)]


def assert_same(found, expected):
    """The same documents, with the same scores: the same kernels computed them."""
    for mine, theirs in zip(found, expected, strict=True):
        assert (mine.numbers.tolist(), mine.own) == (theirs.numbers.tolist(), theirs.own)
        np.testing.assert_allclose(mine.scores, theirs.scores, rtol=1e-6)


def test_recorded_searches_find_the_same(library, recording, sources):
    collection = Resident(recording, PLENTY).hold(sources)
    for tokens in (5, 2, 8, 7):
        query = library.query(tokens)
        few = query[: 1 + tokens // 3]
        assert_same(
            again(collection, Asked([few]), Asked([query]), None, 4),
            search(collection, Asked([few]), Asked([query]), None, 4),
        )
    assert (recording.recorded, recording.replayed) == (1, 4), "up to 8 tokens are of one shape"
    query, weights = library.query(3), torch.tensor([2.0, 0.0, 0.5])
    for _ in range(2):
        for asked in (Asked([query]), Asked([query], [weights])):
            assert_same(again(collection, asked, None, None, 4), search(collection, asked, None, None, 4))
    assert (recording.recorded, recording.replayed) == (3, 8)


def test_searches_are_recorded_when_there_are_many_like_them(library, recording, sources):
    collection = Resident(recording, PLENTY).hold(sources)
    for _ in range(4):
        search(collection, Asked([library.query(2)]), None, None, 3, record_after=3)
    assert (recording.recorded, recording.replayed) == (1, 1)
    search(collection, Asked([library.query(2)]), None, None, 4, record_after=3)
    assert recording.replayed == 1, "another depth"


def test_filters_of_a_recorded_search_may_change(library, recording, sources):
    collection = Resident(recording, PLENTY).hold(sources)
    query = Asked([library.query(3)])
    for seed in range(4):
        allowed = torch.from_numpy(np.random.default_rng(seed).random(9) < 0.5).to(recording.torch)
        for mask in (allowed, None):
            assert_same(again(collection, query, None, mask, 9), search(collection, query, None, mask, 9))
    assert (recording.recorded, recording.replayed) == (2, 8)


def test_candidates_from_elsewhere_have_their_place(library, recording, sources):
    collection = Resident(recording, PLENTY).hold(sources)
    query = library.query(3)
    for also in ([8, 0, 1], [2], list(range(9))):
        arguments = collection, Asked([query[:1]]), Asked([query]), None, 2, [np.array(also)]
        assert_same(again(*arguments), search(*arguments))
    assert (recording.recorded, recording.replayed) == (1, 3)


def test_more_ties_than_there_is_room_for_are_found(library, recording):
    same = library.halfs(3)
    copies = replace(same, packed=same.packed.repeat(50, 1), offsets=np.arange(51) * 3)
    collection = Resident(recording, PLENTY).hold([library.codes(3, 3), copies])
    query = same.packed.float()
    for depth in (1, 2):
        [found] = again(collection, Asked([query]), None, None, depth)
        assert found.numbers.tolist() == list(range(2, 52))
    assert recording.replayed == 2


def test_a_commit_ends_what_was_recorded(library, recording, sources):
    resident = Resident(recording, PLENTY)
    before = resident.hold(sources[:2])
    query = Asked([library.query(2)])
    old = again(before, query, None, None, 6)
    after = resident.hold(sources)
    assert_same(again(after, query, None, None, 6), search(after, query, None, None, 6))
    assert recording.recorded == 2
    assert_same(again(before, query, None, None, 6), old)
    assert recording.recorded == 2
    gone = weakref.ref(before.recordings)
    del before
    gc.collect()
    assert gone() is None


def test_few_recordings_are_kept(library, recording, sources, monkeypatch):
    monkeypatch.setattr("fastlane_rag.device.recording._KEPT", 2)
    monkeypatch.setattr("fastlane_rag.device.recording._COUNTED", 3)
    collection = Resident(recording, PLENTY).hold(sources)
    query = Asked([library.query(2)])
    for depth in (1, 2, 3, 4, 5, 1):
        assert_same(again(collection, query, None, None, depth), search(collection, query, None, None, depth))
        assert len(collection.recordings.kept) <= 2
        assert len(collection.recordings.searched) <= 3
    assert recording.recorded == 6
    assert len(recording.pools) == 3, "memory of recordings that are gone takes no new ones"


def test_where_recording_fails_searches_go_on_without(library, recording, sources):
    resident = Resident(recording, PLENTY)
    collection = resident.hold(sources)
    query = Asked([library.query(2)])
    again(collection, query, None, None, 2)
    recording.failure = RuntimeError("operation not permitted when stream is capturing\nmore")
    expected = search(collection, query, None, None, 3)
    with pytest.warns(FastLaneWarning, match="cannot record searches as CUDA graphs: operation not permitted") as told:
        assert_same(again(collection, query, None, None, 3), expected)
    assert [one.category for one in told].count(FastLaneWarning) == 1
    assert collection.recordings.kept == {}
    recording.failure = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", FastLaneWarning)
        for some in (collection, resident.hold(sources[:2])):
            assert_same(again(some, query, None, None, 3), search(some, query, None, None, 3))
    assert (recording.recorded, recording.replayed) == (1, 1)


def test_what_cannot_be_recorded_is_not(library, recording, sources, monkeypatch):
    query, long = library.query(2), library.query(257)
    streamed = Resident(recording, 0).hold(sources)
    resident = Resident(recording, PLENTY).hold(sources)
    again(streamed, Asked([query]), None, None, 2)
    again(resident, Asked([query, query]), None, None, 2)
    again(resident, Asked([query]), Asked([long]), None, 2)
    search(resident, Asked([query]), None, None, 2)
    monkeypatch.setattr(backends, "never_waits", lambda *_: False)
    again(resident, Asked([query]), None, None, 2)
    again(Resident(Device("cpu"), PLENTY).hold(sources), Asked([query]), None, None, 2)
    assert recording.recorded == 0


def test_torch_is_not_recorded(library, monkeypatch):
    """On a device that is too old for the kernels, torch scores, and waits for the device."""
    rows = library.halfs(3).packed
    monkeypatch.setattr(backends, "_COMPILED", {"cpu": triton_backend})
    for here in (True, False):
        monkeypatch.setattr(triton_backend, "available", lambda device, here=here: here)
        assert backends.never_waits(torch.empty(0), rows) is here


def test_threads_take_turns(library, recording, sources):
    collection = Resident(recording, PLENTY).hold(sources)
    queries = [Asked([library.query(1 + n % 7)]) for n in range(40)]
    expected = [search(collection, query, None, None, 1 + n % 3) for n, query in enumerate(queries)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda n: again(collection, queries[n], None, None, 1 + n % 3), range(40)))
    for mine, theirs in zip(found, expected, strict=True):
        assert_same(mine, theirs)
    assert (recording.recorded, recording.replayed) == (3, 40)


class OnlyLaunches(TorchDispatchMode):
    """Fails where something is read from the device, or copied to it."""

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        result = called(*args, **(kwargs or {}))
        made = [one for one in torch.utils._pytree.tree_leaves(result) if isinstance(one, torch.Tensor)]
        read = [one for one in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        # A number is an argument of a kernel.
        assert all(one.device.type == "meta" or one.ndim == 0 for one in (*made, *read)), f"{called} is on the host"
        return result


class NoKernel:
    """Stands for a kernel that is compiled."""

    launched = 0

    def __getitem__(self, grid):
        return self._launch

    def _launch(self, *arguments, **constants):
        NoKernel.launched += 1
        assert all(one.device.type == "meta" for one in arguments if isinstance(one, torch.Tensor))


def away(documents):
    """A block's documents where nothing can be read: on torch's device without data."""
    rows = documents.rows
    if isinstance(rows, Codes):
        book = Codebook(rows.codebook.centroids.to("meta"), rows.codebook.steps.to("meta"), rows.codebook.bits)
        rows = Codes(book, *(part.to("meta") for part in (rows.centroid_ids, rows.scales, rows.residuals)))
    else:
        rows = rows.to("meta")
    return Packed(rows, documents.starts.to("meta"), documents.lengths.to("meta"))


@pytest.mark.parametrize("refined", [True, False], ids=["refined", "not-refined"])
@pytest.mark.parametrize("count", [1, 3], ids="{}-queries".format)
@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "all"])
def test_a_search_only_launches_kernels(library, sources, monkeypatch, refined, count, filtered):
    """Or it could not be recorded, and would wait for the device on the way."""
    pytest.importorskip("triton")
    monkeypatch.setattr(backends, "_COMPILED", {"meta": triton_backend})
    monkeypatch.setattr(triton_backend, "available", lambda device: True)
    monkeypatch.setattr("fastlane_rag.scoring.triton.codes.codes_kernel", NoKernel())
    monkeypatch.setattr("fastlane_rag.scoring.triton.kernels.maxsim_kernel", NoKernel())
    device = Device("cpu")
    collection = Resident(device, PLENTY).hold(sources)
    for _, block in collection.blocks:
        block.documents = away(block.documents)
    device.torch = torch.device("meta")
    queries = [library.query(3 + n) for n in range(count)]
    also = [np.arange(n) for n in range(count)]
    shape, packed = sent(Asked(queries), Asked(queries) if refined else None, also, rounded=count == 1)
    allowed = torch.ones(9, dtype=torch.bool, device="meta") if filtered else None
    NoKernel.launched, there = 0, packed.to("meta")
    with OnlyLaunches():
        found = _found(collection, shape, there, allowed, depth=4)
    assert found.shape == (count, 2 * (5 + shape.also) + 1)
    assert NoKernel.launched == (6 if refined or shape.also else 3)


@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_what_is_sent_is_received(library, rounded, weighted):
    queries = [library.query(tokens) for tokens in (3, 1, 6)]
    weights = [torch.rand(len(query)) for query in queries] if weighted else None
    also = [np.array([7, 5]), np.zeros(0, np.int64), np.array([3])]
    shape, packed = sent(Asked(queries, weights), Asked([query[:2] for query in queries]), also, rounded=rounded)
    there = received(shape, packed)
    for request, whole in ((there.gathering, queries), (there.refining, [query[:2] for query in queries])):
        for n, query in enumerate(whole):
            first, last = request.queries.starts[n], request.queries.starts[n] + request.queries.lengths[n]
            assert torch.equal(request.queries.rows[first:last], query)
            if request.weights is not None:
                assert torch.equal(request.weights[first:last], weights[n])
        assert request.longest >= max(map(len, whole))
        assert request.queries.rows.data_ptr() % 16 == packed.data_ptr() % 16
    assert (there.gathering.weights is not None) is weighted
    assert [row[row >= 0].tolist() for row in there.also] == [one.tolist() for one in also]
    assert len(there.also[0]) == (64 if rounded else 2)


def test_recordings_that_are_dropped_are_counted_anew():
    kept = Recordings({1: None}, object())
    kept.searched[1] = 5
    kept.drop()
    assert (kept.kept, kept.pool, kept.searched) == ({}, None, {})
