"""BM25 and its fusion with the routed search."""

import sqlite3
import stat
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_model import WordModel, hybrid_scores

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import IndexFormatError, InvalidInputError
from fastlane_rag.search.bm25 import LexicalLane
from fastlane_rag.storage import lexicon as lexicon_module
from fastlane_rag.storage.lexicon import Lexicon, build_lexicon, count_document, merge_lexicons
from fastlane_rag.storage.records import row_checksum
from fastlane_rag.storage.words import count_words
from fastlane_rag.upkeep import merge, recode, write


@pytest.fixture(scope="module")
def texts(passages):
    """Real text in ASCII, by id."""
    found = {passage["id"]: passage["text"].encode("ascii", "ignore").decode() for passage in passages[:150]}
    return {id_: " ".join(text.split()[:60]) for id_, text in found.items()}


@pytest.fixture
def ragged(tmp_path, texts, small_limits, monkeypatch):
    """The texts in segments in code and in half precision, and pending, with replaced and deleted ones between."""
    monkeypatch.setattr(recode, "TRAIN_TOKENS", 1500)
    monkeypatch.setattr(write, "SMALL_BYTES", 4000)
    monkeypatch.setattr(merge, "PENDING_BYTES", 20_000)
    names = list(texts)
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        for first in range(0, 150, 10):
            some = names[first : first + 10]
            index.add([f"replaced {texts[name]}" if first == 40 else texts[name] for name in some], some)
        index.add(["gone at once", texts[names[41]]], ["gone", names[41]])
        index.add([texts[name] for name in names[40:50]], names[40:50])
        index.delete(["gone", *names[20:23]])
        index.add([texts[name] for name in names[20:23]], names[20:23])
        stats = index.stats()
        assert stats.segments > 1
        assert stats.pending > 0
        assert stats.dead > 0
        yield index


QUERIES = ["type hints for function annotations", "the of and PEP 484", "nothing-like-this qqq", "", "a a a list"]


def check(index, texts, query, k, **options):
    expected = hybrid_scores(query, texts)
    hits = index.search(query, k, hybrid=True, **options)
    best = sorted(expected, key=lambda id_: -expected[id_])[:k]
    assert [hit.score for hit in hits] == pytest.approx([expected[id_] for id_ in best], abs=2e-3)
    assert len({hit.id for hit in hits}) == len(hits)
    for hit in hits:
        assert hit.score == pytest.approx(expected[hit.id], abs=2e-3)


@pytest.mark.parametrize("query", QUERIES)
def test_scores_are_sum_max_sim_and_bm25(tmp_path, texts, query):
    with FastLaneIndex.create(model=WordModel(), codec="fp16") as index:
        index.add(list(texts.values()), list(texts))
        check(index, texts, query, 20)
        check(index, texts, query, 500, route_k="all")


def test_scores_do_not_depend_on_how_documents_came_in(ragged, texts):
    """BM25 is the same to the last bit, whatever was replaced, deleted, merged and compacted."""
    with FastLaneIndex.create(model=WordModel()) as other:
        other.add(list(texts.values()), list(texts))
        expected = lexical_scores(other, QUERIES)
    assert lexical_scores(ragged, QUERIES) == expected
    ragged.compact()
    assert lexical_scores(ragged, QUERIES) == expected
    with FastLaneIndex.open(ragged.path, model=WordModel(), read_only=True) as opened:
        assert lexical_scores(opened, QUERIES) == expected
    assert ragged.verify() == []


def lexical_scores(index, queries):
    with index._storage.view() as view:
        numbers = view.snapshot.live_numbers
        names = dict(zip(view.reader.ids_at(view.snapshot.places(numbers)), numbers, strict=True))
        state = index._states.of(view.snapshot)
        lane, allowed = state.lexical(view.reader), state.allowed(view.reader, None)
        found = [lane.scores(query, allowed) for query in queries]
        return [{name: float(scores[number]) for name, number in sorted(names.items())} for scores in found]


@pytest.mark.parametrize("lane", ["exhaustive", "approximate"])
@pytest.mark.parametrize("refine", [True, False])
def test_filters_and_counts_hold(ragged, texts, lane, refine):
    wanted = set(list(texts)[10:45])
    ragged.update_metadata(list(texts), [{"wanted": id_ in wanted} for id_ in texts])
    for condition in ({"wanted": True}, lambda metadata: metadata["wanted"]):
        for k in (0, 1, 7, 35, 200):
            hits = ragged.search("type hints in functions", k, filter=condition, lane=lane, refine=refine, hybrid=True)
            assert len(hits) == len({hit.id for hit in hits}) == min(k, 35)
            assert {hit.id for hit in hits} <= wanted
            assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
    assert ragged.search("anything", filter={"wanted": None}, hybrid=True) == []


def test_words_find_what_tokens_do_not(texts):
    """A code is found in a document that the routed tokens do not gather."""
    with FastLaneIndex.create(model=WordModel(), codec="fp16") as index:
        index.add([f"{text} extraordinarily {n}" for n, text in enumerate([*texts.values()] * 2)])
        index.add(["err 4711 , reset"], ["code"])
        query = "extraordinarily err 4711"
        assert "code" not in {hit.id for hit in index.search(query, 3, route_k=1)}
        assert index.search(query, 3, route_k=1, hybrid=True)[0].id == "code"


def test_ties_go_by_id(word_model):
    with FastLaneIndex.create(model=word_model) as index:
        index.add(["the same words"] * 30 + ["others"], [f"{i:02}" for i in range(29, -1, -1)] + ["x"])
        assert [hit.id for hit in index.search("same words", 5, hybrid=True)] == ["00", "01", "02", "03", "04"]


def test_a_batch_finds_what_single_searches_find(ragged):
    batch = ragged.search_batch(QUERIES, 5, hybrid=True)
    single = [ragged.search(query, 5, hybrid=True) for query in QUERIES]
    assert [[hit.id for hit in hits] for hits in batch] == [[hit.id for hit in hits] for hits in single]
    assert ragged.search_batch([], hybrid=True) == []


def test_an_empty_index_has_no_hits(index):
    assert index.search("anything", hybrid=True) == []


def test_encoded_queries_need_their_texts(ragged):
    routed = ragged.model.encode_routed(QUERIES)
    with pytest.raises(InvalidInputError, match="give the texts"):
        ragged.search_batch_detailed(routed, hybrid=True)
    with pytest.raises(InvalidInputError, match="5 queries but 1 texts"):
        ragged.search_batch_detailed(routed, hybrid=True, texts=QUERIES[:1])
    found = [result.hits for result in ragged.search_batch_detailed(routed, 5, hybrid=True, texts=QUERIES)]
    assert found == ragged.search_batch(QUERIES, 5, hybrid=True)


def test_the_report_counts_what_words_brought(ragged, texts):
    plain = ragged.search_batch_detailed([QUERIES[0]], 3, lane="approximate", depth=3)[0]
    hybrid = ragged.search_batch_detailed([QUERIES[0]], 3, lane="approximate", depth=3, hybrid=True)[0]
    assert plain.by_words == 0 < hybrid.by_words == hybrid.candidates - plain.candidates
    assert hybrid.gathered == plain.gathered
    assert hybrid.refined > plain.refined


def test_an_index_from_before_the_lexical_lane(tmp_path, texts, monkeypatch):
    """Words are counted when they are first needed, read-only as well, and written when segments are."""
    names = list(texts)
    with monkeypatch.context() as patch, FastLaneIndex.create(tmp_path / "old", model=WordModel()) as index:
        patch.setattr(Lexicon, "arrays", lambda self: {})
        patch.setattr(write, "SMALL_BYTES", 4000)
        index.add([texts[name] for name in names[:100]], names[:100])
        index.add([texts[name] for name in names[100:]], names[100:])
        index.delete(names[3:5])
    left = {name: text for name, text in texts.items() if name not in names[3:5]}
    with FastLaneIndex.create(model=WordModel()) as other:
        other.add(list(left.values()), list(left))
        expected = lexical_scores(other, QUERIES)
    with FastLaneIndex.open(tmp_path / "old", model=WordModel(), read_only=True) as index:
        assert lexical_scores(index, QUERIES) == expected
        assert index.verify() == []
    with FastLaneIndex.open(tmp_path / "old", model=WordModel()) as index:
        index.compact()
        with index._storage.view() as view:
            assert [part.source.has_words for part in view.snapshot.parts] == [True]
        assert lexical_scores(index, QUERIES) == expected
        assert index.verify() == []


def test_an_index_that_nobody_may_write_to(ragged, texts, tmp_path):
    path = ragged.path
    expected = ragged.search(QUERIES[0], 5, hybrid=True)
    ragged.close()
    for file in [path, *path.rglob("*")]:
        file.chmod(stat.S_IREAD | (stat.S_IEXEC if file.is_dir() else 0))
    with FastLaneIndex.open(path, model=WordModel(), read_only=True) as index:
        assert index.search(QUERIES[0], 5, hybrid=True) == expected
    for file in [path, *path.rglob("*")]:
        file.chmod(0o755)


def test_verify_compares_words_with_texts(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(write, "SMALL_BYTES", 4000)
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add(list(texts.values()), list(texts))
    name = next(iter(texts))
    with sqlite3.connect(tmp_path / "index" / "catalogue.sqlite3") as catalogue:
        catalogue.execute(
            "UPDATE documents SET text = 'x', checksum = ? WHERE id = ?", (row_checksum(name, "x", "{}"), name)
        )
    with FastLaneIndex.open(tmp_path / "index", model=WordModel(), read_only=True) as index:
        [problem] = index.verify()
    assert "its words are not those of the texts" in problem


def test_damaged_words_are_named(index, texts):
    """Documents that do not exist, in a lexicon whose shapes are right."""
    index.add(list(texts.values()), list(texts))
    with index._storage.view() as view:
        [part] = view.snapshot.parts
        arrays = build_lexicon(map(count_document, texts.values())).arrays()
        part.source.lexicon = Lexicon({**arrays, "word_documents": arrays["word_documents"] + 1000}, len(texts))
        with pytest.raises(IndexFormatError, match="damaged"):
            LexicalLane(view.reader, view.snapshot).scores("type hints", None)


@pytest.mark.parametrize(
    ("name", "array"),
    [("word_counts", np.zeros(3, np.uint8)), ("word_lengths", np.zeros(3)), ("word_offsets", np.arange(3))],
)
def test_arrays_that_do_not_fit_are_refused(texts, name, array):
    arrays = build_lexicon(map(count_document, texts.values())).arrays()
    with pytest.raises(ValueError, match="words"):
        Lexicon({**arrays, name: array}, len(texts))


documents = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6).map(" ".join), max_size=12)


@given(
    documents=documents, cuts=st.lists(st.integers(0, 12), max_size=2), seed=st.integers(0, 9), block=st.integers(1, 9)
)
def test_merging_is_building_anew(documents, cuts, seed, block):
    """Lexicons of parts, in another order and without some documents, merged in blocks of any size."""
    generator = np.random.default_rng(seed)
    bounds = [0, *sorted(min(cut, len(documents)) for cut in cuts), len(documents)]
    kept = [n for n in generator.permutation(len(documents)).tolist() if generator.random() < 0.8]
    parts = []
    for first, last in pairwise(bounds):
        places = np.array([kept.index(n) if n in kept else -1 for n in range(first, last)], np.int64)
        parts.append((build_lexicon(map(count_document, documents[first:last])), places))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lexicon_module, "_BLOCK", block)
        merged = merge_lexicons(parts, len(kept)).arrays()
    anew = build_lexicon(count_document(documents[n]) for n in kept).arrays()
    for name, array in anew.items():
        assert array.dtype == merged[name].dtype
        assert np.array_equal(array, merged[name])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Running runner's PEP-484, snake_case", ["running", "runner", "s", "pep", "484", "snake", "case"]),
        ("internationalization international", ["interna", "interna"]),
        ("abc12345678 abc12345679", ["abc12345678", "abc12345679"]),
        ("Stra\u00dfe na\u00efvet\u00e9 \u212bngstr\u00f6m \ufb01ne", ["strasse", "naivete", "angstro", "fine"]),
        ("\u6771\u4eac\u30fb\u30bf\u30ef\u30fc tower", ["\u6771", "\u4eac", "\u30bf", "\u30ef", "\u30fc", "tower"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u0928\u0926"]),
        ("-- ... \0", []),
    ],
)
def test_words_of_a_text(text, words):
    assert sorted(count_words(text).elements()) == sorted(words)


def test_more_than_255_occurrences_count_as_255():
    _, [often], length = count_document("word " * 300)
    assert (often, length) == (255, 300)
