"""Searching over HTTP gives what the index gives."""

import json
from dataclasses import asdict, fields, replace
from functools import reduce

import numpy as np
import pytest

from fastlane_rag.remote.messages import Packed, SearchDetail, SearchResponse, rows_of, to_packed
from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.result import STAGES, SearchResult

BASE = "/v1/indexes/animals"


def hits(index, query, k=10, **options):
    return [asdict(hit) | {"relevance": hit.relevance} for hit in index.search(query, k, **options)]


OPTIONS = [
    {},
    {"k": 2},
    {"k": 0},
    {"filter": {"legs": {"$gte": 2}}},
    {"route_k": "all"},
    {"route_k": "auto"},
    {"route_k": 1, "refine": False},
    {"hybrid": True},
    {"lane": "exhaustive", "depth": 2, "nprobe": 3},
    {"lane": "words"},
    {"lane": "vector", "weighted": False},
    {"hybrid": 0.3, "fusion": "rrf"},
    {"score_threshold": 0.6},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_search_is_that_of_the_index(client, index, options):
    found = client.post(f"{BASE}/search", json={"query": "cats sing", **options})
    assert found.status_code == 200
    assert found.json() == {"hits": hits(index, "cats sing", **options), "hint": "", "detail": None}


def test_constants_of_planning_change_those_of_the_index(client, index):
    policy = replace(index.policy, route_k=1, candidates_least=1, candidates_factor=1)
    changes = {"route_k": 1, "candidates_least": 1, "candidates_factor": 1}
    found = client.post(f"{BASE}/search", json={"query": "cats sing", "k": 1, "policy": changes, "detail": True}).json()
    assert found["hits"] == hits(index, "cats sing", 1, policy=policy)
    assert found["detail"]["candidates"] == 1
    wrong = client.post(f"{BASE}/search", json={"query": "cats", "policy": {"route": 1}})
    assert wrong.status_code == 422
    assert "'route' is no constant" in wrong.json()["detail"]


def test_a_batch_answers_each_query(client, index):
    queries = ["cats purr", "birds", "swim in"]
    found = client.post(f"{BASE}/search/batch", json={"queries": queries, "k": 2, "filter": {"legs": {"$lt": 4}}})
    expected = [hits(index, query, 2, filter={"legs": {"$lt": 4}}) for query in queries]
    assert [result["hits"] for result in found.json()["results"]] == expected
    assert client.post(f"{BASE}/search/batch", json={"queries": []}).json() == {"results": []}


def test_the_detail_is_that_of_the_search(client, index):
    detail = client.post(f"{BASE}/search", json={"query": "cats purr loudly", "detail": True}).json()["detail"]
    result = index.search_detailed("cats purr loudly")
    assert detail["tokens"] == ["cats", "purr", "loudly"]
    assert detail["selected"] == result.selected
    assert detail["gathered"] == result.gathered
    assert set(detail["milliseconds"]) == {"encode", *STAGES}
    assert detail["milliseconds"]["encode"] > 0
    assert detail["query"] is None


def test_the_detail_has_all_that_a_result_has():
    """A new field of `SearchResult` must be sent too."""
    sent = {*SearchDetail.model_fields, *SearchResponse.model_fields}
    assert {one.name for one in fields(SearchResult)} - {"routed", "pool"} <= sent  # shards alone answer with a pool


@pytest.mark.parametrize("packed", [False, True])
def test_encoded_queries_find_what_their_texts_find(real_client, packed):
    asked = {"texts": ["What is a decorator?", "byte order"], "packed": packed}
    encoded = real_client.post("/v1/indexes/peps/encode", json=asked).json()["encoded"]
    for options in ({}, {"route_k": 2}, {"hybrid": True}):
        by_text = real_client.post("/v1/indexes/peps/search/batch", json={"queries": asked["texts"], **options}).json()
        body = {"queries": encoded, "texts": asked["texts"], **options}
        found = real_client.post("/v1/indexes/peps/search/encoded", json=body).json()
        assert found == by_text
    assert "-Infinity" in encoded[0]["scores"]  # markers may not be routed


def test_embeddings_alone_are_enough(client, index):
    (query,) = index.model.encode_routed(["cats purr"])
    body = {"queries": [{"embeddings": query.embeddings.tolist()}], "route_k": "all", "k": 2}
    found = client.post(f"{BASE}/search/encoded", json=body).json()["results"][0]
    assert [hit["id"] for hit in found["hits"]] == [hit["id"] for hit in hits(index, "cats purr", 2, route_k="all")]


@pytest.mark.parametrize(
    "query",
    [
        {"embeddings": [[1.0, 2.0], [3.0]]},
        {"embeddings": []},
        {"embeddings": [[1.0, 0.0]]},
        {"embeddings": [[0.25] * 16], "scores": [1.0, 2.0]},
        {"embeddings": [[0.25] * 16], "scores": ["-Infinity"]},
        {"embeddings": {"shape": [2, 16], "float32": "AAAA"}},
        {"embeddings": {"shape": [1, 1], "float32": "no base64!"}},
    ],
    ids=str,
)
def test_wrong_embeddings_are_refused(client, query):
    found = client.post(f"{BASE}/search/encoded", json={"queries": [query]})
    assert found.status_code == 422
    assert found.json()["type"] == "urn:fastlane-rag:error:InvalidInputError"


def test_rows_survive_packing():
    rows = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    again = Packed.model_validate_json(to_packed(rows).model_dump_json())
    np.testing.assert_array_equal(rows_of(again), rows)


def test_explanations_and_rankings_are_the_librarys(real_client, model, passages):
    from fastlane_rag.explain import explain
    from fastlane_rag.rerank import rerank

    query, texts = "What is a decorator?", [one["text"] for one in passages[:4]]
    ranking = real_client.post("/v1/indexes/peps/rerank", json={"query": query, "texts": texts, "top_n": 3}).json()
    assert ranking == {"ranking": [asdict(one) for one in rerank(query, texts, model=model)[:3]]}
    by_id = real_client.post("/v1/indexes/peps/explain", json={"query": query, "id": passages[1]["id"], "route_k": 4})
    by_text = real_client.post("/v1/indexes/peps/explain", json={"query": query, "text": texts[1], "route_k": 4})
    expected = explain(model, query, texts[1], route_k=4)
    assert by_id.json() == by_text.json()
    assert by_id.json()["spans"] == [asdict(span) for span in expected.spans]
    assert [one["routed"] for one in by_id.json()["tokens"]] == [one.routed for one in expected.tokens]
    assert real_client.post("/v1/indexes/peps/rerank", json={"query": query, "texts": []}).json() == {"ranking": []}
    documents = real_client.post("/v1/indexes/peps/encode", json={"texts": texts[:1], "kind": "document"}).json()
    (rows,) = model.encode_documents(texts[:1])
    np.testing.assert_allclose(rows_of(documents["encoded"][0]["embeddings"]), rows.numpy(), rtol=1e-6)


def test_what_cannot_be_explained_is_refused(client):
    missing = client.post(f"{BASE}/explain", json={"query": "cats", "id": "cow"})
    assert (missing.status_code, "'cow'" in missing.json()["detail"]) == (422, True)
    neither = client.post(f"{BASE}/explain", json={"query": "cats"})
    assert "the id of a document or a text" in neither.json()["detail"]
    unable = client.post(f"{BASE}/explain", json={"query": "cats", "id": "cat"})
    assert unable.status_code == 501
    assert "no fast tokenizer" in unable.json()["detail"]


def test_every_option_is_described(client):
    schema = client.get("/v1/openapi.json").json()["components"]["schemas"]
    for name in ("SearchRequest", "SearchBatchRequest", "EncodedSearchRequest"):
        described = schema[name]["properties"]
        assert set(SearchOptions.names()) <= set(described)
        for one in fields(SearchOptions):
            assert described[one.name]["description"] == one.metadata["help"]
            assert described[one.name].get("default") == one.default  # None is left out
    assert {"type": "string", "enum": ["auto", "all"]} in schema["SearchRequest"]["properties"]["route_k"]["anyOf"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rout_k": 2}, "did you mean 'route_k'"),
        ({"k": -1}, "k must be a whole number, 0 or more, not -1"),
        ({"k": "many"}, "not 'many'"),
        ({"k": 1001}, "k must be at most 1000 here"),
        ({"filter": {"legs": {"$near": 4}}}, "$near"),
        ({"filter": "legs"}, "'legs'"),
        ({"lane": "fast"}, "lane must be"),
        ({"policy": {"route_k": 0}}, "route_k of a SearchPolicy"),
        ({"policy": 3}, "policy must be"),
        ({"query": 4}, "body/query"),
        ({"query": "half \ud800"}, "the body holds half of a surrogate pair"),
        ({"lane": "\ud800"}, "the body holds half of a surrogate pair"),
        ({"filter": {"legs": [[]] * 200 + [reduce(lambda inner, _: [inner], range(300), [])]}}, "nested too deeply"),
        ({"k": reduce(lambda inner, _: {"k": inner}, range(130), 1)}, "nested too deeply"),
        ({"policy": {"bm25_k1": 10**400}}, "bm25_k1 of a SearchPolicy"),
    ],
    ids=str,
)
def test_a_wrong_request_is_told_what_is_wrong(client, wrong, said):
    body = json.dumps({"query": "cats", **wrong})
    assert body.isascii()  # surrogates are escaped
    found = client.post(f"{BASE}/search", content=body, headers={"Content-Type": "application/json"})
    assert found.status_code == 422
    assert found.headers["content-type"] == "application/problem+json"
    problem = found.json()
    assert said in problem["detail"]
    assert problem["status"] == 422
    assert problem["request_id"] == found.headers["x-request-id"]
