"""The index as a collection: its methods, on disk and in memory."""

import math
from enum import Enum

import pytest
from word_model import WordModel, exact_score

from fastlane_rag import FastLaneIndex, Hit
from fastlane_rag.errors import (
    FastLaneWarning,
    IndexClosedError,
    IndexExistsError,
    IndexFormatError,
    IndexNotFoundError,
    IndexReadOnlyError,
    InvalidInputError,
    ModelError,
    ModelMismatchError,
)
from fastlane_rag.types import Document

TEXTS = [
    "red green blue",
    "green apples and red pears",
    "the blue sea",
    "apples fall from trees",
    "a sea of trees",
]
IDS = ["colours", "fruit", "sea", "fall", "wood"]


def ranking(query, documents):
    """(id, score) of every document by exact SumMaxSim, ties by id."""
    scored = [(id_, exact_score(query, text)) for id_, text in documents.items()]
    return sorted(scored, key=lambda pair: (-round(pair[1], 5), pair[0]))


def test_search_ranks_by_exact_summaxsim(index):
    index.add(TEXTS, ids=IDS)
    hits = index.search("red apples", k=5)
    expected = ranking("red apples", dict(zip(IDS, TEXTS, strict=True)))
    assert [hit.id for hit in hits] == [id_ for id_, _ in expected]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_hits_carry_text_and_a_metadata_copy(index):
    index.add(["red"], ids=["r"], metadatas=[{"tags": ["warm"]}])
    [hit] = index.search("red")
    assert isinstance(hit, Hit)
    assert (hit.id, hit.text, hit.metadata) == ("r", "red", {"tags": ["warm"]})
    hit.metadata["tags"].append("changed")
    assert index.get(["r"])[0].metadata == {"tags": ["warm"]}


@pytest.mark.parametrize(("k", "expected"), [(0, 0), (1, 1), (5, 5), (99, 5)])
def test_exactly_min_of_k_and_matching_hits(index, k, expected):
    index.add(TEXTS)
    assert len(index.search("red sea", k=k)) == expected


@pytest.mark.parametrize("k", [-1, 1.5, "3", True, None])
def test_a_wrong_k_is_refused(index, k):
    with pytest.raises(InvalidInputError, match="k must be a whole number"):
        index.search("red", k=k)


@pytest.mark.parametrize("route_k", [0, -2, "some", 1.5, True])
def test_a_wrong_route_k_is_refused(index, route_k):
    with pytest.raises(InvalidInputError, match="route_k"):
        index.search("red", route_k=route_k)


def test_empty_index_and_empty_query(index):
    assert index.search("red") == []
    assert index.search_batch([]) == []
    assert len(index) == 0
    assert index.ids() == []
    assert bool(index)
    index.add(TEXTS)
    for blank in ("", " \n"):
        with pytest.warns(FastLaneWarning, match="a query is empty"):
            assert len(index.search(blank, k=3)) == 3


def test_ties_are_broken_by_id(index):
    index.add(["same words"] * 30 + ["other"], ids=[f"d{i:02}" for i in reversed(range(30))] + ["z"])
    assert [hit.id for hit in index.search("same words", k=4)] == ["d00", "d01", "d02", "d03"]
    assert len({hit.score for hit in index.search("same words", k=30)}) == 1


@pytest.mark.parametrize("route_k", [1, 2, "auto", "all", None])
@pytest.mark.parametrize("refine", [True, False])
def test_gather_and_refine_on_more_documents_than_the_gather_depth(index, route_k, refine):
    texts = [f"w{i % 7} x{i % 11} y{i % 13} number{i}" for i in range(700)]
    index.add(texts, ids=[str(i) for i in range(700)])
    query = "w3 x5 number500"
    hits = index.search(query, k=5, route_k=route_k, refine=refine)
    assert len(hits) == 5
    assert hits[0].id == "500"
    if refine or route_k in ("all", None):
        best = ranking(query, {str(i): text for i, text in enumerate(texts)})[:5]
        assert hits[0].score == pytest.approx(best[0][1], abs=1e-4)
        for hit in hits:
            assert hit.score == pytest.approx(exact_score(query, hit.text), abs=1e-4)


def test_routed_score_without_refinement_is_over_the_routed_tokens(index):
    index.add([f"filler{i} words" for i in range(300)] + ["longestword ab"], ids=[*map(str, range(300)), "x"])
    hit = index.search("longestword ab cd", k=1, route_k=1, refine=False)[0]
    assert hit.id == "x"
    assert hit.score == pytest.approx(exact_score("longestword", "longestword ab"), abs=1e-4)


def test_search_batch_gives_what_single_searches_give(index):
    index.add([f"w{i % 7} x{i % 11} number{i}" for i in range(600)])
    queries = [f"w{i} number{i * 7}" for i in range(40)]
    single = [index.search(query, k=3, route_k=1) for query in queries]
    batch = index.search_batch(queries, k=3, route_k=1)
    assert [[hit.id for hit in hits] for hits in batch] == [[hit.id for hit in hits] for hits in single]


def test_add_returns_ids_in_input_order_and_generates_missing_ones(index):
    assert index.add(["a", "b"], ids=["2", "1"]) == ["2", "1"]
    generated = index.add(["c", "d"])
    assert len(set(generated)) == 2
    assert all(len(id_) == 32 for id_ in generated)
    mixed = index.add(["e", "f"], ids=[None, "mine"])
    assert mixed[1] == "mine"
    assert len(index) == 6
    assert mixed[0] in index
    assert "absent" not in index
    assert 3 not in index


def test_a_member_of_an_enum_of_texts_is_its_text(tmp_path):
    """Its `str` is its name: an id was added and then not found, a codec made an index that nothing opens."""
    one = Enum("One", {"ID": "a", "CODEC": "residual2", "PATH": str(tmp_path / "index")}, type=str)
    with FastLaneIndex.create(one.PATH, model=WordModel(), codec=one.CODEC) as index:
        assert [type(id_) for id_ in index.add([one.ID], ids=[one.ID])] == [str]
        assert one.ID in index
        assert index.ingest([Document(one.ID, one.ID)]).unchanged == 1
        assert index.stats().codec == "residual2"
    assert FastLaneIndex.open(tmp_path / "index", model=WordModel()).ids() == ["a"]


def test_a_repeated_id_in_one_call_keeps_the_last(index):
    assert index.add(["old", "other", "new"], ids=["x", "y", "x"], metadatas=[{"v": 1}, None, {"v": 2}]) == [
        "x",
        "y",
        "x",
    ]
    assert index.get(["x"]) == [Document("x", "new", {"v": 2})]
    assert index.ids() == ["x", "y"]


def test_upsert_replaces_text_vectors_and_metadata_and_keeps_the_place(index):
    index.add(TEXTS, ids=IDS)
    index.add(["yellow lemons"], ids=["colours"], metadatas=[{"new": True}])
    assert index.ids() == IDS
    assert index.get(["colours"]) == [Document("colours", "yellow lemons", {"new": True})]
    assert index.search("yellow lemons", k=1)[0].id == "colours"
    assert index.search("red green blue", k=5)[0].id != "colours"
    assert len(index) == 5


def test_an_unchanged_text_is_not_encoded_again(index, word_model):
    index.add(TEXTS, ids=IDS)
    before = word_model.encoded
    index.add([*TEXTS, "one more"], ids=[*IDS, "more"], metadatas=[{"n": i} for i in range(6)])
    assert word_model.encoded == before + 1
    assert [document.metadata["n"] for document in index.get([*IDS, "more"])] == list(range(6))


def test_get_keeps_the_order_asked_for_and_leaves_out_missing(index):
    index.add(TEXTS, ids=IDS)
    assert [document.id for document in index.get(["wood", "nope", "sea"])] == ["wood", "sea"]
    assert index.get([]) == []


def test_delete_by_id_by_filter_and_by_both(index):
    index.add(TEXTS, ids=IDS, metadatas=[{"n": i} for i in range(5)])
    assert index.delete(["sea", "sea", "nope"]) == 1
    assert index.delete([]) == 0
    assert index.delete(["wood", "fall"], filter={"n": {"$gte": 4}}) == 1
    assert index.ids() == ["colours", "fruit", "fall"]
    assert index.delete(filter={"n": 0}) == 1
    assert index.delete(filter=lambda metadata: metadata["n"] == 1) == 1
    assert [hit.id for hit in index.search("red apples sea", k=9)] == ["fall"]
    assert index.delete(filter={}) == 1
    assert index.search("red") == []
    with pytest.raises(InvalidInputError, match="needs ids or a filter"):
        index.delete()


def test_update_metadata_does_not_encode(index, word_model):
    index.add(TEXTS, ids=IDS)
    before = word_model.encoded
    assert index.update_metadata(["sea", "nope"], [{"salty": True}, {}]) == 1
    assert word_model.encoded == before
    assert index.ids({"salty": True}) == ["sea"]
    assert index.search("blue sea", k=1, filter={"salty": True})[0].metadata == {"salty": True}
    with pytest.raises(InvalidInputError, match="2 ids but 1 metadatas"):
        index.update_metadata(["sea", "wood"], [{}])
    with pytest.raises(InvalidInputError, match="not JSON"):
        index.update_metadata(["sea"], [{"x": object()}])
    for wrong in (None, 5, {"x": 1}, "x"):
        with pytest.raises(InvalidInputError, match="metadatas must be a list"):
            index.update_metadata(["sea"], wrong)
    assert index.get(["sea"])[0].metadata == {"salty": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "a text"}, "texts must be a list"),
        ({"texts": ["a", 3]}, r"texts\[1\] must be str, not int 3"),
        ({"texts": ["a", None]}, r"texts\[1\] must be str"),
        ({"texts": ["a"], "ids": ["1", "2"]}, "1 texts but 2 ids"),
        ({"texts": ["a"], "ids": "1"}, "ids must be a list"),
        ({"texts": ["a"], "ids": [7]}, r"ids\[0\] must be str, not int 7"),
        ({"texts": ["a"], "metadatas": [{}, {}]}, "1 texts but 2 metadatas"),
        ({"texts": ["a"], "metadatas": {"x": 1}}, "metadatas must be a list"),
        ({"texts": ["a"], "metadatas": [[1]]}, r"metadatas\[0\].*must be a dict"),
        ({"texts": ["a"], "metadatas": [{"x": {"y": object()}}]}, r"\['x'\]\['y'\] is object"),
        ({"texts": ["a"], "metadatas": [{"x": float("nan")}]}, "not JSON"),
        ({"texts": ["a"], "metadatas": [{"x": [1, {2, 3}]}]}, r"\['x'\]\[1\] is set"),
        ({"texts": ["a"], "metadatas": [{1: "x"}]}, "keys of JSON objects are str"),
        ({"texts": ["\ud800"]}, "half of a surrogate pair"),
        ({"texts": ["a"], "metadatas": [{"x": "\ud800"}]}, "half of a surrogate pair"),
        ({"texts": ["a"], "ids": ["\udfff"]}, "half of a surrogate pair"),
    ],
)
def test_bad_input_is_named_and_nothing_is_stored(index, arguments, message):
    index.add(["kept"], ids=["k"])
    with pytest.raises(InvalidInputError, match=message):
        index.add(**arguments)
    with pytest.raises(ValueError, match=message):
        index.add(**arguments)
    assert index.ids() == ["k"]


def test_one_bad_document_of_many_stores_none(index):
    with pytest.raises(InvalidInputError):
        index.add(["a"] * 50, metadatas=[{}] * 49 + [{"when": math.inf}])
    assert len(index) == 0


def test_metadata_too_deep_is_refused(index):
    deep = {}
    for _ in range(3000):
        deep = {"d": deep}
    with pytest.raises(InvalidInputError, match="nested more than"):
        index.add(["a"], metadatas=[deep])


def test_an_encoder_that_fails_leaves_the_index_as_it_was(index, word_model, small_limits):
    index.add(TEXTS, ids=IDS)

    def failing(texts, **options):
        rows = WordModel().encode_documents(texts)
        rows[-1] = rows[-1] * math.nan
        return rows

    word_model.encode_documents = failing
    with pytest.raises(ModelError, match="NaN"):
        index.add(["one", "two words", *(f"many more {i}" for i in range(40))])
    assert index.ids() == IDS
    assert index.verify() == []


def test_odd_but_legal_documents_come_back_unchanged(index):
    texts = ["", " ", "\0", "a\0b", "é\n\t", "🙂" * 50, "'; DROP TABLE documents; --", "x" * 100_000]
    ids = ["", "../../etc/passwd", "a\0b", "%s?:1", "'\"", "🙂", "$eq", "id" * 1000]
    metadatas = [
        {},
        {"": None},
        {"a.b": {"c": [1, [2, {}]]}, "$eq": 1},
        {'q"uote\\': 'a\\"b', "nul\0": "\0x"},
        {"big": 10**30, "small": -1e-300, "t": True, "f": False},
        {"é": "ü", "🙂": "🙂"},
        {"'; DROP TABLE documents; --": "' OR 1=1"},
        {"list": ["x", 1, 1.5, None, True]},
    ]
    index.add(texts, ids=ids, metadatas=metadatas)
    stored = index.get(ids)
    assert [document.text for document in stored] == texts
    assert [document.metadata for document in stored] == metadatas
    assert index.ids() == ids
    for metadata, id_ in zip(metadatas, ids, strict=True):
        for key, value in metadata.items():
            if not isinstance(value, list | dict) and not key.startswith("$") and value != 10**30:
                assert id_ in index.ids({key: value}), (key, value)
    assert index.verify() == []


def test_inputs_are_not_changed(index):
    texts, ids, metadatas = ["a", "b"], ["1", "2"], [{"x": [1]}, {}]
    index.add(texts, ids=ids, metadatas=metadatas)
    assert (texts, ids, metadatas) == (["a", "b"], ["1", "2"], [{"x": [1]}, {}])


def test_generators_are_taken(index):
    assert len(index.add((t for t in TEXTS), ids=(i for i in IDS), metadatas=({} for _ in IDS))) == 5
    assert index.delete(i for i in ["sea"]) == 1


@pytest.mark.parametrize("name", ["lost+found", ".DS_Store"])
def test_what_the_system_puts_into_an_empty_directory_is_in_nobodys_way(tmp_path, word_model, name):
    """A freshly formatted disk has a lost+found."""
    (tmp_path / name).mkdir()
    with FastLaneIndex.create(tmp_path, model=word_model) as index:
        index.add(["a"], ids=["a"])
    with FastLaneIndex.open(tmp_path, model=word_model) as index:
        assert index.ids() == ["a"]
        assert index.verify() == []


def test_stats(index):
    index.add(TEXTS, ids=IDS)
    stats = index.stats()
    assert stats.documents == 5
    assert stats.tokens == sum(len(text.split()) for text in TEXTS)
    assert (stats.dim, stats.codec, stats.model, stats.path) == (16, "residual4", "words", index.path)
    assert stats.bytes_per_document == stats.bytes / 5 > 0


def test_a_closed_index_says_so(index):
    index.add(["a"])
    index.close()
    index.close()
    for action in (
        lambda: index.search("a"),
        lambda: index.add(["b"]),
        lambda: index.delete(["x"]),
        lambda: index.ids(),
        lambda: len(index),
        lambda: index.compact(),
        lambda: index.stats(),
    ):
        with pytest.raises(IndexClosedError, match="closed"):
            action()
    assert "closed" in repr(index)


def test_create_open_and_reopen(tmp_path, word_model):
    path = tmp_path / "a" / "new" / "index"
    with FastLaneIndex.create(path, model=word_model, filter_keys=["lang"]) as index:
        index.add(TEXTS, ids=IDS, metadatas=[{"lang": "en"}] * 5)
        expected = index.search("red sea")
    with FastLaneIndex.open(path, model=word_model) as index:
        assert index.search("red sea") == expected
        assert index.path == path
        assert not index.read_only
        assert index.stats().filter_keys == ("lang",)
    with FastLaneIndex.open(str(path), model=word_model, read_only=True) as index:
        assert index.read_only
        assert index.search("red sea") == expected
        for write in (
            lambda: index.add(["x"]),
            lambda: index.delete(["sea"]),
            lambda: index.update_metadata(["sea"], [{}]),
            index.compact,
        ):
            with pytest.raises(IndexReadOnlyError, match="read_only"):
                write()


def test_odd_paths(tmp_path, word_model):
    path = tmp_path / "we?ird #1" / "100%25 é 'x'"
    with FastLaneIndex.create(path, model=word_model) as index:
        index.add(["x"], ids=["x"])
    with FastLaneIndex.open(path, model=word_model, read_only=True) as index:
        assert index.ids() == ["x"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["we?ird #1"]


def test_create_never_replaces_what_it_was_not_told_to(tmp_path, word_model):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model) as index:
        index.add(["old"], ids=["o"])
    with pytest.raises(IndexExistsError, match="overwrite=True"):
        FastLaneIndex.create(path, model=word_model)
    with FastLaneIndex.open(path, model=word_model) as reader:
        with FastLaneIndex.create(path, model=word_model, overwrite=True, filter_keys=["k"]) as index:
            assert index.ids() == []
            index.add(["new"], ids=["n"])
        assert reader.ids() == ["n"]
    stranger = tmp_path / "documents"
    stranger.mkdir()
    (stranger / "thesis.txt").write_text("years of work")
    with pytest.raises(IndexExistsError, match=r"thesis\.txt"):
        FastLaneIndex.create(stranger, model=word_model, overwrite=True)
    assert (stranger / "thesis.txt").read_text() == "years of work"
    with pytest.raises(IndexExistsError, match="is a file"):
        FastLaneIndex.create(stranger / "thesis.txt", model=word_model, overwrite=True)


def test_open_names_what_is_not_an_index(tmp_path):
    with pytest.raises(IndexNotFoundError, match="no FastLane index"):
        FastLaneIndex.open(tmp_path / "absent")
    with pytest.raises(IndexNotFoundError, match="no FastLane index"):
        FastLaneIndex.open(tmp_path)
    (tmp_path / "catalogue.sqlite3").write_text("this is not a database at all, but it is a file" * 100)
    with pytest.raises(IndexFormatError, match=r"catalogue\.sqlite3"):
        FastLaneIndex.open(tmp_path)
    assert not (tmp_path / "absent").exists()


def test_another_model_is_refused_and_nothing_is_lost(tmp_path, word_model):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model) as index:
        index.add(TEXTS, ids=IDS)
    with pytest.raises(ModelMismatchError, match="'words'"):
        FastLaneIndex.open(path, model=WordModel("words-2"))
    with FastLaneIndex.open(path, model=word_model) as index:
        assert index.ids() == IDS


def test_what_needs_no_model_loads_none(tmp_path, word_model):
    path = tmp_path / "index"
    with FastLaneIndex.create(path, model=word_model) as index:
        index.add(TEXTS, ids=IDS)
    with FastLaneIndex.open(path) as index:
        assert len(index) == 5
        assert index.delete(["sea"]) == 1
        assert index.get(["wood"])[0].text == "a sea of trees"
        index.compact()
        assert index.verify() == []
        with pytest.raises(ModelMismatchError, match="'words'"):
            index.search("red")


def test_readme_example_with_the_real_model(model, tmp_path):
    with FastLaneIndex.create(tmp_path / "index", model=model) as index:
        ids = index.add(
            ["Cats purr when they are content.", "Bread rises because yeast makes gas.", "Tides follow the moon."],
            metadatas=[{"topic": "animals"}, {"topic": "food"}, {"topic": "sea"}],
        )
        assert index.search("why does dough grow?", k=1)[0].id == ids[1]
        assert index.search("why does dough grow?", k=3, filter={"topic": "sea"})[0].id == ids[2]
        assert len(index.search(" ".join(["long"] * 5000), k=2)) == 2
    with FastLaneIndex.open(tmp_path / "index") as index:
        assert index.search("what moves the sea?", k=1)[0].metadata == {"topic": "sea"}


class Budgeted(WordModel):
    """Keeps some tokens of a document."""

    document_budget = 3

    def encode_documents(self, texts, **options):
        return [rows[: self.document_budget] for rows in super().encode_documents(texts, **options)]


def test_an_index_keeps_to_the_document_budget_it_was_made_with(tmp_path):
    """A model with another document budget can search, but not write."""
    with FastLaneIndex.create(tmp_path / "index", model=Budgeted()) as index:
        index.add(["one two three four five"], ["a"])
        assert (index.stats().document_budget, index.stats().tokens) == (3, 3)
    with FastLaneIndex.open(tmp_path / "index", model=WordModel()) as index:
        assert index.search("two", 1)[0].id == "a"
        with pytest.raises(ModelMismatchError, match=r"made with document_budget=3, .* given has None; open"):
            index.add(["six seven eight nine"], ["b"])
        assert index.ids() == ["a"]
        index.add(["one two three four five"], ["a"])  # nothing to encode
        index.delete(["a"])
    with FastLaneIndex.open(tmp_path / "index", model=Budgeted()) as index:
        index.add(["six seven eight nine"], ["b"])
        assert index.stats().tokens == 3


def test_the_bundled_model_is_loaded_with_a_count_of_tokens(tmp_path):
    from fastlane_rag import FastLaneModel

    with FastLaneIndex.create(tmp_path / "index", model=FastLaneModel.from_pretrained(document_budget=3)) as index:
        index.add(["cats purr when they are content and dogs bark at night"])
    with FastLaneIndex.open(tmp_path / "index") as index:
        assert (index.model.document_budget, index.stats().document_budget) == (3, 3)


def test_the_bundled_model_is_loaded_with_the_budget_of_the_index(tmp_path):
    from fastlane_rag import FastLaneModel

    text = "The cat sat on the mat and watched the birds in the garden through the kitchen window."
    with FastLaneIndex.create(tmp_path / "index", model=FastLaneModel.from_pretrained(document_budget=1 / 3)) as index:
        index.add([text], ["a"])
        tokens = index.stats().tokens
    with FastLaneIndex.open(tmp_path / "index") as index:
        index.add([text], ["b"])
        assert index.model.document_budget == pytest.approx(1 / 3)
        assert index.stats().tokens == 2 * tokens
