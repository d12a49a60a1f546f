"""An index whose documents are on a device, for which the CPU stands in: the same hits as without one."""

import gc
import os
import pickle
import warnings
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from word_model import DIM, WordModel, exact_score

from fastlane_rag import FastLaneIndex
from fastlane_rag.codecs.means import by_torch
from fastlane_rag.device import Device
from fastlane_rag.errors import DeviceError, FastLaneWarning
from fastlane_rag.search.policy import SearchPolicy

WORDS = [f"{first}{last}" for first in "bcdfgklmnprst" for last in ("a", "en", "irus", "ostel", "undation")]
EXHAUSTIVE = {"lane": "exhaustive", "depth": 12}


class StandIn(Device):
    """The CPU as a CUDA device. `failure` is what the next copy to it raises."""

    failure: Exception | None = None
    copied = 0
    records = False
    recorded = 0

    def __init__(self, name):
        super().__init__("cpu")

    def put(self, tensor):
        if StandIn.failure is not None:
            raise StandIn.failure
        StandIn.copied += tensor.nbytes
        return super().put(tensor)

    def pool(self):
        return None

    def record(self, work, pool):
        StandIn.recorded += 1
        return work


@pytest.fixture
def cuda(monkeypatch):
    """A process that has a device."""
    monkeypatch.setattr("fastlane_rag.device.Device", StandIn)
    monkeypatch.setattr(StandIn, "failure", None)
    monkeypatch.setattr(StandIn, "copied", 0)
    monkeypatch.setattr(StandIn, "recorded", 0)


@pytest.fixture
def texts():
    chance = np.random.default_rng(3)
    return [" ".join(chance.choice(WORDS, chance.integers(1, 20))) for _ in range(180)]


@pytest.fixture
def both(cuda, tmp_path, texts, word_model, small_limits, monkeypatch):
    """The same index twice: with a device and without. It has several segments, in code and not, and pending rows."""
    monkeypatch.setattr("fastlane_rag.upkeep.recode.TRAIN_TOKENS", 500)
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model, codec="residual4") as index:
        for first in range(0, 180, 30):
            some = slice(first, first + 30)
            index.add(texts[some], [f"d{n}" for n in range(first, first + 30)], [{"n": n} for n in range(30)])
            if first == 120:
                index.optimize()
        index.delete([f"d{n}" for n in range(0, 180, 7)])
        with FastLaneIndex.open(path, model=word_model, device="cuda") as on_device:
            yield on_device, index


def assert_same(found, expected):
    """The same hits; scores may differ by the rounding of a query to 8 bits."""
    for mine, theirs in zip(found, expected, strict=True):
        assert [hit.id for hit in mine] == [hit.id for hit in theirs]
        np.testing.assert_allclose([hit.score for hit in mine], [hit.score for hit in theirs], atol=0.05)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"route_k": 2},
        {"route_k": "all"},
        {"route_k": 2, "refine": False},
        {"route_k": 2, "hybrid": True},
        {"route_k": 2, "hybrid": 0.5, "refine": False},
        {"route_k": 1, "hybrid": True, "fusion": "rrf"},
        {"filter": {"n": {"$lt": 9}}, "route_k": 1},
        {"filter": {"n": 77}},
    ],
    ids=str,
)
def test_hits_are_those_of_the_cpu(both, texts, options):
    on_device, index = both
    queries = [*texts[:12], "bundation dirus", "word that nobody knows"]
    with warnings.catch_warnings():
        warnings.simplefilter("error", FastLaneWarning)
        found = on_device.search_batch_detailed(queries, 5, **EXHAUSTIVE, **options)
    expected = index.search_batch_detailed(queries, 5, **EXHAUSTIVE, **options)
    assert_same([one.hits for one in found], [one.hits for one in expected])
    for mine, theirs in zip(found, expected, strict=True):
        costs = [(one.candidates, one.gathered, one.refined, one.by_words, one.lane) for one in (mine, theirs)]
        assert costs[0] == costs[1]


def test_commits_deletes_and_merges_are_seen_and_only_what_is_new_is_copied(both, texts, word_model):
    on_device, index = both
    before = on_device.search_batch(texts[:5], 5, **EXHAUSTIVE)
    copied = StandIn.copied
    assert copied > 10_000
    index.add(["zzyzx zzyzx"], ["new"])
    [hits] = on_device.search_batch(["zzyzx"], 1, **EXHAUSTIVE)
    assert [hit.id for hit in hits] == ["new"]
    assert StandIn.copied - copied < copied / 2
    copied = StandIn.copied
    index.delete([before[0][0].id])
    assert_same(on_device.search_batch(texts[:5], 5, **EXHAUSTIVE), index.search_batch(texts[:5], 5, **EXHAUSTIVE))
    assert StandIn.copied - copied < 2000, "a mask of the living"
    index.compact()
    assert_same(on_device.search_batch(texts[:5], 5, **EXHAUSTIVE), index.search_batch(texts[:5], 5, **EXHAUSTIVE))
    stats = index.stats()
    codes = stats.tokens * (DIM // 2 + 3) + 16 * stats.documents
    assert stats.segments == 1
    assert on_device.stats().device.resident == codes


def test_what_does_not_fit_is_streamed_and_said(both, texts, word_model, monkeypatch):
    on_device, index = both
    on_device.search(texts[0])
    whole = on_device.stats().device
    assert (whole.name, whole.streamed, whole.lost) == ("cpu", 0, False)
    monkeypatch.setattr(StandIn, "free", lambda self: whole.resident)
    monkeypatch.setattr("fastlane_rag.device.resident._BLOCK_BYTES", 500)
    policy = SearchPolicy(device_share=0.5)
    with FastLaneIndex.open(index.path, model=word_model, device="cuda:1", policy=policy) as small:
        assert_same(small.search_batch(texts[:9], 5, **EXHAUSTIVE), index.search_batch(texts[:9], 5, **EXHAUSTIVE))
        assert_same(
            small.search_batch(texts[:9], 5, lane="vector", depth=40),
            index.search_batch(texts[:9], 5, lane="vector", depth=40),
        )
        stats = small.stats().device
    assert stats.budget == whole.resident // 2
    assert 0 < stats.resident <= stats.budget
    assert stats.resident + stats.streamed == whole.resident


def test_a_lane_that_is_asked_for_is_used(both, texts):
    on_device, _ = both
    for lane in ("approximate", "words"):
        [mine], [theirs] = (one.search_batch_detailed(texts[:1], 5, lane=lane) for one in both)
        assert mine.lane == theirs.lane
        assert_same([mine.hits], [theirs.hits])
    assert on_device.search_detailed(texts[0]).lane == "exhaustive"


@pytest.mark.parametrize("options", [{}, {"filter": {"n": {"$lt": 2}}}, {"hybrid": True, "route_k": 2}], ids=str)
def test_vectors_of_documents_are_on_the_device_too(both, texts, options):
    on_device, index = both
    copied = StandIn.copied
    found = on_device.search_batch_detailed(texts[:9], 5, lane="vector", depth=40, **options)
    assert {one.lane for one in found} == {"vector"}
    assert StandIn.copied > copied
    copied = StandIn.copied
    assert on_device.stats().device.resident == copied
    on_device.search_batch(texts[:9], 5, lane="vector", **options)
    assert StandIn.copied == copied
    expected = index.search_batch(texts[:9], 5, lane="vector", depth=40, **options)
    assert_same([one.hits for one in found], expected)
    StandIn.failure = RuntimeError("CUDA error")
    index.compact()
    with pytest.warns(FastLaneWarning, match="CUDA error; the CPU searches instead"):
        assert_same(
            on_device.search_batch(texts[:9], 5, lane="vector", depth=40, **options),
            index.search_batch(texts[:9], 5, lane="vector", depth=40, **options),
        )


@pytest.mark.parametrize("options", [{}, {"hybrid": True, "route_k": 2}, {"route_k": 1}], ids=str)
def test_searches_for_one_query_are_recorded(both, texts, word_model, monkeypatch, options):
    """What is recorded is found as ever: with filters, after deletes and after new documents."""
    _, index = both
    monkeypatch.setattr(StandIn, "records", True)
    monkeypatch.setattr("fastlane_rag.scoring.backends.never_waits", lambda *_: True)
    policy = SearchPolicy(device_graph_after=2)
    with FastLaneIndex.open(index.path, model=word_model, device="cuda", policy=policy) as on_device:

        def check(filter_):
            for text in texts[:9]:
                mine, theirs = (
                    one.search(text, 5, filter=filter_, **EXHAUSTIVE, **options) for one in (on_device, index)
                )
                assert_same([mine], [theirs])

        check(None)
        assert StandIn.recorded > 0
        check({"n": {"$lt": 9}})
        recorded = StandIn.recorded
        index.delete(["d1", "d2"])
        index.add([texts[0]], ["another"])
        check(None)
        assert StandIn.recorded > recorded
        recorded = StandIn.recorded
        on_device.search_batch(texts[:9], 5, **EXHAUSTIVE, **options)
        assert StandIn.recorded == recorded


def test_a_full_memory_leaves_one_batch_to_the_cpu(both, texts, monkeypatch):
    on_device, index = both
    on_device.search(texts[0], **EXHAUSTIVE)
    monkeypatch.setattr("fastlane_rag.device.searching.sent", lambda *_, **__: raise_(torch.OutOfMemoryError("full")))
    expected = index.search_batch(texts[:5], 5, **EXHAUSTIVE)
    with pytest.warns(FastLaneWarning, match="has too little memory for a batch of 5 queries: full; the CPU searches"):
        assert_same(on_device.search_batch(texts[:5], 5, **EXHAUSTIVE), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FastLaneWarning)
        assert_same(on_device.search_batch(texts[:5], 5, **EXHAUSTIVE), expected)
    assert not on_device.stats().device.lost


def test_a_lost_device_leaves_everything_to_the_cpu(both, texts, monkeypatch):
    on_device, index = both
    before = on_device.search(texts[0], **EXHAUSTIVE)
    there = weakref.ref(on_device._engine._resident.newest)
    StandIn.failure = RuntimeError("CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA")
    index.add(["zzyzx zzyzx"], ["new"])
    with pytest.warns(
        FastLaneWarning, match="cannot be used any longer: RuntimeError: CUDA error: unspecified"
    ) as told:
        [hits] = on_device.search_batch(["zzyzx"], 1, **EXHAUSTIVE)
    assert len(told) == 1
    assert [hit.id for hit in hits] == ["new"]
    del told
    gc.collect()
    assert there() is None, "a compiler that fails leaves a device with full memory"
    StandIn.failure = None
    with warnings.catch_warnings():
        warnings.simplefilter("error", FastLaneWarning)
        assert [hit.id for hit in on_device.search(texts[0], **EXHAUSTIVE)] == [hit.id for hit in before]
    assert on_device.stats().device == replace(on_device.stats().device, lost=True, resident=0, streamed=0)


def test_the_codec_is_trained_on_the_device_or_else_on_the_cpu(
    cuda, texts, word_model, small_limits, monkeypatch, caplog
):
    monkeypatch.setattr("fastlane_rag.upkeep.recode.TRAIN_TOKENS", 500)
    asked = []

    def means(rows, count, iterations, device):
        asked.append(device)
        if len(asked) == 1:
            return by_torch(rows, count, iterations, "cpu")
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("fastlane_rag.codecs.means.device_means", means)
    for told in ("", "cuda:1 could not train the codec, so the CPU does: the device is gone"):
        with FastLaneIndex.create(model=word_model, device="cuda:1", codec="residual4") as index:
            index.add(texts)
            index.optimize()
            assert told in caplog.text
            query = "bundation dirus"
            expected = max(exact_score(query, text) for text in texts)
            assert index.search(query, 1)[0].score == pytest.approx(expected, abs=0.1)
    assert asked == ["cuda:1", "cuda:1"]


def test_no_graph_is_built_where_a_device_has_the_vectors(both, texts, word_model, monkeypatch):
    _, index = both
    asked = {"lane": "vector", "depth": 20}
    expected = index.search_batch(texts[:9], 5, **asked)
    monkeypatch.setattr("fastlane_rag.search.graph.Graph", lambda _: raise_(AssertionError("a graph")))
    monkeypatch.setattr("fastlane_rag.search.vectors._WORTH_TWO", 0)
    policy = SearchPolicy(vector_graph=1)
    with FastLaneIndex.open(index.path, model=word_model, device="cuda", policy=policy) as on_device:
        assert_same(on_device.search_batch(texts[:9], 5, **asked), expected)


def raise_(error):
    raise error


def test_threads_share_what_is_on_the_device(both, texts):
    from concurrent.futures import ThreadPoolExecutor

    on_device, index = both
    expected = index.search_batch(texts[:16], 5, **EXHAUSTIVE)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda text: on_device.search(text, 5, **EXHAUSTIVE), texts[:16]))
    assert_same(found, expected)
    assert StandIn.copied < 1.1 * on_device.stats().device.resident + 10_000, "each segment was copied once"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_copy_of_an_index_opens_its_device_again(both, texts):
    on_device, index = both
    copied = StandIn.copied
    with pickle.loads(pickle.dumps(on_device)) as copy:
        assert_same([copy.search(texts[0], 5, **EXHAUSTIVE)], [index.search(texts[0], 5, **EXHAUSTIVE)])
        assert copy.stats().device is not None
    assert StandIn.copied > copied


@pytest.mark.slow
def test_real_questions_find_the_same_passages(cuda, tmp_path, model, passages, monkeypatch):
    monkeypatch.setattr("fastlane_rag.upkeep.recode.TRAIN_TOKENS", 10_000)
    some = passages[:600:2]
    with FastLaneIndex.create(tmp_path / "index", model=model) as index:
        index.add([one["text"] for one in some], [one["id"] for one in some])
        index.optimize()
        queries = [" ".join(one["text"].split()[10:22]) for one in some[::10]]
        with FastLaneIndex.open(tmp_path / "index", model=model, device="cuda") as on_device:
            for options in ({}, {"route_k": 1}, {"route_k": "all"}, {"hybrid": True}):
                mine = on_device.search_batch(queries, 10, lane="exhaustive", **options)
                theirs = index.search_batch(queries, 10, lane="exhaustive", **options)
                assert [[hit.id for hit in hits] for hits in mine] == [[hit.id for hit in hits] for hits in theirs]


@pytest.mark.gpu
def test_hits_of_a_device_are_those_of_the_cpu(tmp_path, texts, word_model, small_limits, monkeypatch):
    monkeypatch.setattr("fastlane_rag.upkeep.recode.TRAIN_TOKENS", 500)
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model, codec="residual4") as index:
        index.add(texts[:120], metadatas=[{"n": n} for n in range(120)])
        index.optimize()
        with FastLaneIndex.open(path, model=word_model, device="cuda") as on_device:
            index.add(texts[120:], metadatas=[{"n": n} for n in range(60)])
            for options in ({}, {"route_k": 2}, {"route_k": 1, "hybrid": True}, {"filter": {"n": {"$lt": 9}}}):
                with warnings.catch_warnings():
                    warnings.simplefilter("error", FastLaneWarning)
                    found = on_device.search_batch(texts[:40], 5, **EXHAUSTIVE, **options)
                assert_same(found, index.search_batch(texts[:40], 5, **EXHAUSTIVE, **options))
            assert on_device.stats().device.resident > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_cuda_an_index_is_refused_before_anything_is_made(tmp_path, word_model):
    for opening in (FastLaneIndex.create, FastLaneIndex.open_or_create, FastLaneIndex.open):
        with pytest.raises(DeviceError, match="device='cuda'"):
            opening(tmp_path / "index", model=word_model, device="cuda")
    assert not (tmp_path / "index").exists()
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        assert index.stats().device is None
