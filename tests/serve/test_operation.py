"""Keys, limits, health, metrics, logs, spans."""

import gzip
import json
import logging
import socket
import threading
import time

import httpx
import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from fastlane_rag.errors import DataError, InvalidInputError
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.keys import holder, read_keys
from fastlane_rag.serve.logs import _Json, _Text
from fastlane_rag.serve.settings import ServeSettings, named_directories

BASE = "/v1/indexes/animals"
NDJSON = {"Content-Type": "application/x-ndjson"}
READER, WRITER = "reader-key-0123456789", "writer-key-0123456789"


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# who may what\nreader read {READER}\n\nloader write {WRITER}\n")
    return read_keys(file)


def test_a_key_does_what_its_scopes_say(client_of, keys):
    client = client_of(keys=keys)
    search, add = (f"{BASE}/search", {"query": "cats"}), (f"{BASE}/documents", {"documents": [{"text": "new"}]})
    assert client.post(search[0], json=search[1], headers=bearer(READER)).status_code == 200
    assert client.post(add[0], json=add[1], headers=bearer(WRITER)).status_code == 200
    refused = client.post(add[0], json=add[1], headers=bearer(READER))
    assert (refused.status_code, refused.json()["detail"]) == (
        403,
        "the key 'reader' may not write; ask with one that may",
    )
    assert client.post(search[0], json=search[1], headers=bearer(WRITER)).status_code == 403
    for headers in ({}, bearer("reader-key-012345678"), bearer(READER + "x"), {"Authorization": f"Basic {READER}"}):
        found = client.post(search[0], json=search[1], headers=headers)
        assert (found.status_code, found.headers["www-authenticate"]) == (401, "Bearer")


def test_every_route_of_data_needs_a_key(client_of, keys):
    """Only what tells nothing of the documents is open."""
    client = client_of(keys=keys)
    for path, methods in client.get("/v1/openapi.json").json()["paths"].items():
        for method in methods:
            found = client.request(method, path.format(index="animals", id="cat"), json={})
            opened = path.startswith("/health/")
            assert (found.status_code == 401) != opened, (method, path, found.status_code)


def test_the_keys_file_is_checked(tmp_path):
    import hashlib

    file = tmp_path / "keys"
    file.write_text(f"app read,write sha256:{hashlib.sha256(READER.encode()).hexdigest()}\n")
    [key] = read_keys(file)
    assert key.scopes == {"read", "write"}
    assert holder([key], READER) == key
    assert holder([key], WRITER) is None
    file.write_text(f"# of Notepad, with a byte-order mark\napp read {READER}\n", encoding="utf-8-sig")
    assert [key.name for key in read_keys(file)] == ["app"]
    for text, said in (
        (f"app read {READER}ü", "line 1: the key of 'app' has other characters than ASCII"),
        ("app read", "line 1: a key is NAME SCOPES KEY"),
        (f"app admin {READER}", "not 'admin'"),
        ("app read short", "shorter than 16"),
        ("# nothing\n", "holds no key"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=said) as caught:
            read_keys(file)
        assert READER not in str(caught.value)
    with pytest.raises(DataError, match="cannot read the keys"):
        read_keys(tmp_path / "none")


def test_long_bodies_are_refused_before_they_are_read(client_of):
    client = client_of(most_body_bytes=1000)
    long = {"query": "x" * 2000}
    declared = client.post(f"{BASE}/search", json=long)
    assert (declared.status_code, declared.json()["title"]) == (413, "Too long")
    chunked = client.post(
        f"{BASE}/search", content=iter([json.dumps(long).encode()]), headers={"Content-Type": "application/json"}
    )
    assert (chunked.status_code, "longer than 1000 bytes" in chunked.json()["detail"]) == (413, True)
    lines = b"".join(b'{"_id": "%d", "text": "many short lines"}\n' % i for i in range(100))
    streamed = client.post(f"{BASE}/documents/ingest", content=lines, headers=NDJSON)
    assert streamed.json()["added"] == 100
    one_line = client.post(f"{BASE}/documents/ingest", content=lines.replace(b"\n", b" "), headers=NDJSON)
    assert (one_line.status_code, one_line.json()["stored"]["documents"]) == (413, 0)
    many = client_of(most_texts=2).post(f"{BASE}/search/batch", json={"queries": ["a", "b", "c"]})
    assert "at most 2 a request, not 3" in many.json()["detail"]


@pytest.fixture
def slow(index, monkeypatch):
    """Searches wait until the event is set."""
    event, search = threading.Event(), type(index).search_batch_detailed

    def waiting(self, *arguments, **options):
        event.wait(10)
        return search(self, *arguments, **options)

    monkeypatch.setattr(type(index), "search_batch_detailed", waiting)
    yield event
    event.set()


def test_a_slow_search_ends_in_a_problem(client_of, slow):
    client = client_of(read_seconds=0.05)
    found = client.post(f"{BASE}/search", json={"query": "cats"})
    assert (found.status_code, found.json()["title"]) == (504, "Too slow")


def test_too_many_waiting_requests_are_refused(client_of, slow):
    client = client_of(threads=1, most_waiting=1)
    answers = []
    asking = [
        threading.Thread(target=lambda: answers.append(client.post(f"{BASE}/search", json={"query": "cats"})))
        for _ in range(2)
    ]
    for one in asking:
        one.start()
    lane = client.app.state.service.workers.read
    while lane._unfinished < 2:
        time.sleep(0.001)
    refused = client.post(f"{BASE}/search", json={"query": "cats"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert client.get("/health/ready").status_code == 200
    slow.set()
    for one in asking:
        one.join()
    assert [one.status_code for one in answers] == [200, 200]
    assert client.post(f"{BASE}/search", json={"query": "cats"}).status_code == 200


def test_searches_that_wait_are_answered_together(client_of, index, slow, monkeypatch):
    """One thread is busy, so others gather; each gets its own answer, and a wrong one fails alone."""
    batches, encode = [], type(index.model).encode_routed

    def counting(self, texts, **options):
        batches.append(sorted(texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(type(index.model), "encode_routed", counting)
    client = client_of(threads=1)
    lane = client.app.state.service.workers.read
    answers = {}

    def ask(query, **options):
        answers[query] = client.post(f"{BASE}/search", json={"query": query, "k": 1, **options})

    asked = [
        ("strangers", {}),
        ("cats", {}),
        ("dogs", {}),
        ("birds", {}),
        ("fish", {"route_k": 1}),
        ("wrong", {"lane": 1}),
    ]
    threads = [threading.Thread(target=ask, args=[query], kwargs=options) for query, options in asked]
    for number, thread in enumerate(threads, 1):
        thread.start()
        while lane._unfinished < number:
            time.sleep(0.001)
    slow.set()
    for thread in threads:
        thread.join()
    assert batches == [["strangers"], ["birds", "cats", "dogs"], ["fish"]]
    assert answers.pop("wrong").status_code == 422
    found = {query: answer.json()["hits"][0]["id"] for query, answer in answers.items()}
    assert found == {"strangers": "dog", "cats": "cat", "dogs": "dog", "birds": "bird", "fish": "fish"}


def test_a_write_does_not_keep_readers_waiting(client_of, index, monkeypatch):
    started, go_on, add = threading.Event(), threading.Event(), type(index).add

    def waiting(self, *arguments, **options):
        started.set()
        go_on.wait(10)
        return add(self, *arguments, **options)

    monkeypatch.setattr(type(index), "add", waiting)
    client = client_of(threads=1)
    answers = []
    body = {"documents": [{"id": "cow", "text": "cows moo"}]}
    writing = threading.Thread(target=lambda: answers.append(client.post(f"{BASE}/documents", json=body)))
    writing.start()
    started.wait(10)
    assert client.post(f"{BASE}/search", json={"query": "cows"}).json()["hits"][0]["id"] != "cow"
    go_on.set()
    writing.join()
    assert answers[0].status_code == 200
    assert client.post(f"{BASE}/search", json={"query": "cows moo"}).json()["hits"][0]["id"] == "cow"


def test_only_told_host_names_are_answered(client_of):
    client = client_of(hosts=("localhost", "127.0.0.1", "[::1]", "Docs.Example"))
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80", "LOCALHOST", "docs.example", "Docs.Example:80"):
        assert client.get("/health/live", headers={"Host": host}).status_code == 200
    refused = client.get("/health/live", headers={"Host": "evil.example:8000"})
    assert (refused.status_code, "--allowed-host evil.example" in refused.json()["detail"]) == (421, True)


def test_bodies_that_are_no_json_are_no_requests(client):
    """A stranger's page can make a browser send text, but not JSON."""
    body = json.dumps({"filter": {}})
    for type_ in ("text/plain", "application/x-www-form-urlencoded", None):
        headers = {} if type_ is None else {"Content-Type": type_}
        refused = client.post(f"{BASE}/documents/delete", content=body, headers=headers)
        assert (refused.status_code, "Content-Type: application/json" in refused.json()["detail"]) == (415, True)
        line = '{"_id": "planted", "text": "by a stranger"}'
        refused = client.post(f"{BASE}/documents/ingest", content=line, headers=headers)
        assert (refused.status_code, "Content-Type: application/x-ndjson" in refused.json()["detail"]) == (415, True)
    assert client.get(f"{BASE}/documents/planted").status_code == 404
    zipped = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    refused = client.post(f"{BASE}/search", content=gzip.compress(b'{"query": "cats"}'), headers=zipped)
    assert (refused.status_code, "'gzip'" in refused.json()["detail"]) == (415, True)


def test_what_can_be_got_has_a_head(running, index, caplog):
    """Those who watch a server ask for no more than the head."""
    caplog.set_level(logging.INFO, logger="fastlane_rag.serve")
    url = running(create_app(ServeSettings(), {"animals": index})).url
    for path in ("/", "/health/live", "/health/ready", "/metrics", f"{BASE}/documents/cat"):
        whole, head = httpx.get(f"{url}{path}"), httpx.head(f"{url}{path}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert httpx.head(f"{url}{BASE}/search").status_code == 405
    assert [one.request["method"] for one in caplog.records if hasattr(one, "request")][:2] == ["GET", "HEAD"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body is not JSON: Expecting property name"),
        (b'{"filter": {"legs": 0}, "filter": {}}', "the body has the key 'filter' twice"),
        (b'{"filter": {"legs": {"$gt": 4, "$gt": -1}}}', "the body has the key '$gt' twice"),
        (b'{"filter": {"legs": {"$lt": Infinity}}}', "the body has Infinity, which is not JSON"),
        (b'{"filter": {"legs": "\xff"}}', "the body is not UTF-8: byte 0xff at 21"),
        ('{"filter": {}}'.encode("utf-16"), "the body is not UTF-8"),
        (b"[" * 100_000, "the body is nested too deeply"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bodies_are_read_strictly(client, index, body, said):
    """As files are: of a key that stands twice nothing says which value was meant."""
    found = client.post(f"{BASE}/documents/delete", content=body, headers={"Content-Type": "application/json"})
    assert (found.status_code, said in found.json()["detail"]) == (422, True)
    assert len(index) == 4


def test_request_ids_are_kept_or_made(client):
    assert client.get("/health/live", headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("has space", "x" * 200, "<script>"):
        made = client.get("/health/live", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert len(made) == 32


def test_unforeseen_errors_tell_only_their_id(client, index, monkeypatch, caplog):
    monkeypatch.setattr(type(index), "find", lambda *_: 1 / 0)
    found = client.get(f"{BASE}/documents", headers={"X-Request-ID": "broken-1"})
    assert (found.status_code, found.json()["request_id"]) == (500, "broken-1")
    assert "division" not in found.text
    assert "request broken-1 failed" in caplog.text


def test_a_client_that_leaves_or_pauses_harms_nobody(running, index, caplog):
    caplog.set_level(logging.INFO, logger="fastlane_rag.serve")
    url = running(create_app(ServeSettings(idle_seconds=0.2), {"animals": index})).url
    port = int(url.rpartition(":")[2])
    head = f"POST {BASE}/documents/ingest HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    head += "Content-Type: application/x-ndjson\r\n\r\n"
    whole = b"".join(b'{"_id": "n%d", "text": "many short lines"}\n' % i for i in range(10))
    with socket.create_connection(("127.0.0.1", port)) as leaving:
        leaving.sendall(head.encode() + whole)
    with socket.create_connection(("127.0.0.1", port)) as pausing:
        pausing.sendall(head.encode() + whole)
        answer = pausing.makefile("rb").read().decode()
    assert answer.startswith("HTTP/1.1 408 ")
    assert '"stored":{"documents":0' in answer
    end = time.monotonic() + 10
    while statuses(caplog) != {499, 408} and time.monotonic() < end:
        time.sleep(0.01)
    assert statuses(caplog) == {499, 408}
    assert [one for one in caplog.records if one.levelno >= logging.ERROR] == []
    assert len(index) == 4


def statuses(caplog):
    return {one.request["status"] for one in caplog.records if hasattr(one, "request")}


def test_what_is_not_there_says_where_to_look(client):
    nothing = client.get("/v2/indexes")
    assert (nothing.status_code, nothing.headers["content-type"]) == (404, "application/problem+json")
    assert client.put("/v1/indexes").status_code == 405
    other = client.post("/v1/indexes/plants/search", json={"query": "cats"})
    assert (other.status_code, other.json()["detail"]) == (404, "no index is called 'plants'; there are: animals")
    only = client.post("/v1/indexes/-/search", json={"query": "cats"})
    assert only.json()["hits"][0]["id"] == "cat"


def test_health_metrics_and_logs(client, caplog):
    caplog.set_level(logging.INFO, logger="fastlane_rag.serve")
    assert client.get("/health/live").text == "alive\n"
    assert client.get("/health/ready").text == "ready\n"
    client.post(f"{BASE}/search", json={"query": "cats"}, headers={"X-Request-ID": "mine-2"})
    client.get(f"{BASE}/documents/cat")
    text = client.get("/metrics").text
    assert 'fastlane_requests_total{method="POST",route="/v1/indexes/{index}/search",status="200"} 1.0' in text
    assert 'route="/v1/indexes/{index}/documents/{id:anything}"' in text
    assert 'fastlane_search_stage_seconds_count{index="animals",stage="encode"} 1.0' in text
    assert 'fastlane_documents{index="animals"} 4.0' in text
    assert "fastlane_requests_in_progress 1.0" in text  # the one that asks
    [record] = [one for one in caplog.records if getattr(one, "request", {}).get("request_id") == "mine-2"]
    line = json.loads(_Json().format(record))
    assert (line["index"], line["status"], line["route"]) == ("animals", 200, "/v1/indexes/{index}/search")
    assert line["stages"]["gather"] > 0
    assert "request_id=mine-2" in _Text().format(record)


def test_log_lines_stay_lines():
    record = logging.LogRecord("x", logging.INFO, "", 0, "two\nlines \x1b[31m", (), None)
    assert "\n" not in _Json().format(record)
    assert "\x1b" not in _Json().format(record) + _Text().format(record)


def test_spans_have_the_stages(client):
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.post(f"{BASE}/search", json={"query": "cats"}, headers={"traceparent": parent})
    spans = {one.name: one for one in exporter.get_finished_spans()}
    search, span = spans["fastlane.search"], spans["fastlane.answer"]
    assert search.parent.span_id == span.context.span_id
    assert f"{span.context.trace_id:032x}" in parent
    assert span.attributes["fastlane.index"] == "animals"
    assert span.attributes["fastlane.refine_ms"] >= 0


def test_an_application_opens_and_closes_its_indexes(model, tmp_path):
    from fastlane_rag import FastLaneIndex

    with FastLaneIndex.create(tmp_path / "a", model=model) as index:
        index.add(["Cats purr."], ["cat"])
    app = create_app(ServeSettings(indexes={"a": tmp_path / "a"}))
    with TestClient(app) as client:
        assert client.post("/v1/indexes/a/search", json={"query": "cat"}).json()["hits"][0]["id"] == "cat"
        opened = app.state.service.indexes["a"]
    assert "closed" in repr(opened)


def test_names_of_directories(tmp_path):
    (tmp_path / "x=y").mkdir()
    found = named_directories([str(tmp_path / "docs"), f"other={tmp_path / 'docs'}", str(tmp_path / "x=y")])
    assert found == {"docs": tmp_path / "docs", "other": tmp_path / "docs", "x=y": tmp_path / "x=y"}
    with pytest.raises(InvalidInputError, match="both called 'docs'"):
        named_directories(["a/docs", "b/docs"])
    with pytest.raises(InvalidInputError, match="NAME=DIR"):
        named_directories(["a/b=docs"])
