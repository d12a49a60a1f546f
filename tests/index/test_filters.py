"""The filter language, compared with a plain Python evaluator, with and without indexed keys."""

import datetime as dt
import math
import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import FastLaneWarning, FilterError, InvalidInputError
from fastlane_rag.storage.filters import DocumentFilter, all_of, compile_filter
from fastlane_rag.storage.metadata import catalogue_text

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
DOCUMENTS = {
    "en20": {"lang": "en", "year": 2020, "tags": ["a", "b"], "draft": False},
    "de21": {"lang": "de", "year": 2021, "tags": [], "draft": True, "note": None},
    "en19": {"lang": "en", "year": 2019.5, "tags": ["b", 3, None, True]},
    "fr": {"lang": "français", "year": "2020", "tags": "a,b"},
    "none": {},
}


@pytest.fixture(params=[(), ("lang", "year", "tags", "draft", "note")], ids=["plain", "indexed"])
def filtered(request):
    with FastLaneIndex.create(model=WordModel(), filter_keys=request.param) as index:
        index.add(["same words"] * 5, ids=list(DOCUMENTS), metadatas=list(DOCUMENTS.values()))
        yield index


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({}, "en20 de21 en19 fr none"),
        ({"lang": "en"}, "en20 en19"),
        ({"lang": {"$eq": "français"}}, "fr"),
        ({"lang": {"$ne": "en"}}, "de21 fr none"),
        ({"year": 2020}, "en20"),
        ({"year": 2020.0}, "en20"),
        ({"year": "2020"}, "fr"),
        ({"year": {"$gt": 2019.5}}, "en20 de21"),
        ({"year": {"$gte": 2019.5}}, "en20 de21 en19"),
        ({"year": {"$lt": 2020}}, "en19"),
        ({"year": {"$lte": 2020}}, "en20 en19"),
        ({"year": {"$gte": 2020, "$lt": 2021}}, "en20"),
        ({"year": {"$gt": "2"}}, "fr"),
        ({"lang": {"$lt": "en"}}, "de21"),
        ({"draft": True}, "de21"),
        ({"draft": False}, "en20"),
        ({"draft": 1}, ""),
        ({"draft": {"$ne": True}}, "en20 en19 fr none"),
        ({"note": None}, "de21"),
        ({"note": {"$ne": None}}, "en20 en19 fr none"),
        ({"year": {"$in": [2021, "2020", 7]}}, "de21 fr"),
        ({"year": {"$in": []}}, ""),
        ({"year": {"$nin": []}}, "en20 de21 en19 fr none"),
        ({"year": {"$nin": [2020, 2021]}}, "en19 fr none"),
        ({"draft": {"$in": [True, None]}}, "de21"),
        ({"lang": {"$in": {"en", "de"}}}, "en20 de21 en19"),
        ({"tags": {"$contains": "a"}}, "en20 fr"),
        ({"tags": {"$contains": "a,"}}, "fr"),
        ({"tags": {"$contains": 3}}, "en19"),
        ({"tags": {"$contains": None}}, "en19"),
        ({"tags": {"$contains": True}}, "en19"),
        ({"lang": {"$contains": "an"}}, "fr"),
        ({"lang": {"$contains": "EN"}}, ""),
        ({"lang": {"$contains": ""}}, "en20 de21 en19 fr"),
        ({"note": {"$exists": True}}, "de21"),
        ({"note": {"$exists": False}}, "en20 en19 fr none"),
        ({"tags": "a"}, "en20"),
        ({"tags": {"$ne": "b"}}, "de21 fr none"),
        ({"tags": {"$in": ["a", "a,b"]}}, "en20 fr"),
        ({"tags": {"$nin": ["a", 3]}}, "de21 fr none"),
        ({"tags": None}, "en19"),
        ({"tags": {"$gt": 2}}, "en19"),
        ({"tags": {"$exists": True}}, "en20 de21 en19 fr"),
        ({"year": {"$between": [2019.5, 2020]}}, "en20 en19"),
        ({"lang": {"$between": ["de", "en"]}}, "en20 de21 en19"),
        ({"lang": {"$like": "fran%s"}}, "fr"),
        ({"lang": {"$like": "_n"}}, "en20 en19"),
        ({"lang": {"$like": "EN"}}, ""),
        ({"tags": {"$like": "a%"}}, "en20 fr"),
        ({"$id": "de21"}, "de21"),
        ({"$id": {"$in": ["none", "en19", "absent"]}, "lang": "en"}, "en19"),
        ({"$id": {"$nin": ["none", "en19"]}}, "en20 de21 fr"),
        ({"$or": [{"$id": "fr"}, {"$id": "en20"}, {"year": 2021}]}, "en20 de21 fr"),
        ({"$id": {"$like": "en__"}}, "en20 en19"),
        ({"$and": [{"lang": "en"}, {"year": {"$lt": 2020}}]}, "en19"),
        ({"$and": []}, "en20 de21 en19 fr none"),
        ({"$or": [{"lang": "de"}, {"year": "2020"}]}, "de21 fr"),
        ({"$or": []}, ""),
        ({"$not": {"lang": "en"}}, "de21 fr none"),
        ({"$not": {}}, ""),
        ({"year": {"$not": {"$gt": 2019}}}, "fr none"),
        ({"lang": "en", "$or": [{"year": 2020}, {"year": 2021}]}, "en20"),
        ({"absent": {"$gt": 1}}, ""),
        ({"absent": {"$nin": [1]}}, "en20 de21 en19 fr none"),
    ],
)
def test_what_a_filter_matches(filtered, filter, expected):
    assert " ".join(filtered.ids(filter)) == expected
    assert {hit.id for hit in filtered.search("words", k=9, filter=filter)} == set(expected.split())


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"year": {"$gr": 3}}, r"unknown operator '\$gr' on 'year'"),
        ({"$xor": []}, r"unknown operator '\$xor'"),
        ({"$eq": 3}, r"unknown operator '\$eq' between filters"),
        ({"year": {"gt": 3}}, "unknown operator 'gt'"),
        ({"year": {}}, "condition on 'year' is empty"),
        ({"year": {"$gt": None}}, r"\$gt on 'year' compares numbers or texts, not None"),
        ({"year": {"$gt": True}}, r"\$gt on 'year'"),
        ({"year": {"$lt": [1]}}, r"\$lt on 'year'"),
        ({"year": {"$in": 3}}, r"\$in on 'year' takes a list"),
        ({"year": {"$in": "abc"}}, r"\$in on 'year' takes a list"),
        ({"year": {"$in": [[1]]}}, r"\$in on 'year'"),
        ({"year": {"$exists": 1}}, r"\$exists on 'year' takes True or False"),
        ({"year": [1, 2]}, r"\$eq on 'year' takes"),
        ({"year": float("nan")}, "finite"),
        ({"year": 10**400}, r"\$eq on 'year' takes a number of 64 bits, not one of 1329 bits"),
        ({"year": 2**63}, "store such numbers as text"),
        ({"year": {"$in": [1, 2**64]}}, r"\$in on 'year'"),
        ({"year": {"$lt": -(2**63) - 1}}, r"\$lt on 'year'"),
        ({"tags": {"$contains": 2**63}}, r"\$contains on 'tags'"),
        ({"tags": {"$contains": ["a"]}}, r"\$contains on 'tags'"),
        ({"year": {"$between": 3}}, r"\$between on 'year' takes a list"),
        ({"year": {"$between": [1, 2, 3]}}, r"\$between on 'year' takes two values"),
        ({"year": {"$between": {1, 2}}}, r"\$between on 'year' takes two values"),
        ({"year": {"$between": [1, "2"]}}, r"\$between on 'year' takes two numbers, two texts or two dates"),
        ({"lang": {"$like": 3}}, r"\$like on 'lang' takes a text with % and _"),
        ({"$ids": ["a"]}, "the key \\$id"),
        ({"$and": {"lang": "en"}}, r"\$and takes a list"),
        ({"$or": [3]}, "a filter is a dict"),
        ({"$not": [{}]}, "a filter is a dict"),
        ({"lang": {"$not": "en"}}, r"\$not on 'lang' takes operators"),
        ({3: 4}, "filter key"),
        ({"\ud800": 4}, "surrogate"),
        ("lang", "a filter is a dict"),
        ([], "a filter is a dict"),
    ],
)
def test_a_filter_that_means_nothing_is_named(filtered, filter, message):
    for action in (filtered.ids, lambda f: filtered.search("x", filter=f), lambda f: filtered.delete(filter=f)):
        with pytest.raises(FilterError, match=message):
            action(filter)
    assert len(filtered) == 5


def test_wrong_filters_are_named_on_an_empty_index_too():
    with FastLaneIndex.create(model=WordModel()) as index, pytest.raises(FilterError, match=r"\$gr"):
        index.search("x", filter={"a": {"$gr": 1}})


def test_filters_of_any_size(filtered):
    assert filtered.ids({"$or": [{"year": year} for year in range(1500, 3500)]}) == ["en20", "de21"]
    assert filtered.ids({"year": {"$in": list(range(100_000))}}) == ["en20", "de21"]
    assert filtered.ids({"$or": [{"year": year} for year in range(40_000)]}) == ["en20", "de21"]
    with pytest.raises(FilterError, match=r"\$in and \$nin"):
        filtered.ids({"$or": [{"year": {"$gt": year}} for year in range(40_000)]})


def test_equalities_on_one_key_are_one_list(filtered):
    """Frameworks write 500 ids as $or. If branches were not combined, each would read all metadata."""
    years, names = [{"year": year} for year in range(1990, 2021)], [{"lang": {"$in": ["fr", "it"]}}, {"lang": "es"}]
    one, many = {"$or": [*years, *names]}, {"$or": [{"$or": years[:9]}, {"$or": [*years[9:], *names]}]}
    plain = {"$or": [{"year": {"$in": list(range(1990, 2021))}}, {"lang": {"$in": ["fr", "it", "es"]}}]}
    assert filtered.ids(one) == filtered.ids(many) == filtered.ids(plain) != []
    without = {"$and": [{"year": {"$ne": 2020}}, {"$and": [{"lang": {"$nin": ["fr"]}}, {"year": {"$ne": 2021}}]}]}
    assert filtered.ids(without) == filtered.ids({"year": {"$nin": [2020, 2021]}, "lang": {"$nin": ["fr"]}})
    for filter_ in (one, many, without):
        assert len(compile_filter(filter_).parameters) <= 6


@pytest.mark.parametrize(
    "filter_",
    [
        {"$or": [{"tags": {"$contains": f"t{i}"}} for i in range(300)]},
        {"$or": [{"year": {"$gt": 3000 + i}} for i in range(300)]},
        {"$or": [{"$id": {"$like": f"{i}%"}} for i in range(300)]},
        {"$not": {"$and": [{"$not": {"year": i}} for i in range(300)]}},
        {"$not": {"$and": [{"year": {"$not": {"$eq": i}}} for i in range(300)]}},
    ],
    ids=["contains", "greater", "like", "not", "not inside"],
)
def test_conditions_on_one_key_are_read_once(filtered, filter_):
    """LlamaIndex's `any` and `!=` become such filters. Each condition read the metadata of all documents."""
    assert filtered.ids(filter_) == []
    assert compile_filter(filter_).sql.count("FROM json_each(documents.metadata)") <= 1


@pytest.mark.parametrize("keys", [(), ("year", "tags")], ids=["plain", "indexed"])
def test_joined_conditions_mean_what_each_means(keys):
    metadatas = [
        {"year": 1990, "tags": ["a", "b"]},
        {"year": [2000, 2010], "tags": "abc"},
        {"year": None, "tags": [1, True]},
        {"tags": []},
        {"year": "1990", "tags": ["c", "d", None]},
    ]
    parts = [
        {"year": {"$gt": 2005}},
        {"year": 1990},
        {"year": {"$in": ["1990", None]}},
        {"year": {"$between": [1980, 1995]}},
        {"year": {"$like": "19%"}},
        {"tags": {"$contains": "b"}},
        {"tags": {"$contains": "bc"}},
        {"tags": {"$contains": 1}},
        {"tags": {"$contains": True}},
        {"tags": {"$contains": None}},
        {"tags": "c"},
        {"$id": {"$gte": "4"}},
        {"$id": "0"},
    ]
    with FastLaneIndex.create(model=WordModel(), filter_keys=keys) as index:
        index.add(["x"] * 5, ids=list("01234"), metadatas=metadatas)
        alone = [set(index.ids(part)) for part in parts]
        for i, one in enumerate(parts):
            for j, two in enumerate(parts):
                assert set(index.ids({"$or": [one, two]})) == alone[i] | alone[j]
                both = {"$and": [{"$not": one}, {"$not": two}]}
                assert set(index.ids(both)) == set("01234") - alone[i] - alone[j]


def test_patterns_have_a_bound(filtered):
    """SQLite's own error came through."""
    with pytest.raises(FilterError, match=r"\$like on 'lang' takes a pattern of up to 50000 bytes, not one of 60000"):
        filtered.ids({"lang": {"$like": "%a" * 30_000}})


def test_nested_filters(filtered):
    negated = mixed = {"lang": {"$in": ["en", None, 3]}}
    for i in range(18):
        negated = {"$not": negated}
        mixed = {"$or" if i % 2 else "$and": [{"year": {"$exists": True}}, {"year": {"$nin": [1, "x"]}}, mixed]}
    assert filtered.ids(negated) == ["en20", "en19"]
    assert filtered.ids(mixed) == ["en20", "de21", "en19", "fr", "none"]
    for _ in range(5000):
        negated = {"$not": negated}
    with pytest.raises(FilterError, match="nested"):
        filtered.ids(negated)


@pytest.mark.parametrize("keys", [(), ("n",)], ids=["plain", "indexed"])
def test_numbers_beyond_64_bits_are_equal_to_no_other(keys):
    """SQLite has no such whole numbers, and compares them as floats: a document of another tenant would match."""
    with FastLaneIndex.create(model=WordModel(), filter_keys=keys) as index:
        numbers = [2**63 - 1, 2**63, 2**63 + 1, float(2**63)]
        index.add(["x"] * 4, ids=["most", "beyond", "more", "float"], metadatas=[{"n": n, "in": [n]} for n in numbers])
        assert index.get(["more"])[0].metadata["n"] == 2**63 + 1
        assert index.ids({"n": 2**63 - 1}) == ["most"]
        assert index.ids({"n": float(2**63)}) == index.ids({"n": {"$in": [float(2**63)]}}) == ["float"]
        assert index.ids({"in": {"$contains": float(2**63)}}) == ["float"]
        assert index.ids({"n": {"$gt": 2**63 - 1}}) == ["beyond", "more", "float"]


def test_filters_of_all_forms_join(filtered):
    early = lambda metadata: not isinstance(metadata.get("year"), str)  # noqa: E731
    english, both = {"lang": "en"}, all_of({"lang": {"$ne": "de"}}, None, early)
    assert filtered.ids(both) == ["en20", "en19", "none"]
    assert filtered.ids(all_of(english, {"year": 2020})) == ["en20"]
    assert filtered.ids(all_of(both, all_of(early, english))) == ["en20", "en19"]
    assert [hit.id for hit in filtered.search("words", filter=all_of(english, both))] == ["en19", "en20"]
    assert all_of(None, english) is english
    assert all_of(None, None) is all_of() is None


def test_a_callable_is_applied_before_ranking(filtered):
    hits = filtered.search("words", k=9, filter=lambda metadata: metadata.get("year", 0) == 2020)
    assert [hit.id for hit in hits] == ["en20"]
    with pytest.raises(KeyError):
        filtered.search("words", filter=lambda metadata: metadata["absent"])


def test_an_asynchronous_function_is_refused(filtered):
    """What it gives is true of every document, so a search saw all of them, and a deletion took all."""

    async def english(metadata):
        return metadata.get("lang") == "en"

    for action in (filtered.ids, lambda f: filtered.search("words", filter=f), lambda f: filtered.delete(filter=f)):
        with pytest.raises(FilterError, match="asynchronous"):
            action(english)
    assert len(filtered) == 5


def test_a_callable_may_use_the_index(index):
    index.add(["a", "b"], ids=["a", "b"], metadatas=[{"other": "b"}, {"other": "absent"}])
    assert index.ids(lambda metadata: bool(index.get([metadata["other"]]))) == ["a"]
    assert [hit.id for hit in index.search("a", filter=lambda metadata: metadata["other"] in index)] == ["a"]


@pytest.mark.parametrize("share", [1, 10, 300])
def test_a_filter_gives_exactly_k_from_many(share):
    with FastLaneIndex.create(model=WordModel(), filter_keys=["group"]) as index:
        index.add(
            [f"word{i % 9} other{i % 5}" for i in range(1200)],
            ids=[f"{i:04}" for i in range(1200)],
            metadatas=[{"group": i % share} for i in range(1200)],
        )
        hits = index.search("word3 other2", k=4, filter={"group": 0}, route_k=1)
        assert len(hits) == 4
        assert all(hit.metadata["group"] == 0 for hit in hits)
        everything = index.search("word3 other2", k=1200, route_k="all")
        assert hits == [hit for hit in everything if hit.metadata["group"] == 0][:4]


def test_indexed_keys_follow_updates(tmp_path):
    with FastLaneIndex.create(tmp_path / "i", model=WordModel(), filter_keys=["year"]) as index:
        index.add(["a", "b", "c"], ids=["a", "b", "c"], metadatas=[{"year": i} for i in range(3)])
        index.update_metadata(["a"], [{"year": 9}])
        index.add(["b"], ids=["b"], metadatas=[{"year": 9}])
        index.delete(["c"])
        index.compact()
        assert index.ids({"year": 9}) == ["a", "b"]
        assert index.ids({"year": {"$lt": 9}}) == []
        assert index.verify() == []


# --- nested keys, dates, ids, whole documents ------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(), ("author.name", "author")], ids=["plain", "indexed"])
def test_dots_lead_into_objects_unless_a_key_has_them(keys):
    metadatas = {
        "nested": {"author": {"name": "Ada", "langs": ["en", "fr"], "home": {"city": "London"}}},
        "literal": {"author.name": "Bob", "author": {"name": "Ada"}},
        "list": {"author": [{"name": "Ada"}]},
        "text": {"author": "Ada"},
        "none": {},
    }
    with FastLaneIndex.create(model=WordModel(), filter_keys=keys) as index:
        index.add(["x"] * 5, ids=list(metadatas), metadatas=list(metadatas.values()))
        for filter, expected in [
            ({"author.name": "Ada"}, "nested"),
            ({"author.name": "Bob"}, "literal"),
            ({"author.name": {"$ne": "Ada"}}, "literal list text none"),
            ({"author.name": {"$exists": True}}, "nested literal"),
            ({"author.home.city": {"$like": "Lon%"}}, "nested"),
            ({"author.langs": "fr"}, "nested"),
            ({"author.langs": {"$contains": "en"}}, "nested"),
            ({"author..name": "Ada"}, ""),
            ({"author": "Ada"}, "text"),
        ]:
            assert " ".join(index.ids(filter)) == expected, filter


MOMENTS = {
    "day": dt.date(2024, 3, 1),
    "utc": dt.datetime(2024, 3, 1, 12, tzinfo=dt.UTC),
    "tokyo": dt.datetime(2024, 3, 1, 20, 59, 59, 999_999, dt.timezone(dt.timedelta(hours=9))),
    "naive": dt.datetime(2024, 3, 1, 12, 0, 0, 1),
    "old": dt.datetime(1969, 12, 31, 23, 59, 59, 999_999),
    "text": "soon",
}


@pytest.mark.parametrize("keys", [(), ("at",)], ids=["plain", "indexed"])
@pytest.mark.parametrize("as_text", [False, True], ids=["dates", "texts"])
def test_dates_compare_as_instants(keys, as_text):
    """As UTC, tokyo is 11:59:59.999999: as a text it would be the latest."""
    noon = dt.datetime(2024, 3, 1, 7, tzinfo=dt.timezone(dt.timedelta(hours=-5)))
    with FastLaneIndex.create(model=WordModel(), filter_keys=keys) as index:
        index.add(["x"] * len(MOMENTS), ids=list(MOMENTS), metadatas=[{"at": at} for at in MOMENTS.values()])

        def found(operator, *operands):
            given = [operand.isoformat() if as_text else operand for operand in operands]
            return " ".join(index.ids({"at": {operator: given if operator == "$between" else given[0]}}))

        assert found("$lt", noon) == "day tokyo old"
        assert found("$lte", noon) == "day utc tokyo old"
        assert found("$gt", noon) == "naive"
        assert found("$between", dt.date(2024, 3, 1), noon) == "day utc tokyo"
        assert found("$lt", dt.date(1970, 1, 1)) == "old"
        if not as_text:
            assert found("$eq", noon) == "utc"
            assert index.ids({"at": {"$in": [noon, dt.date(2024, 3, 1), "soon"]}}) == ["day", "utc", "text"]
            assert index.ids({"at": {"$ne": noon}}) == ["day", "tokyo", "naive", "old", "text"]
        assert index.ids({"at": {"$gt": "so"}}) == ["text"]


@given(
    moments=st.lists(st.datetimes(timezones=st.none() | st.timezones()), min_size=1, max_size=4),
    limit=st.datetimes(timezones=st.none() | st.timezones()),
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_two_moments_order_as_python_has_them(moments, limit):
    def utc(moment):
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment

    def whole_minutes(moment):
        return moment.tzinfo is None or not moment.utcoffset() % dt.timedelta(minutes=1)

    moments = [moment for moment in moments if whole_minutes(moment) and 1 < moment.year < 9999]
    with FastLaneIndex.create(model=WordModel()) as index:
        index.add(
            ["x"] * len(moments), ids=[str(n) for n in range(len(moments))], metadatas=[{"at": m} for m in moments]
        )
        expected = [str(n) for n, moment in enumerate(moments) if (utc(moment) - EPOCH) < (utc(limit) - EPOCH)]
        assert index.ids({"at": {"$lt": limit}}) == expected


def test_patterns_are_those_of_like():
    texts = ["50% off", "50 off", "a*b", "a?b", "[a]", "a\nb", "a\\b"]
    patterns = {
        "50\\% off": ["50% off"],
        "50%off": ["50% off", "50 off"],
        "a*b": ["a*b"],
        "a?b": ["a?b"],
        "[a]": ["[a]"],
        "a_b": ["a*b", "a?b", "a\nb", "a\\b"],
        "a\\\\b": ["a\\b"],
        "%": texts,
        "": [],
    }
    with FastLaneIndex.create(model=WordModel()) as index:
        index.add(["x"] * len(texts), ids=texts, metadatas=[{"t": text} for text in texts])
        assert {pattern: index.ids({"t": {"$like": pattern}}) for pattern in patterns} == patterns


def test_a_function_of_the_whole_document(filtered):
    mine = DocumentFilter(lambda document: document.id == "fr" and document.text == "same words")
    assert filtered.ids(mine) == ["fr"]
    assert filtered.ids(all_of(mine, {"lang": "en"})) == []
    assert [hit.id for hit in filtered.search("words", filter=mine)] == ["fr"]


def test_find_reads_in_the_order_of_addition(filtered):
    assert [document.id for document in filtered.find()] == list(DOCUMENTS)
    [found] = filtered.find({"lang": "en"}, limit=1, offset=1)
    assert (found.id, found.text, found.metadata) == ("en19", "same words", DOCUMENTS["en19"])
    assert [document.id for document in filtered.find(lambda metadata: "lang" in metadata, 2, 1)] == ["de21", "en19"]
    assert filtered.find(limit=0) == filtered.find(offset=9) == filtered.find(offset=2**70) == []
    assert len(filtered.find(limit=2**70)) == 5
    with pytest.raises(InvalidInputError, match="offset must be"):
        filtered.find(offset=-1)


@pytest.mark.parametrize(
    ("filter", "hint"),
    [
        ({"yaer": 2020}, "no document has the metadata key 'yaer'; did you mean 'year'?"),
        ({"lang": "en", "zzz.b": {"$in": [1]}}, "no document has the metadata key 'zzz.b'"),
        ({"draft": "true"}, "compares 'draft' with a text, and it is true or false"),
        ({"lang": 3}, "compares 'lang' with a number, and it is a text in the documents: give a text"),
        ({"note": {"$gt": dt.date(2024, 1, 1)}}, "compares 'note' with a date"),
        ({"$id": {"$in": [1, 2]}}, "compares '$id' with a number, and it is a text in the documents: give a text"),
        ({"$id": "nobody"}, ""),
        (all_of({"draft": "no"}, lambda metadata: True), "'draft'"),
        ({"lang": "xx"}, ""),
        ({"year": {"$gt": 3000}}, ""),
        ({"$not": {}}, ""),
    ],
)
def test_a_search_says_why_its_filter_matches_nothing(filtered, filter, hint):
    """Case 36, and the number that a language model sends as a text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = filtered.search_detailed("words", filter=filter)
    assert result.hits == []
    assert hint in result.hint
    assert bool(result.hint) == bool(hint)
    assert [hint in str(one.message) for one in caught] == ([True] if hint else [])
    with FastLaneIndex.create(model=WordModel()) as empty:
        assert empty.search_detailed("words", filter=filter).hint == ""


def test_a_number_in_quotes_is_told(index):
    index.add(["words"], ["a"], [{"year": 2020}])
    with pytest.warns(
        FastLaneWarning, match="with a text, and it is a number in the documents: give the number without"
    ):
        assert index.search("words", filter={"year": "2020"}) == []


# A plain evaluator of the language, against which the SQL is checked.

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, -1.0, 2.0, 1e300, 2**60, 2**63 - 1, 2.0**63, 2.0**70]),
    st.text(alphabet='ab"\\\0é\ufdd0%', max_size=2),
)
keys = st.sampled_from(["k", "a", "a.b", 'q"', "\\", "n\0", ""])
stored = st.one_of(scalars, st.sampled_from([2**63, 2**63 + 1, -(2**63) - 1, 2**70, 10**400]))
values = st.one_of(stored, st.lists(stored, max_size=3))
values = st.one_of(values, st.dictionaries(st.sampled_from(["a", "b", "a.b"]), values, max_size=2))
ordered = st.one_of(
    st.integers(-3, 3), st.sampled_from([0.5, 2.0, 2**63 - 1, 2.0**63, -(2.0**63)]), st.text(alphabet="abé", max_size=2)
)
conditions = st.one_of(
    scalars,
    st.builds(lambda v: {"$eq": v}, scalars),
    st.builds(lambda v: {"$ne": v}, scalars),
    st.builds(lambda v: {"$in": v}, st.lists(scalars, max_size=3)),
    st.builds(lambda v: {"$nin": v}, st.lists(scalars, max_size=3)),
    st.builds(lambda o, v: {o: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered),
    st.builds(lambda v: {"$contains": v}, scalars),
    st.builds(lambda v: {"$exists": v}, st.booleans()),
)
conditions = st.one_of(conditions, st.builds(lambda c: {"$not": c}, conditions.filter(lambda c: isinstance(c, dict))))
fields = st.dictionaries(keys, conditions, max_size=2)
filters = st.recursive(
    fields,
    lambda inner: st.one_of(
        st.builds(lambda f: {"$and": f}, st.lists(inner, max_size=3)),
        st.builds(lambda f: {"$or": f}, st.lists(inner, max_size=3)),
        st.builds(lambda f: {"$not": f}, inner),
    ),
    max_leaves=5,
)


def same(a, b):
    numbers = [isinstance(v, int | float) and not isinstance(v, bool) for v in (a, b)]
    return (all(numbers) or type(a) is type(b)) and a == b and not beyond(a)


def beyond(value):
    """Whole numbers of more than 64 bits, which filters know as floats: they are equal to nothing."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def orders(value, operand, operator):
    if isinstance(value, str):  # a NUL orders as what stands for it
        value = catalogue_text(value)
    number = [isinstance(v, int | float) and not isinstance(v, bool) for v in (value, operand)]
    if not (all(number) or (isinstance(value, str) and isinstance(operand, str))):
        return False
    if beyond(value):
        value = float(value) if abs(value) < 2**1000 else math.inf
        if value == operand:
            return False
    return {"$gt": value > operand, "$gte": value >= operand, "$lt": value < operand, "$lte": value <= operand}[
        operator
    ]


def holds(condition, present, value):
    """Whether a value, or an element of a list, meets a condition."""
    if isinstance(condition, dict):
        [(operator, operand)] = condition.items()
        if operator == "$not":
            return not holds(operand, present, value)
        if operator in ("$ne", "$nin"):
            return not holds({{"$ne": "$eq", "$nin": "$in"}[operator]: operand}, present, value)
        if operator in ("$exists", "$contains"):
            return meets(condition, present, value)
    elements = value if isinstance(value, list) else []
    return any(meets(condition, present, one) for one in [value, *elements])


def meets(condition, present, value):
    if not isinstance(condition, dict):
        return present and same(value, condition)
    [(operator, operand)] = condition.items()
    match operator:
        case "$eq":
            return present and same(value, operand)
        case "$in":
            return present and any(same(value, v) for v in operand)
        case "$exists":
            return present is operand
        case "$contains":
            if isinstance(value, list):
                return any(same(element, operand) for element in value)
            return isinstance(value, str) and isinstance(operand, str) and operand in value
    return present and orders(value, operand, operator)


def found_at(metadata, key):
    """Whether there is a value under a key, by itself or by the path its dots make, and the value."""
    if key not in metadata and "." in key:
        for step in key.split("."):
            if not isinstance(metadata, dict) or step not in metadata:
                return False, None
            metadata = metadata[step]
        return True, metadata
    return key in metadata, metadata.get(key)


def matches(filter, metadata):
    results = []
    for key, condition in filter.items():
        if key == "$and":
            results.append(all(matches(part, metadata) for part in condition))
        elif key == "$or":
            results.append(any(matches(part, metadata) for part in condition))
        elif key == "$not":
            results.append(not matches(condition, metadata))
        else:
            results.append(holds(condition, *found_at(metadata, key)))
    return all(results)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    metadatas=st.lists(st.dictionaries(keys, values, max_size=3), min_size=1, max_size=8),
    conditions=st.lists(filters, min_size=1, max_size=6),
    indexed=st.sets(keys),
)
def test_sql_agrees_with_a_plain_evaluator(metadatas, conditions, indexed):
    with FastLaneIndex.create(model=WordModel(), filter_keys=sorted(indexed)) as index:
        ids = index.add(["x"] * len(metadatas), metadatas=metadatas)
        for filter in conditions:
            expected = [id_ for id_, metadata in zip(ids, metadatas, strict=True) if matches(filter, metadata)]
            assert index.ids(filter) == expected
            assert index.ids(lambda metadata, f=filter: matches(f, metadata)) == expected
