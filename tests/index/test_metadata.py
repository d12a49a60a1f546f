"""One rule for what metadata may hold: in documents and filters, and in both frameworks."""

import datetime as dt
import decimal
import enum
import pathlib
import types
import uuid

import numpy as np
import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FilterError, InvalidInputError
from fastlane_rag.types import Document


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
VALUES = {
    "date": (dt.date(2024, 2, 29), "2024-02-29"),
    "datetime": (dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC), "2024-02-29T12:30:00+00:00"),
    "time": (dt.time(12, 30), "12:30:00"),
    "uuid": (UUID, str(UUID)),
    "path": (pathlib.PurePosixPath("a/b.txt"), "a/b.txt"),
    "decimal": (decimal.Decimal("1.5"), 1.5),
    "whole decimal": (decimal.Decimal("3.00"), 3),
    "huge decimal": (decimal.Decimal(2**70), 2**70),
    "enum": (Colour.RED, "red"),
    "int enum": (Level.HIGH, 3),
    "numpy int": (np.int64(7), 7),
    "numpy float": (np.float32(0.5), 0.5),
    "numpy bool": (np.bool_(True), True),
    "numpy text": (np.str_("x"), "x"),
    "numpy date": (np.datetime64("2024-02-29"), "2024-02-29T00:00:00"),
    "numpy array": (np.array([1, 2]), [1, 2]),
    "numpy longdouble": (np.longdouble("1.5"), 1.5),
    "not a time, of numpy": (np.datetime64("NaT"), None),
    "tuple": ((1, dt.date(2024, 1, 1)), [1, "2024-01-01"]),
    "mapping": (types.MappingProxyType({"a": np.int8(1)}), {"a": 1}),
    "nested": ({"a": [{"b": UUID}]}, {"a": [{"b": str(UUID)}]}),
}


@pytest.fixture
def index():
    with FastLaneIndex.create(model=WordModel()) as made:
        yield made


@pytest.mark.parametrize("name", VALUES)
def test_values_of_python_are_stored_as_json(index, name):
    given, stored = VALUES[name]
    metadata = {"value": given}
    index.add(["some words"], ["a"], [metadata])
    found = index.get(["a"])[0].metadata["value"]
    assert (found, type(found)) == (stored, type(stored))
    assert index.search("words")[0].metadata == {"value": stored}
    assert metadata == {"value": given}
    index.update_metadata(["a"], [metadata])
    assert index.get(["a"])[0].metadata == {"value": stored}
    # The stream that brings the same again finds it stored.
    assert index.ingest([Document("a", "some words", metadata)]).unchanged == 1


SCALARS = [
    name for name, (_, stored) in VALUES.items() if not isinstance(stored, list | dict) and name != "huge decimal"
]


@pytest.mark.parametrize("name", SCALARS)
def test_filters_take_the_same_values(index, name):
    given, _ = VALUES[name]
    index.add(["a", "b"], ["a", "b"], [{"value": given}, {"value": "another"}])
    for condition in (given, {"$eq": given}, {"$in": [given]}, {"$nin": ["another"]}):
        assert index.ids({"value": condition}) == ["a"], condition
    assert index.ids({"value": {"$ne": given}}) == ["b"]
    assert index.ids({"$or": [{"value": given}, {"value": given}]}) == ["a"]


def test_not_a_time_of_pandas_is_null(index):
    pd = pytest.importorskip("pandas")
    index.add(["a", "b"], ["a", "b"], [{"day": pd.NaT}, {"day": pd.Timestamp("2024-02-29", tz="UTC")}])
    assert [one.metadata["day"] for one in index.get(["a", "b"])] == [None, "2024-02-29T00:00:00+00:00"]
    for condition in (pd.NaT, {"$in": [pd.NaT]}, {"$ne": pd.Timestamp("2024-02-29")}):
        assert index.ids({"day": condition}) == ["a"], condition


def test_a_number_that_python_writes_no_text_of_is_named(index):
    with pytest.raises(InvalidInputError, match=r"\['a'\]\[1\] is a whole number of more than 4300 digits"):
        index.add(["words"], metadatas=[{"a": [10**4299, -(10**4400)]}])
    index.add(["words"], ["a"], [{"a": 10**4299}])
    assert index.get(["a"])[0].metadata == {"a": 10**4299}


def test_dates_that_python_has_not_are_refused_by_filters(index):
    """They compared as numbers of microseconds."""
    index.add(["a"], ["a"], [{"day": dt.date(2024, 1, 1)}])
    far = np.datetime64("99999-01-01")
    for condition in (far, {"$lt": far}, {"$in": [far]}, {"$ne": far}, {"$between": [dt.date(1, 1, 1), far]}):
        with pytest.raises(FilterError, match="99999-01-01"):
            index.ids({"day": condition})


def test_dates_compare_in_their_order(index):
    days = [dt.date(2023, 12, 31), dt.date(2024, 1, 1), dt.date(2024, 6, 1)]
    index.add(["x"] * 3, ["0", "1", "2"], [{"day": day} for day in days])
    assert index.ids({"day": {"$gte": dt.date(2024, 1, 1), "$lt": dt.date(2024, 6, 1)}}) == ["1"]


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        np.float32("nan"),
        decimal.Decimal("NaN"),
        decimal.Decimal("sNaN"),
        decimal.Decimal("1E+999999999"),
        np.timedelta64(1, "ns"),
        np.timedelta64(10**15, "s"),
        np.datetime64("99999-01-01"),
        np.datetime64("-001-01-01"),
        np.datetime64(10**12, "D"),
        np.array(["2024-01-01", "10000-01-01"], dtype="M8[D]")[1:],
        decimal.Decimal("Infinity"),
        np.array([1.0, float("nan")]),
        b"bytes",
        {1, 2},
        object(),
        1j,
        {1: "a"},
        "\ud800",
    ],
    ids=lambda value: repr(value).split(" at ")[0],
)
def test_what_is_no_json_is_refused_everywhere_in_the_same_words(index, value):
    from langchain_core.documents import Document as Passage
    from langchain_fastlane import FastLaneVectorStore
    from llama_index.core.schema import NodeRelationship, TextNode
    from llama_index.retrievers.fastlane import FastLaneRetriever

    metadata = {"deep": [value]}
    node = TextNode(text="words", metadata=metadata)
    child = TextNode(text="words")
    child.relationships[NodeRelationship.SOURCE] = node.as_related_node_info()
    nodes = FastLaneRetriever(index)
    for call in (
        lambda: index.add(["words"], ["a"], [metadata]),
        lambda: index.ingest([Document("a", "words", metadata)]),
        lambda: FastLaneVectorStore(index).add_documents([Passage(page_content="words", metadata=metadata)]),
        lambda: nodes.add_nodes([node]),
        lambda: nodes.add_nodes([child]),
    ):
        with pytest.raises(InvalidInputError, match=r"\['deep'\]\[0\]"):
            call()
    assert len(index) == 0


def test_nodes_and_documents_come_back_with_the_stored_values(index):
    from langchain_core.documents import Document as Passage
    from langchain_fastlane import FastLaneVectorStore
    from llama_index.core.schema import TextNode
    from llama_index.retrievers.fastlane import FastLaneRetriever

    given = {name: value for name, (value, _) in VALUES.items()}
    stored = {name: value for name, (_, value) in VALUES.items()}
    FastLaneVectorStore(index).add_documents([Passage(id="p", page_content="words", metadata=given)])
    assert FastLaneVectorStore(index).get_by_ids(["p"])[0].metadata == stored
    retriever = FastLaneRetriever(index, similarity_top_k=2)
    retriever.add_nodes([TextNode(id_="n", text="other words", metadata=given)])
    assert next(one.node for one in retriever.retrieve("other words") if one.node.node_id == "n").metadata == stored
