"""One call that opens the index at a path, or makes it where there is none yet."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import IndexExistsError, InvalidInputError, ModelMismatchError, UnknownOptionError
from fastlane_rag.index.options import IndexKeywords, IndexOptions

HERE = Path(__file__).parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "docs.index"


def test_a_cell_run_twice_goes_on_with_the_same_index(path, word_model):
    for _ in range(2):
        with FastLaneIndex.open_or_create(path, model=word_model, filter_keys=["lang"]) as index:
            index.add(["cats purr"], ids=["cat"], metadatas=[{"lang": "en"}])
    with FastLaneIndex.open(path, model=word_model) as index:
        assert index.ids() == ["cat"]
        assert index.stats().filter_keys == ("lang",)
    assert word_model.encoded == 1


def test_an_empty_directory_gets_an_index_and_other_files_are_left_alone(tmp_path, word_model):
    (tmp_path / "empty").mkdir()
    FastLaneIndex.open_or_create(tmp_path / "empty", model=word_model).close()
    assert len(FastLaneIndex.open(tmp_path / "empty", model=word_model)) == 0
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("Buy milk.")
    with pytest.raises(IndexExistsError, match=r"todo\.txt"):
        FastLaneIndex.open_or_create(tmp_path / "notes", model=word_model)
    with pytest.raises(IndexExistsError, match="is a file"):
        FastLaneIndex.open_or_create(tmp_path / "notes" / "todo.txt", model=word_model)


def test_without_a_path_it_is_in_memory(word_model):
    with FastLaneIndex.open_or_create(None, model=word_model) as index:
        assert index.path is None


@pytest.mark.parametrize("place", [None, "docs.index"])
def test_filter_keys_may_come_from_a_generator(tmp_path, word_model, place):
    keys = (key for key in ("lang", "year"))
    with FastLaneIndex.open_or_create(place and tmp_path / place, model=word_model, filter_keys=keys) as index:
        assert index.stats().filter_keys == ("lang", "year")


def test_another_model_is_refused_at_once(path):
    with FastLaneIndex.open_or_create(path, model=WordModel("words-1")) as index:
        index.add(["cats purr"])
    with pytest.raises(ModelMismatchError, match=r"docs\.index was made with the model 'words'"):
        FastLaneIndex.open_or_create(path, model=WordModel("words-2"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"codec": "residual2"}, "codec='fp16', not 'residual2'"),
        ({"max_document_tokens": 9}, "max_document_tokens=None, not 9"),
        ({"filter_keys": ["lang", "year"]}, r"without the filter key\(s\) year"),
    ],
    ids=["codec", "bound", "filter-keys"],
)
def test_other_options_are_refused_with_both_values(path, word_model, option, message):
    made = {"model": word_model, "codec": "fp16", "filter_keys": ["lang"]}
    FastLaneIndex.open_or_create(path, **made).close()
    with pytest.raises(InvalidInputError, match=message):
        FastLaneIndex.open_or_create(path, **(made | option))
    with FastLaneIndex.open_or_create(path, model=word_model) as index:  # what is left out is as it was made
        assert index.stats().codec == "fp16"


RACE = """
import sys, time
from word_model import WordModel
from fastlane_rag import FastLaneIndex

path, name, begin = sys.argv[1:]
while time.time() < float(begin):
    pass
with FastLaneIndex.open_or_create(path, model=WordModel()) as index:
    index.add([f"written by {name}"], ids=[name])
"""


def test_processes_that_open_first_at_once_end_with_one_index(path, word_model):
    import time

    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[1])])}
    for round_ in range(3):
        place = path / str(round_)
        begin = str(time.time() + 4)
        names = ["a", "b", "c"]
        command = [sys.executable, "-c", RACE, str(place)]
        racing = [subprocess.Popen([*command, one, begin], stderr=subprocess.PIPE, env=environment) for one in names]
        told = [process.communicate(timeout=60)[1].decode() for process in racing]
        assert [process.returncode for process in racing] == [0, 0, 0], told
        with FastLaneIndex.open(place, model=word_model) as index:
            assert sorted(index.ids()) == names
            assert index.verify() == []


def test_a_misspelt_option_is_refused_with_the_nearest(path):
    with pytest.raises(UnknownOptionError, match=r"'filter_key' is .*; did you mean 'filter_keys'"):
        FastLaneIndex.open_or_create(path, filter_key=["lang"])
    assert not path.exists()


def test_the_view_of_type_checkers_is_the_options():
    from typing import get_type_hints

    hints = get_type_hints(IndexOptions)
    assert get_type_hints(IndexKeywords) == hints
    for name in hints:
        assert f"    {name}: " in inspect.getdoc(IndexOptions), name


def test_options_are_divided_between_an_index_and_its_searches():
    given = {"device": "cpu", "codec": "fp16", "policy": None, "k": 3, "typo": 1}
    ours, others = IndexOptions.divided(given)
    assert ours == {"device": "cpu", "codec": "fp16"}
    assert others == {"policy": None, "k": 3, "typo": 1}
    assert json.dumps(given)  # as it was


def test_an_object_that_encodes_takes_no_device(word_model):
    with pytest.raises(InvalidInputError, match=r"device='cpu': the WordModel .* is loaded already"):
        FastLaneIndex.create(model=word_model, device="cpu")
