"""Token embeddings that another model makes elsewhere: no model is needed here."""

import numpy as np
import pytest
import torch
from word_model import DIM, WordModel, embed, exact_score

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError, ModelError, ModelMismatchError
from fastlane_rag.index.outside import PlainQuery
from fastlane_rag.upkeep import recode

TEXTS = [f"word{n} word{n * n % 31} word{n % 7}" for n in range(40)]
IDS = [f"doc{n}" for n in range(40)]
QUERY = "word9 word19 word2"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "index"


@pytest.fixture
def index(path):
    with FastLaneIndex.create(path, dim=DIM, model="words elsewhere") as index:
        years = [{"year": 2000 + n} for n in range(40)]
        assert index.add_embeddings([embed(text) for text in TEXTS], IDS, TEXTS, years) == IDS
        yield index


def test_search_ranks_by_sum_max_sim(index):
    expected = sorted(zip(IDS, TEXTS, strict=True), key=lambda one: (-exact_score(QUERY, one[1]), one[0]))
    hits = index.search_embeddings(embed(QUERY), k=5)
    assert [(hit.id, hit.text) for hit in hits] == expected[:5]
    assert [hit.score for hit in hits] == pytest.approx(
        [exact_score(QUERY, text) for _, text in expected[:5]], abs=1e-3
    )


def test_rows_may_be_tensors_lists_and_of_half_precision(index):
    wanted = [hit.id for hit in index.search_embeddings(embed(QUERY), k=5)]
    for rows in (torch.from_numpy(embed(QUERY)), torch.from_numpy(embed(QUERY)).bfloat16(), embed(QUERY).tolist()):
        assert [hit.id for hit in index.search_embeddings(rows, k=3)] == wanted[:3]


def test_options_of_a_search_apply(index):
    assert [hit.id for hit in index.search_embeddings(embed(QUERY), filter={"year": 2003})] == ["doc3"]
    assert len(index.search_embeddings(embed(QUERY), k=4, refine=False)) == 4
    [hit] = index.search_embeddings(embed(QUERY), k=1, hybrid=True, text="word12")
    assert hit.score > max(exact_score(QUERY, text) for text in TEXTS if "word12" not in text) - 1
    with pytest.raises(InvalidInputError, match="texts="):
        index.search_embeddings(embed(QUERY), hybrid=True)


def test_all_tokens_gather_and_a_number_of_them_is_refused(index):
    [result] = index.search_batch_detailed([PlainQuery.of(embed(QUERY), DIM)], 3, route_k="all")
    assert result.selected == [0, 1, 2]
    with pytest.raises(InvalidInputError, match="route_k=2, but no router chooses"):
        index.search_embeddings(embed(QUERY), route_k=2)


def test_in_code_the_approximate_lane_gathers_by_all_tokens(path, passages, monkeypatch):
    monkeypatch.setattr(recode, "TRAIN_TOKENS", 1000)
    words = " ".join(passage["text"] for passage in passages).split()
    texts = [" ".join(words[i : i + 40]) for i in range(0, 40 * 400, 40)]
    with FastLaneIndex.create(path, dim=DIM) as index:
        index.add_embeddings([embed(text) for text in texts], [str(n) for n in range(400)])
        assert index.stats().codec == "residual4"
        query = PlainQuery.of(embed(" ".join(texts[70].split()[5:20:2])), DIM)
        [result] = index.search_batch_detailed([query], 5, lane="approximate")
    assert result.lane == "approximate"
    assert len(result.selected) == 8
    assert result.hits[0].id == "70"


def test_the_same_texts_with_other_rows_are_stored_anew(index):
    index.add_embeddings([embed("entirely new")], ["doc3"], [TEXTS[3]])
    [hit] = index.search_embeddings(embed("entirely new"), k=1)
    assert (hit.id, hit.score, hit.metadata) == ("doc3", pytest.approx(2.0, abs=1e-3), {})
    assert len(index) == 40


def test_texts_and_ids_may_be_left_out(path):
    with FastLaneIndex.create(path, dim=DIM) as index:
        [generated] = index.add_embeddings([embed("cats purr")], None)
        assert index.get([generated])[0].text == ""
        assert index.search_embeddings(embed("purr"), k=1)[0].id == generated


def test_of_an_id_given_twice_the_last_rows_count(path):
    with FastLaneIndex.create(path, dim=DIM) as index:
        index.add_embeddings([embed("first"), embed("second")], ["one", "one"], ["first", "second"])
        assert index.search_embeddings(embed("second"), k=1)[0].score == pytest.approx(1.0, abs=1e-3)


WRONG = {
    "width": (np.eye(3, dtype=np.float32), r"rows\[1\] must have the shape \(tokens, 16\) .* not \(3, 3\)"),
    "vector": (embed("word")[0], r"not \(16,\)"),
    "empty": (np.zeros((0, DIM)), r"not \(0, 16\)"),
    "nan": (np.full((2, DIM), np.nan), "row 0 holds NaN"),
    "infinite": (np.concatenate([embed("word"), np.full((1, DIM), np.inf)]), "row 1 holds NaN or infinite"),
    "padding": (np.concatenate([embed("word"), np.zeros((1, DIM))]), "row 1 has the length 0 instead of 1"),
    "long": (3 * embed("word"), "row 0 has the length 3 instead of 1"),
    "text": (["word"], "must be a matrix of numbers"),
}


@pytest.mark.parametrize("rows", WRONG)
def test_rows_that_cannot_be_scored_are_refused_and_nothing_is_stored(index, rows):
    wrong, message = WRONG[rows]
    with pytest.raises(InvalidInputError, match=message):
        index.add_embeddings([embed("fine"), wrong], ["a", "b"])
    assert "a" not in index
    with pytest.raises(InvalidInputError, match=message.replace(r"rows\[1\]", "the query")):
        index.search_embeddings(wrong)


@pytest.mark.parametrize("rows", [None, 5, "rows"])
def test_rows_must_be_a_list(index, rows):
    with pytest.raises(InvalidInputError, match="rows must be a list"):
        index.add_embeddings(rows, None)


@pytest.mark.parametrize("given", [None, 1, 3])
def test_a_model_that_gives_more_or_fewer_than_it_was_asked_for_is_named(given):
    class Miscounts:
        name, dim = "miscounts", 4

        def encode_documents(self, texts):
            return [np.eye(4)[:1]] * len(texts)

        def encode_queries(self, texts):
            return given and [np.eye(4)[:1]] * given

    with FastLaneIndex.create(model=Miscounts()) as index:
        index.add(["a", "b"])
        with pytest.raises(ModelError, match=r"encode_queries of 'miscounts' must|miscounts gave . embeddings for 2"):
            index.search_batch(["a", "b"])


def test_lengths_must_agree(index):
    with pytest.raises(InvalidInputError, match="2 rows but 1 texts"):
        index.add_embeddings([embed("a"), embed("b")], ["a"], ["a"])
    with pytest.raises(InvalidInputError, match="2 texts but 1 ids"):
        index.add_embeddings([embed("a"), embed("b")], ["a"])


def test_it_is_opened_without_a_model_and_the_name_is_compared(index, path):
    index.close()
    for given in (None, "words elsewhere"):
        with FastLaneIndex.open(path, model=given) as opened:
            assert opened.search_embeddings(embed(QUERY), k=1)[0].id == "doc9"
            assert opened.stats().model == "words elsewhere"
    with pytest.raises(ModelMismatchError, match=r"made with the model 'words elsewhere'.*'colpali'"):
        FastLaneIndex.open(path, model="colpali")
    with pytest.raises(ModelMismatchError, match="16 dimensions, not of dim=128"):
        FastLaneIndex.open_or_create(path, dim=128, model="words elsewhere")
    with FastLaneIndex.open_or_create(path, dim=DIM, model="words elsewhere") as opened:
        assert len(opened) == 40


def test_texts_cannot_be_encoded_and_the_error_says_what_to_do(index):
    with pytest.raises(InvalidInputError, match=r"'words elsewhere', which encodes elsewhere.*add_embeddings"):
        index.add(["a text"])
    with pytest.raises(InvalidInputError, match=r"call search_embeddings"):
        index.search("a text")


class Encodes:
    """An object that encodes: all that a user has to write."""

    name = "words elsewhere"
    dim = DIM

    def encode_documents(self, texts):
        return [embed(text) for text in texts]

    def encode_queries(self, texts):
        return [torch.from_numpy(embed(text)) for text in texts]


def test_an_object_that_encodes_serves_texts_too(index, path):
    index.close()
    with FastLaneIndex.open(path, model=Encodes()) as opened:
        opened.add(["brand new"], ["new"])
        assert opened.search("brand new", k=1)[0].id == "new"
        assert opened.search(QUERY, k=1) == opened.search_embeddings(embed(QUERY), k=1)
    with pytest.raises(InvalidInputError, match="lacks encode_queries and dim"):
        FastLaneIndex.create(model=type("Half", (), {"encode_documents": None})())


def test_rows_of_an_ordinary_model_may_come_ready(tmp_path):
    """As where a machine with a GPU encodes, and another one searches."""
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add_embeddings([embed("cats purr")], ["cat"], ["cats purr"])
        assert index.search("purr", k=1)[0].id == "cat"


@pytest.mark.parametrize("dim", [0, -1, 2.5, True, "128"])
def test_a_wrong_size_is_refused(dim):
    with pytest.raises(InvalidInputError, match="dim must be a whole number"):
        FastLaneIndex.create(dim=dim)


def test_a_name_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="the name of the model holds half of a surrogate pair"):
        FastLaneIndex.create(tmp_path / "index", dim=DIM, model="\ud800")
    assert not (tmp_path / "index").exists()


def test_dim_must_be_that_of_a_model_that_is_given():
    with pytest.raises(InvalidInputError, match="dim=128, but the embeddings of 'words' have 16"):
        FastLaneIndex.create(dim=128, model=WordModel())


def test_rows_in_code_move_to_another_index_as_they_are() -> None:
    """Decoded rows are not of length 1; `adopt` takes them, and leaves documents alone that are there."""
    random = np.random.default_rng(0)
    centers = random.standard_normal((50, 16))
    rows = centers[random.integers(0, 50, (2500, 60))] + 0.5 * random.standard_normal((2500, 60, 16))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    ids = [str(n) for n in range(2500)]
    with FastLaneIndex.create(dim=16, codec="residual1") as one, FastLaneIndex.create(dim=16, codec="fp16") as other:
        one.add_embeddings(rows, ids)
        one.optimize()
        some = ids[:20]
        given = one.embeddings(some)
        assert abs(np.linalg.norm(np.concatenate(given), axis=1) - 1).max() > 0.02
        other.add_embeddings([rows[0]], ["0"])
        other.adopt(one.get(some), given)
        assert sorted(other) == sorted(some)
        kept, moved = other.embeddings(["0", "7"])
        assert np.allclose(kept, rows[0], atol=1e-3)
        assert np.allclose(moved, given[7], atol=1e-3)
        with pytest.raises(InvalidInputError, match="no document with the id 'absent'"):
            one.embeddings(["absent"])
