"""`save` copies an index to a directory as it is, without encoding anything."""

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import IndexExistsError, InvalidInputError

QUERY = "what does a cat do?"


def filled(model, path=None) -> FastLaneIndex:
    index = FastLaneIndex.create(path, model=model, filter_keys=["legs"])
    index.add(["Cats purr.", "Dogs bark."], ids=["cat", "dog"], metadatas=[{"legs": 4}, {"legs": 3}])
    index.add(["Birds sing."], ids=["bird"], metadatas=[{"legs": 2}])
    return index


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("compacted", [False, True])
def test_a_saved_index_answers_as_the_original(model, tmp_path, monkeypatch, on_disk, compacted):
    with filled(model, tmp_path / "original" if on_disk else None) as index:
        if compacted:
            index.compact()
        index.add(["Cats hiss."], ids=["cat"], metadatas=[{"legs": 4}])
        index.delete(["dog"])
        encode = FastLaneModel.encode_documents
        monkeypatch.setattr(FastLaneModel, "encode_documents", lambda *_, **__: pytest.fail("encoded again"))
        index.save(tmp_path / "copy")
        monkeypatch.setattr(FastLaneModel, "encode_documents", encode)
        with FastLaneIndex.open(tmp_path / "copy", model=model) as copy:
            assert copy.search(QUERY) == index.search(QUERY)
            assert copy.ids() == index.ids()
            assert copy.get(["bird", "cat"]) == index.get(["bird", "cat"])
            assert copy.ids({"legs": {"$lt": 4}}) == ["bird"]
            assert copy.stats().filter_keys == ("legs",)
            assert copy.stats().dead == 0
            copy.add(["Dogs howl."], ids=["dog"])
            assert len(copy) == 3
            assert "dog" not in index


def test_an_empty_index_can_be_saved(model, tmp_path):
    with FastLaneIndex.create(model=model) as index:
        index.save(tmp_path / "copy")
    with FastLaneIndex.open(tmp_path / "copy", model=model) as copy:
        assert len(copy) == 0
        copy.add(["Cats purr."])
        assert len(copy.search(QUERY)) == 1


def test_saving_over_an_index_needs_overwrite(model, tmp_path):
    with filled(model) as index, FastLaneIndex.create(tmp_path / "copy", model=model) as old:
        old.add(["Cats meow."], ids=["old"])
        old.close()
        with pytest.raises(IndexExistsError, match="overwrite"):
            index.save(tmp_path / "copy")
        index.save(tmp_path / "copy", overwrite=True)
        with FastLaneIndex.open(tmp_path / "copy", model=model) as copy:
            assert copy.ids() == index.ids()


def test_saving_where_the_index_lives_changes_nothing(model, tmp_path):
    with filled(model, tmp_path / "index") as index:
        index.save(tmp_path / "index")
        assert index.ids() == ["cat", "dog", "bird"]


def test_a_save_that_fails_leaves_the_index_it_was_to_replace(model, tmp_path, monkeypatch):
    from fastlane_rag.storage.records import Writer

    with FastLaneIndex.create(tmp_path / "copy", model=model, filter_keys=["legs"]) as old:
        old.add(["Cats meow."], ids=["old"], metadatas=[{"legs": 4}])
    with filled(model) as index:
        monkeypatch.setattr(Writer, "put", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError):
            index.save(tmp_path / "copy", overwrite=True)
    monkeypatch.undo()
    with FastLaneIndex.open(tmp_path / "copy", model=model) as copy:
        assert copy.ids({"legs": 4}) == ["old"]
        assert copy.search(QUERY, k=1)[0].id == "old"
        assert copy.verify() == []


def test_an_index_goes_on_after_a_failed_save_whose_error_is_kept(tmp_path, monkeypatch):
    """As notebooks keep it, with its traceback: a statement that was not read to its end held its snapshot."""
    from fastlane_rag.storage.records import Writer
    from fastlane_rag.upkeep import copy

    with filled(WordModel(), tmp_path / "index") as index, monkeypatch.context() as patch:
        patch.setattr(copy, "_CHUNK", 1)
        patch.setattr(Writer, "put", lambda *_: (_ for _ in ()).throw(MemoryError("no room")))
        with pytest.raises(MemoryError) as kept:
            index.save(tmp_path / "copy")
        patch.undo()
        with FastLaneIndex.open(tmp_path / "index", model=WordModel()) as other:
            other.add(["Fish swim."], ids=["fish"])
        assert "fish" in index
        assert index.add(["Frogs jump."], ids=["frog"]) == ["frog"]
    assert kept.value.__traceback__ is not None


def test_a_copy_may_store_tokens_otherwise(model, tmp_path, passages, monkeypatch):
    """From half precision to code and back, without encoding; the best hits stay."""
    monkeypatch.setattr("fastlane_rag.upkeep.recode.TRAIN_TOKENS", 1000)
    with FastLaneIndex.create(model=model, codec="fp16") as index:
        index.add([p["text"] for p in passages[:60]], ids=[p["id"] for p in passages[:60]])
        monkeypatch.setattr(FastLaneModel, "encode_documents", lambda *_, **__: pytest.fail("encoded again"))
        index.save(tmp_path / "coded", codec="residual4")
        best = index.search("who decides about a proposal?", k=1)[0]
    with FastLaneIndex.open(tmp_path / "coded", model=model) as coded:
        assert coded.stats().codec == "residual4"
        hit = coded.search("who decides about a proposal?", k=1)[0]
        assert (hit.id, hit.score) == (best.id, pytest.approx(best.score, rel=0.03))
        assert hit.score != best.score, "the rows are in code"
        assert coded.verify() == []
        coded.save(tmp_path / "plain", codec="fp16")
    with FastLaneIndex.open(tmp_path / "plain", model=model) as plain:
        assert plain.stats().codec == "fp16"
        assert plain.search("who decides about a proposal?", k=1)[0].id == best.id
        assert plain.verify() == []


def test_an_unknown_codec_is_refused_before_anything_is_written(model, tmp_path):
    with filled(model) as index, pytest.raises(InvalidInputError, match="residual3"):
        index.save(tmp_path / "copy", codec="residual3")
    assert not (tmp_path / "copy").exists()


def test_an_index_is_not_saved_into_itself(tmp_path):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        for inside in ("copy", "segments/copy"):
            with pytest.raises(InvalidInputError, match="is inside the index"):
                index.save(tmp_path / "index" / inside)
    FastLaneIndex.create(tmp_path / "index", model=WordModel(), overwrite=True).close()


def test_an_index_is_not_recoded_where_it_is(tmp_path):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel(), codec="fp16") as index:
        index.add(["some words"])
        index.save(tmp_path / "index", codec="fp16")
        with pytest.raises(InvalidInputError, match="stores 'fp16' and cannot become 'residual4' where it is"):
            index.save(tmp_path / "index", codec="residual4")
        assert index.search("words")[0].text == "some words"
