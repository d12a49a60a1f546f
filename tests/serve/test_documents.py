"""Storing and fetching documents over HTTP."""

import json
import re

import pytest

from fastlane_rag import FastLaneIndex

BASE = "/v1/indexes/animals/documents"
NDJSON = {"Content-Type": "application/x-ndjson"}


def line(id_, text, **more):
    return json.dumps({"_id": id_, "text": text, **more}) + "\n"


def test_documents_are_stored_replaced_fetched_and_deleted(client, index):
    new = [{"id": "cow", "text": "cows moo", "metadata": {"legs": 4, "tags": ["big", None]}}, {"text": "bees hum"}]
    ids = client.post(BASE, json={"documents": new}).json()["ids"]
    assert ids[0] == "cow"
    assert len(ids[1]) == 32
    cow = {"id": "cow", "text": "cows moo", "metadata": {"legs": 4, "tags": ["big", None]}}
    assert client.get(f"{BASE}/cow").json() == cow
    client.post(BASE, json={"documents": [{"id": "cow", "text": "cows chew"}]})
    assert client.get(f"{BASE}/cow").json() == {"id": "cow", "text": "cows chew", "metadata": {}}
    got = client.post(f"{BASE}/get", json={"ids": ["dog", "none", "cow"]}).json()
    assert [one["id"] for one in got["documents"]] == ["dog", "cow"]
    assert client.delete(f"{BASE}/cow").json() == {"deleted": 1}
    assert client.delete(f"{BASE}/cow").json() == {"deleted": 0}
    missing = client.get(f"{BASE}/cow")
    assert (missing.status_code, missing.json()["title"]) == (404, "No such document")
    assert len(index) == 5


def test_ids_may_hold_anything(client):
    from urllib.parse import quote

    for id_ in ("a/b/c", "über?#", "../x", "ingest", "100% sure", "", "cat\n", "two\nlines", "\n"):
        client.post(BASE, json={"documents": [{"id": id_, "text": "odd"}]})
        assert client.get(f"{BASE}/{quote(id_, safe='')}").json()["id"] == id_
        assert client.delete(f"{BASE}/{quote(id_, safe='')}").json() == {"deleted": 1}
    assert client.get(f"{BASE}/cat").json()["id"] == "cat"


def test_a_list_has_pages_and_filters(client):
    page = client.get(BASE, params={"limit": 2, "offset": 1}).json()
    assert ([one["id"] for one in page["documents"]], page["total"]) == (["dog", "bird"], 4)
    four = client.get(BASE, params={"filter": '{"legs": 4}'}).json()
    assert ([one["id"] for one in four["documents"]], four["total"]) == (["cat", "dog"], 2)
    assert client.get(BASE, params={"limit": 0}).json() == {"documents": [], "total": 4}
    for wrong, said in (
        ("legs", "'legs' is not JSON"),
        ('{"legs": {"$gt": 4}, "legs": 4}', "has the key 'legs' twice"),
        ("[" * 20_000, "is nested too deeply"),
        ('{"legs": ' + "[" * 500 + "]" * 500 + "}", "is nested too deeply"),
    ):
        refused = client.get(BASE, params={"filter": wrong})
        assert (refused.status_code, said in refused.json()["detail"]) == (422, True)
    assert "limit" in client.get(BASE, params={"limit": 1001}).json()["detail"]
    assert client.post(f"{BASE}/ids", json={"filter": {"legs": {"$lt": 3}}}).json() == {"ids": ["bird", "fish"]}


def test_what_an_address_asks_besides_is_refused(client, index):
    """A misspelt filter listed everything, and options behind the address of a search counted for nothing."""
    for method, path, said in (
        ("GET", f"{BASE}?fitler=%7B%22legs%22:4%7D", "'fitler'.*did you mean 'filter'"),
        ("POST", f"{BASE}/delete?dry_run=true", "'dry_run'.*it takes none"),
        ("POST", "/v1/indexes/animals/search?k=1", "'k'.*it takes none"),
        ("GET", f"{BASE}?limit=1&limit=2", "'limit' twice"),
    ):
        answer = client.request(method, path, json=None if method == "GET" else {"filter": {}, "query": "cats"})
        assert answer.status_code == 422
        assert re.search(said, answer.json()["detail"])
    assert len(index) == 4


def test_deleting_needs_ids_or_a_filter(client, index):
    refused = client.post(f"{BASE}/delete", json={})
    assert (refused.status_code, len(index)) == (422, 4)
    both = {"ids": ["cat", "bird"], "filter": {"legs": 4}}
    assert client.post(f"{BASE}/delete", json=both).json() == {"deleted": 1}
    assert client.post(f"{BASE}/delete", json={"filter": {}}).json() == {"deleted": 3}
    assert len(index) == 0


def test_what_compacting_is_told_is_checked(client):
    assert client.post("/v1/indexes/animals/compact", json={"retrian": True}).status_code == 422


def test_metadata_change_without_encoding(client, index):
    encoded = index.model.encoded
    asked = {"ids": ["cat", "none"], "metadatas": [{"legs": 3}, {}]}
    assert client.post(f"{BASE}/metadata", json=asked).json() == {"updated": 1}
    assert index.get(["cat"])[0].metadata == {"legs": 3}
    assert index.model.encoded == encoded


def test_nothing_of_a_wrong_request_is_stored(client, index):
    for documents in (
        [{"id": "new", "text": "fine"}, {"id": "bad", "text": 3}],
        [{"id": "new", "text": "fine"}, {"id": "bad", "text": "half \ud800"}],
        [{"id": "new", "text": "fine", "tags": []}],
    ):
        body = json.dumps({"documents": documents})
        found = client.post(BASE, content=body, headers={"Content-Type": "application/json"})
        assert found.status_code == 422
    assert index.ids() == ["cat", "dog", "bird", "fish"]


def test_a_stream_is_stored_in_parts_however_it_is_cut(client, index):
    lines = [line(f"n{i}", f"word{i} and word{i + 1}", title="T" if i % 2 else "", size=i) for i in range(600)]
    whole = "".join(lines).encode() + b"\n  \n" + line("last", "no newline").rstrip().encode()

    def pieces():
        for start in range(0, len(whole), 1000):
            yield whole[start : start + 1000]

    done = client.post(f"{BASE}/ingest", content=pieces(), headers=NDJSON)
    assert done.json() == {"documents": 601, "added": 601, "changed": 0, "unchanged": 0}
    assert len(index) == 605
    [stored] = index.get(["n1"])
    assert (stored.text, stored.metadata) == ("T\nword1 and word2", {"title": "T", "size": 1})
    again = client.post(f"{BASE}/ingest", content=whole + line("n0", "other").encode(), headers=NDJSON)
    assert again.status_code == 422  # two objects on one line
    again = client.post(f"{BASE}/ingest", content=whole, headers=NDJSON).json()
    assert again == {"documents": 601, "added": 0, "changed": 0, "unchanged": 601}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{broken", "not JSON"),
        ('["a list"]', "must be a JSON object"),
        ('{"text": "x"}', "no '_id'"),
        ('{"_id": "x"}', "no 'text'"),
        ('{"_id": "x", "text": "\\ud800"}', "surrogate"),
        ('{"_id": "x", "text": "t", "n": NaN}', "has NaN, which is not JSON"),
        ("\xff", "not JSON"),
    ],
    ids=str,
)
def test_a_bad_line_is_named_and_what_came_before_stays(client, index, bad, said):
    lines = [line(f"n{i}", "text") for i in range(300)]
    lines[280] = bad + "\n"
    found = client.post(f"{BASE}/ingest", content="".join(lines).encode(), headers=NDJSON)
    problem = found.json()
    assert found.status_code == 422
    assert "line 281" in problem["detail"]
    assert said in problem["detail"]
    assert problem["stored"] == {"documents": 256, "added": 256, "changed": 0, "unchanged": 0}
    assert len(index) == 4 + 256


def test_writes_are_refused_where_the_index_is_read_only(index, client_of):
    with FastLaneIndex.open(index.path, model=index.model, read_only=True) as reading:
        from fastapi.testclient import TestClient

        from fastlane_rag.serve.app import create_app
        from fastlane_rag.serve.settings import ServeSettings

        with TestClient(create_app(ServeSettings(), {"animals": reading})) as client:
            found = client.post(BASE, json={"documents": [{"text": "new"}]})
            assert found.status_code == 403
            assert found.json()["type"].endswith("IndexReadOnlyError")
            assert client.get("/v1/indexes/animals").json()["read_only"] is True


def test_a_write_that_waits_too_long_can_be_asked_again(index):
    """Another process holds the writer's lock; readers go on."""
    from fastapi.testclient import TestClient

    from fastlane_rag.serve.app import create_app
    from fastlane_rag.serve.settings import ServeSettings

    with (
        FastLaneIndex.open(index.path, model=index.model, timeout=0) as other,
        TestClient(create_app(ServeSettings(), {"animals": other})) as client,
    ):
        with index._storage.turn():
            found = client.post(BASE, json={"documents": [{"text": "new"}]})
            assert client.get(f"{BASE}/cat").status_code == 200
        assert (found.status_code, found.headers["retry-after"]) == (503, "1")
        assert "is being written by process" in found.json()["detail"]
        assert client.post(BASE, json={"documents": [{"text": "new"}]}).status_code == 200


def test_what_an_index_holds_and_whether_it_is_sound(client, index):
    found = client.get("/v1/indexes/animals").json()
    assert found["stats"]["documents"] == 4
    assert found["stats"]["path"] is None
    assert found["model"] == {"name": "words", "dim": 16, "fingerprint": "words-1", "takes_images": False}
    assert client.get("/v1/indexes").json() == {"indexes": ["animals"]}
    assert client.post("/v1/indexes/animals/verify").json() == {"problems": []}
    assert client.post("/v1/indexes/animals/compact", json={}).status_code == 204
    assert client.get("/v1/indexes/animals").json()["stats"]["segments"] == 1
    for file in index.path.glob("*.seg*"):
        file.write_bytes(file.read_bytes()[:-8] + b"\0" * 8)
