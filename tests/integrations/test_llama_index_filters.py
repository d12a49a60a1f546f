"""MetadataFilters mean what they mean to LlamaIndex's own stores."""

from collections.abc import Callable
from typing import Any

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.retrievers.fastlane import FastLaneRetriever

from fastlane_rag.errors import FilterError

ROWS: dict[str, dict[str, Any]] = {
    "full": {"year": 2020, "name": "Guido van Rossum", "tags": ["core", "docs"], "ratio": 1.5},
    "later": {"year": 2021, "name": "guido", "tags": []},
    "nulls": {"year": None, "name": "", "tags": None},
    "nothing": {},
    "texts": {"year": "2020", "name": 5, "tags": "core docs"},
    "floats": {"year": 2020.0, "name": "Rossum", "tags": ["docs", 3, 2.5]},
    "flags": {"year": True, "name": False, "tags": [True]},
}
# To Python True is 1, so LlamaIndex's function takes true for a number. To the index it never is.
COMPARABLE = ROWS.keys() - {"flags"}
OPERATOR = FilterOperator


def leaf(key: str, operator: FilterOperator, value: Any) -> MetadataFilter:
    return MetadataFilter(key=key, operator=operator, value=value)


# Key, operator, value, and the rows that match.
LEAVES = [
    ("year", OPERATOR.EQ, 2020, "full floats"),
    ("year", OPERATOR.EQ, 2020.0, "full floats"),
    ("year", OPERATOR.EQ, "2020", "texts"),
    ("year", OPERATOR.EQ, None, ""),
    ("name", OPERATOR.EQ, "", "nulls"),
    ("tags", OPERATOR.EQ, ["core", "docs"], "full"),
    ("absent", OPERATOR.EQ, 1, ""),
    ("year", OPERATOR.NE, 2020, "later nulls nothing texts"),
    ("year", OPERATOR.NE, None, "full later nulls nothing texts floats"),
    ("tags", OPERATOR.NE, ["core", "docs"], "later nulls nothing texts floats"),
    ("absent", OPERATOR.NE, 1, "full later nulls nothing texts floats"),
    ("year", OPERATOR.GT, 2020, "later"),
    ("year", OPERATOR.GTE, 2020, "full later floats"),
    ("year", OPERATOR.LT, 2020.5, "full floats"),
    ("year", OPERATOR.LTE, 2020, "full floats"),
    ("name", OPERATOR.GT, "H", "later floats"),
    ("year", OPERATOR.IN, [2020, 2022], "full floats"),
    ("name", OPERATOR.IN, ["guido", "Rossum"], "later floats"),
    ("year", OPERATOR.IN, [], ""),
    ("year", OPERATOR.NIN, [2020, 2022], "later nulls nothing texts"),
    ("name", OPERATOR.NIN, ["guido", "Rossum"], "full nulls nothing texts"),
    ("year", OPERATOR.NIN, [], "full later nulls nothing texts floats"),
    ("tags", OPERATOR.ANY, ["core", "none"], "full texts"),
    ("tags", OPERATOR.ANY, [], ""),
    ("tags", OPERATOR.ALL, ["core", "docs"], "full texts"),
    ("tags", OPERATOR.ALL, ["core", "none"], ""),
    ("tags", OPERATOR.ALL, [], "full later texts floats"),
    ("tags", OPERATOR.CONTAINS, "docs", "full texts floats"),
    ("tags", OPERATOR.CONTAINS, 3, "floats"),
    ("name", OPERATOR.CONTAINS, "uid", "full later"),
    ("name", OPERATOR.TEXT_MATCH, "uido", "full later"),
    ("name", OPERATOR.TEXT_MATCH, "Guido", "full"),
    ("tags", OPERATOR.TEXT_MATCH, "docs", "texts"),
    ("name", OPERATOR.TEXT_MATCH_INSENSITIVE, "GUIDO", "full later"),
    ("tags", OPERATOR.TEXT_MATCH_INSENSITIVE, "DOCS", "texts"),
    ("year", OPERATOR.IS_EMPTY, None, "nulls nothing"),
    ("name", OPERATOR.IS_EMPTY, None, "nulls nothing"),
    ("tags", OPERATOR.IS_EMPTY, None, "later nulls nothing"),
]


@pytest.fixture(scope="module")
def retriever(model) -> FastLaneRetriever:
    nodes = [
        TextNode(id_=id_, text=f"Row {id_}.", metadata=metadata, excluded_embed_metadata_keys=list(metadata))
        for id_, metadata in ROWS.items()
    ]
    return FastLaneRetriever.from_nodes(nodes, model=model, similarity_top_k=len(ROWS))


def found(retriever: FastLaneRetriever, filters: MetadataFilters) -> set[str]:
    retriever.filters = filters
    return {scored.node_id for scored in retriever.retrieve("row")}


@pytest.mark.parametrize(
    ("key", "operator", "value", "ids"), LEAVES, ids=lambda part: str(getattr(part, "value", part))
)
def test_each_operator_matches_what_it_should(retriever, key, operator, value, ids):
    one = leaf(key, operator, value)
    assert found(retriever, MetadataFilters(filters=[one])) & COMPARABLE == set(ids.split())


def test_these_are_the_meanings_of_llama_indexs_own_function():
    """One row at a time; where the function fails on a row's types, the row does not match."""
    utils = pytest.importorskip("llama_index.core.vector_stores.utils")
    if not hasattr(utils, "build_metadata_filter_fn"):
        pytest.skip("this llama-index-core has no public filter function")
    for key, operator, value, ids in LEAVES:
        filters = MetadataFilters(filters=[leaf(key, operator, value)])
        matches = utils.build_metadata_filter_fn(ROWS.__getitem__, filters)
        assert {id_ for id_ in COMPARABLE if fits(matches, id_)} == set(ids.split()), filters


def fits(matches: Callable[[str], bool], id_: str) -> bool:
    try:
        return matches(id_)
    except TypeError:
        return False


@pytest.mark.parametrize("also", [[], [leaf("absent", OPERATOR.IS_EMPTY, None)]], ids=["catalogue", "function"])
@pytest.mark.parametrize("operator", [OPERATOR.EQ, OPERATOR.LTE, OPERATOR.GTE, OPERATOR.IN, OPERATOR.NE, OPERATOR.NIN])
def test_true_is_not_the_number_1(retriever, operator, also):
    one = leaf("year", operator, [1] if operator in (OPERATOR.IN, OPERATOR.NIN) else 1)
    matched = "flags" in found(retriever, MetadataFilters(filters=[one, *also]))
    assert matched == (operator in (OPERATOR.NE, OPERATOR.NIN))


def test_every_operator_is_covered():
    assert {operator for _, operator, _, _ in LEAVES} == set(FilterOperator)


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        (None, {"full"}),
        (FilterCondition.AND, {"full"}),
        (FilterCondition.OR, {"full", "later", "floats"}),
        (FilterCondition.NOT, {"nulls", "nothing", "texts", "flags"}),
    ],
)
@pytest.mark.parametrize("operator", [OPERATOR.TEXT_MATCH, OPERATOR.TEXT_MATCH_INSENSITIVE])
def test_conditions_join_filters_in_the_catalogue_and_as_a_function(retriever, condition, ids, operator):
    text = "uido" if operator == OPERATOR.TEXT_MATCH else "UIDO"
    parts = [leaf("year", OPERATOR.EQ, 2020), leaf("name", operator, text)]
    assert found(retriever, MetadataFilters(filters=parts, condition=condition)) == ids


@pytest.mark.parametrize("condition", list(FilterCondition))
def test_a_group_without_filters_matches_everything(retriever, condition):
    assert found(retriever, MetadataFilters(filters=[], condition=condition)) == set(ROWS)


@pytest.mark.parametrize("empty", [OPERATOR.IS_EMPTY, OPERATOR.EQ])
def test_groups_may_be_nested(retriever, empty):
    """2020 or later, unless the tags are empty; said with and without an operator only a function can say."""
    tags = leaf("tags", empty, None if empty == OPERATOR.IS_EMPTY else "core docs")
    nested = MetadataFilters(
        filters=[
            MetadataFilters(
                filters=[leaf("year", OPERATOR.EQ, 2020), leaf("year", OPERATOR.GT, 2020)],
                condition=FilterCondition.OR,
            ),
            MetadataFilters(filters=[tags], condition=FilterCondition.NOT),
        ]
    )
    assert found(retriever, nested) == (
        {"full", "floats"} if empty == OPERATOR.IS_EMPTY else {"full", "later", "floats"}
    )


@pytest.mark.parametrize(
    "one",
    [
        leaf("year", OPERATOR.GT, None),
        leaf("year", OPERATOR.GT, [1]),
        leaf("year", OPERATOR.IN, 2020),
        leaf("tags", OPERATOR.ANY, "core"),
        leaf("name", OPERATOR.TEXT_MATCH, 5),
        leaf("name", OPERATOR.TEXT_MATCH_INSENSITIVE, None),
    ],
    ids=str,
)
def test_a_value_the_operator_cannot_take_is_an_error(retriever, one):
    with pytest.raises(FilterError, match=one.key):
        found(retriever, MetadataFilters(filters=[one]))
