"""Segments in code and the approximate lane: what is found, what it scores, and when it is chosen."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stopped import before_recoding, fill_unevenly
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.scoring import set_threads
from fastlane_rag.search.lanes.gather import Gatherer, probe
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage import postings as postings_module
from fastlane_rag.storage.postings import Postings, build_postings
from fastlane_rag.upkeep import recode, write


def codecs(path):
    """The codec of each segment, oldest first, and the names of the codecs that are kept."""
    with sqlite3.connect(path / "catalogue.sqlite3") as catalogue:
        segments = [codec for (codec,) in catalogue.execute("SELECT codec FROM segments ORDER BY segment")]
        return segments, [name for (name,) in catalogue.execute("SELECT name FROM codecs ORDER BY codec")]


@pytest.fixture(scope="module")
def texts(passages):
    """Real text in pieces of forty words, more than the approximate lane refines."""
    words = " ".join(passage["text"] for passage in passages).split()
    return [" ".join(words[i : i + 40]) for i in range(0, 40 * 900, 40)]


@pytest.fixture(scope="module")
def queries(texts):
    return [" ".join(text.split()[5:20:2]) for text in texts[::60]]


@pytest.fixture(scope="module")
def index(texts, tmp_path_factory):
    """Segments in two codecs, one in half precision, pending documents, dead rows."""
    path = tmp_path_factory.mktemp("lanes") / "index"
    with (
        pytest.MonkeyPatch.context() as patch,
        FastLaneIndex.create(path, model=WordModel(), codec="residual4") as index,
    ):
        patch.setattr(recode, "TRAIN_TOKENS", 1000)
        patch.setattr(recode, "GROWTH", 3)
        patch.setattr(write, "SMALL_BYTES", 20_000)

        fill_unevenly(index, texts, patch)
        segments, kept = codecs(path)
        assert len(set(segments)) == len(segments) == 3
        assert segments[:2] == kept
        assert segments[2] == "fp16"
        assert index.stats().pending == 10
        patch.undo()
        yield index


def hits(index, query, k=10, **options):
    return index.search_batch_detailed([query], k, **options)[0].hits


def test_the_lanes_agree(index, queries):
    """Of the ten best, nearly all are found, and each has the score that an exhaustive search gives it."""
    shares = []
    for query in queries:
        exact = {hit.id: hit.score for hit in hits(index, query, 900, route_k="all", lane="exhaustive")}
        found = hits(index, query, lane="approximate", depth=200)
        assert [hit.score for hit in found] == pytest.approx([exact[hit.id] for hit in found], abs=1e-4)
        assert found == sorted(found, key=lambda hit: (-hit.score, hit.id))
        shares.append(len({hit.id for hit in found} & set(list(exact)[:10])) / 10)
    assert np.mean(shares) > 0.95


def test_unrefined_scores_are_partial_summaxsim(index, queries):
    for query in queries[:5]:
        exact = {hit.id: hit.score for hit in hits(index, query, 900, route_k=3, refine=False, lane="exhaustive")}
        [result] = index.search_batch_detailed([query], 10, route_k=3, refine=False, lane="approximate")
        assert (result.candidates, result.refined) == (0, 0)
        assert [hit.score for hit in result.hits] == pytest.approx([exact[hit.id] for hit in result.hits], abs=1e-4)


def test_documents_of_every_part_are_found_by_their_own_words(index, texts):
    for i in range(3, 900, 13):
        if i % 100 != 7:
            assert hits(index, texts[i], 1, lane="approximate")[0].id == f"{i:04}"


@pytest.mark.parametrize("k", [1, 10, 300, 2000])
@pytest.mark.parametrize(
    ("filter", "matching"),
    [(None, 891), ({"i": {"$lt": 500}}, 495), ({"i": {"$gte": 815}}, 85), ({"i": 3}, 1), ({"i": 7}, 0)],
    ids=["all", "half", "the last parts", "one", "none"],
)
def test_k_is_filled_whatever_the_filter(index, queries, k, filter, matching):
    for nprobe in (1, None):
        found = hits(index, queries[3], k, filter=filter, lane="approximate", nprobe=nprobe)
        assert len({hit.id for hit in found}) == len(found) == min(k, matching)
        allowed = set(index.ids(filter))
        assert {hit.id for hit in found} <= allowed


def test_the_report_counts_what_was_compared(index, queries):
    [result] = index.search_batch_detailed(queries[:1], 5, route_k=2, depth=50, lane="approximate")
    with index._storage.view() as view:
        lists = [len(part.source.codec.codebook.centroids) for part in view.snapshot.parts[:2]]
    assert result.lane == "approximate"
    # Fifty of each codec, fifty in half precision, and ties with the last of each.
    assert 150 <= result.candidates < 200
    plain = 80 * 40
    # More than fifty documents of each codec are gathered: their vectors are compared, then their tokens near the
    # query's two, not all 40.
    assert 100 < result.gathered - 2 * (sum(lists) + plain) < 810 * (1 + 2 * 40 / 4)
    compared, rest = divmod(result.refined, 8)
    assert rest == 0
    assert 40 * result.candidates < compared <= 40 * result.candidates + sum(lists)


@pytest.mark.parametrize(
    "policy",
    [
        SearchPolicy(rescore_least=200, rescore_comparisons=200, rescore_each=3),
        SearchPolicy(sift_kept=1, sift_each=2),
    ],
    ids=["by rows alone", "by vectors"],
)
def test_fewer_to_refine_are_rescored_from_fewer(index, queries, policy):
    """Re-scored documents are proportional to the depth, up to the default depth."""
    assert SearchPolicy().rescore_refined == SearchPolicy().refine_least

    def gathered(depth):
        options = {"depth": depth, "lane": "approximate", "nprobe": 8, "policy": policy}
        return index.search_batch_detailed(queries[:1], 5, **options)[0].gathered

    assert gathered(16) < gathered(32) < gathered(64)


@pytest.mark.parametrize("route_k", [1, 2, 4])
def test_vectors_tell_few_tokens_what_the_others_say(index, queries, monkeypatch, route_k):
    """With as many refined, more of exhaustive's ten are found where vectors choose among what few tokens gathered."""

    def found():
        few = SearchPolicy(sift_kept=48, sift_each=2)  # few enough that vectors are worth comparing
        options = {"lane": "approximate", "route_k": route_k, "depth": 24, "policy": few}
        return [{hit.id for hit in hits(index, query, **options)} for query in queries]

    best = [{hit.id for hit in hits(index, query, lane="exhaustive", route_k="all")} for query in queries]
    with_vectors = sum(len(ids & ten) for ids, ten in zip(found(), best, strict=True))
    monkeypatch.setattr("fastlane_rag.search.plan.Guess", lambda *_: lambda numbers: None)
    without = sum(len(ids & ten) for ids, ten in zip(found(), best, strict=True))
    assert with_vectors > without


def test_the_planner_chooses_by_what_there_is_to_rank(index, queries):
    def lane(**options):
        return index.search_batch_detailed(queries[:1], **options)[0].lane

    assert lane() == "approximate"
    assert lane(route_k="all") == "exhaustive"
    assert lane(filter={"i": {"$lt": 300}}) == "exhaustive"
    assert lane(k=300) == "exhaustive"
    assert lane(lane="exhaustive") == "exhaustive"
    policy = SearchPolicy()
    assert 4 * max(policy.refine_least, 10 * policy.refine_factor) < len(index)
    with FastLaneIndex.create(model=WordModel()) as plain:
        plain.add([f"word{i} and more" for i in range(900)])
        assert plain.search_batch_detailed(["word5"])[0].lane == "exhaustive"


def test_without_the_compiled_kernel_all_is_exhaustive(index, queries, monkeypatch):
    from fastlane_rag.search import plan

    expected = hits(index, queries[0], lane="exhaustive")
    monkeypatch.setattr(plan, "can_gather", lambda: False)
    assert hits(index, queries[0]) == expected
    with pytest.raises(InvalidInputError, match="needs the compiled kernels"):
        hits(index, queries[0], lane="approximate")


def test_scores_without_the_compiled_kernels_are_the_same(index, queries, monkeypatch):
    """Equal except for the rounding of query and centroids to bytes, which may swap hits at the end of the list."""
    expected = hits(index, queries[0], lane="approximate")
    monkeypatch.setattr("fastlane_rag.scoring.codes.query.kernels", SimpleNamespace(available=lambda: False))
    found = hits(index, queries[0], lane="approximate")
    rounding = 0.02
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=rounding)
    least = expected[-1].score + 2 * rounding
    sure = [{hit.id for hit in some if hit.score > least} for some in (expected, found)]
    assert sure[0] <= {hit.id for hit in found}
    assert sure[1] <= {hit.id for hit in expected}
    assert len(sure[0]) > len(expected) // 2


def test_threads_do_not_disturb_each_other(index, queries):
    expected = [hits(index, query, lane="approximate") for query in queries]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(lambda query: hits(index, query, lane="approximate"), queries)) == expected


@pytest.mark.parametrize(
    ("knob", "value"), [("lane", "fast"), ("nprobe", 0), ("nprobe", 2.5), ("depth", -1), ("depth", True)]
)
def test_knobs_must_mean_something(index, knob, value):
    with pytest.raises(InvalidInputError, match=knob):
        hits(index, "words", **{knob: value})


def test_codecs_have_names():
    with pytest.raises(InvalidInputError, match=r"codec must be 'auto', 'fp16', .* not 'zip'"):
        FastLaneIndex.create(model=WordModel(), codec="zip")


@pytest.mark.parametrize("codec", ["fp16", "residual1", "residual2", "residual4", "residual8"])
def test_an_index_stays_as_it_is_through_merges_copies_and_reopening(tmp_path, texts, queries, monkeypatch, codec):
    """Rows of one codec are copied code by code: not a bit of a score changes."""
    monkeypatch.setattr(recode, "TRAIN_TOKENS", 1000)
    monkeypatch.setattr(write, "SMALL_BYTES", 20_000)
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel(), codec=codec) as index:
        for first in (0, 100, 200):
            index.add(texts[first : first + 100], [f"{i}" for i in range(first, first + 100)])
        index.delete(["5", "150"])
        segments, _ = codecs(path)
        assert len(segments) == 3
        assert all(name.startswith(codec) for name in segments)
        before = [hits(index, query, 400, route_k="all") for query in queries]
        assert len(before[0]) == 298
        index.compact()
        assert codecs(path)[0] == segments[:1]
        assert [hits(index, query, 400, route_k="all") for query in queries] == before
        assert index.verify() == []
        index.save(tmp_path / "copy")
    for folder in (path, tmp_path / "copy"):
        with FastLaneIndex.open(folder, model=WordModel()) as again:
            assert [hits(again, query, 400, route_k="all") for query in queries] == before
            assert again.verify() == []
            again.add(["okapi9 zebra9"], ["more"])
            assert hits(again, "okapi9 zebra9", 1)[0].id == "more"


def test_few_tokens_stay_exact(tmp_path, texts):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel(), codec="residual1") as index:
        index.add(texts[:300])
        index.compact(retrain=True)
    assert codecs(tmp_path / "index") == (["fp16"], [])


def test_a_grown_index_gets_a_new_codec_and_forgets_the_old_one(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(recode, "TRAIN_TOKENS", 1000)
    monkeypatch.setattr(write, "SMALL_BYTES", 20_000)
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=WordModel()) as index:
        index.add(texts[:60])
        [first], _ = codecs(path)
        index.add(texts[60:400])
        assert codecs(path) == ([first, first], [first])
        with pytest.MonkeyPatch.context() as patch:
            before_recoding(patch)
            index.add(texts[400:800])
            segments, kept = codecs(path)
            assert segments[:2] == [first, first]
            assert kept == [first, segments[2]]
            assert segments[2] != first
        index.add(texts[800:801])  # the next write continues recoding
        segments, [second] = codecs(path)
        assert segments == [second] * 3
        index.compact()
        assert codecs(path) == ([second], [second])
        index.compact(retrain=True)
        [last], kept = codecs(path)
        assert kept == [last] != [second]
        assert hits(index, texts[5], 1)[0].text == texts[5]
        index.delete(filter={})
        index.compact(retrain=True)
        assert (len(index), index.verify(), codecs(path)[0]) == (0, [], [])


rows = st.integers(1, 12).flatmap(
    lambda lists: st.tuples(
        st.just(lists), st.lists(st.lists(st.integers(0, lists - 1), min_size=1, max_size=6), max_size=20)
    )
)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 9))
def test_postings_name_each_document_once(drawn, block):
    lists, documents = drawn
    offsets = np.cumsum([0, *map(len, documents)])
    flat = np.array([c for document in documents for c in document], np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings_module, "_BLOCK", block)
        arrays = build_postings(lambda first, last: flat[first:last], offsets, lists)
    starts, found = arrays["posting_offsets"], arrays["postings"]
    assert found.dtype == np.uint16
    for c in range(lists):
        expected = [n for n, document in enumerate(documents) if c in document]
        assert found[starts[c] : starts[c + 1]].tolist() == expected


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 5), st.integers(1, 14), st.integers(0, 2**32 - 1), st.booleans(), st.integers(1, 5))
def test_gathering_is_what_it_says(drawn, tokens, nprobe, seed, filtered, block):
    """Compare with the definition: each token's best probed centroid, or where there is none the best one not probed.

    The documents are in two segments, one with wider numbers, and two threads scan their postings in blocks.
    """
    lists, documents = drawn
    chance = np.random.default_rng(seed)
    cut = int(chance.integers(0, len(documents) + 1))
    segments = []
    for some, width in ((documents[:cut], np.uint16), (documents[cut:], np.uint32)):
        offsets = np.cumsum([0, *map(len, some)])
        flat = np.array([c for document in some for c in document], np.uint16)
        arrays = build_postings(lambda first, last: flat[first:last], offsets, lists)  # noqa: B023
        segments.append(Postings(arrays["postings"].astype(width), arrays["posting_offsets"], len(some)))
    policy = SearchPolicy(gather_block=block, gather_postings=1)
    searched = Gatherer(segments, [0, cut], len(documents), policy)
    products = chance.standard_normal((lists, tokens + 2)).astype(np.float32)
    allowed = chance.random(len(documents)) < 0.5 if filtered else None

    expected = {}
    for n, document in enumerate(documents):
        parts, touched = [], False
        for column in range(tokens):
            order = sorted(range(lists), key=lambda c: -products[c, column])
            mine = [products[c, column] for c in document if c in order[:nprobe]]
            touched |= bool(mine)
            parts.append(max(mine, default=products[order[min(nprobe, lists - 1)], column]))
        if touched and (allowed is None or allowed[n]):
            expected[n] = sum(parts)
    for threads in (1, 2):  # the second gather reuses the buffers of the first
        set_threads(threads)
        found, scores = searched.gather(probe(products, tokens, nprobe), allowed)
        set_threads(None)
        assert sorted(found.tolist()) == sorted(expected)
        assert dict(zip(found.tolist(), scores.tolist(), strict=True)) == pytest.approx(expected, abs=1e-4)


def test_postings_beyond_the_documents_are_passed_over():
    """A damaged file may have them. Nothing outside the arrays is accessed."""
    searched = Gatherer([Postings(np.array([0, 60000, 1, 9], np.uint16), np.array([0, 2, 4]), 2)], [0], 2)
    found, _ = searched.gather(probe(np.ones((2, 1), np.float32), 1, 2), None)
    assert sorted(found.tolist()) == [0, 1]
    with pytest.raises(ValueError, match="do not divide"):
        Postings(np.array([0], np.uint16), np.array([0, 2]), 2)
