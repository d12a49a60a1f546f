"""An index on a server is used as one in this process."""

import asyncio
import base64
import inspect
import json
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch

from fastlane_rag import FastLaneIndex, RemoteIndex
from fastlane_rag.errors import (
    FastLaneError,
    FastLaneWarning,
    FilterError,
    IndexNotFoundError,
    IndexReadOnlyError,
    InvalidInputError,
    RemoteError,
    UnknownOptionError,
)
from fastlane_rag.index.outside import PlainQuery
from fastlane_rag.search.result import Hit
from fastlane_rag.serve.app import create_app
from fastlane_rag.serve.keys import read_keys
from fastlane_rag.serve.settings import ServeSettings
from fastlane_rag.storage.filters import all_of
from fastlane_rag.types import Document

METADATA = {
    "text": "a\0b ﷐ \N{SNOWMAN} </script>",
    "numbers": [1, 1.0, -0.0, 2**70, 0.1],
    "flags": {"yes": True, "none": None},
    "title": "kept",
    "_id": "kept",
}


def test_the_face_is_that_of_an_index():
    """Every method that both have takes the same arguments."""
    for name, method in vars(RemoteIndex).items():
        twin = getattr(FastLaneIndex, name, None)
        if inspect.isfunction(method) and not name.startswith("_") and twin is not None and name != "close":
            assert [*inspect.signature(method).parameters] == [*inspect.signature(twin).parameters], name
    missing = {name for name in vars(FastLaneIndex) if not name.startswith("_")} - set(dir(RemoteIndex))
    of_server = {"create", "build", "open", "open_or_create", "path", "policy"}
    of_shards = {"adopt", "embeddings", "word_statistics", "document_model", "search_part"}
    of_candidates = {"commit", "document_vectors", "query_vectors"}
    assert missing == of_server | of_shards | of_candidates


def test_what_is_stored_comes_back(remote, index):
    ids = remote.add(["odd \0 text", "second"], ["odd", None], [METADATA, None])
    assert remote.get(["odd"]) == [Document("odd", "odd \0 text", METADATA)] == index.get(["odd"])
    assert json.dumps(remote.get(["odd"])[0].metadata) == json.dumps(index.get(["odd"])[0].metadata)
    assert ids[0] == "odd"
    assert len(ids[1]) == 32
    assert (len(remote), "odd" in remote, "none" in remote, 3 in remote) == (6, True, False, False)
    assert list(remote) == index.ids() == remote.ids()
    assert remote.add([]) == []
    assert remote.update_metadata(["odd", "odd"], [{"n": 2}, {"n": 1}]) == 1
    assert remote.get(["odd"])[0].metadata == {"n": 1}
    assert remote.delete(["odd", "none"]) == 1
    assert remote.delete(filter={"legs": 4}) == 2
    assert remote.ids({"legs": {"$lt": 4}}) == ["bird", "fish"]
    assert bool(remote)


def test_a_stream_is_stored_in_requests(remote, index):
    documents = [Document(f"n{i}", f"word{i}", METADATA | {"i": i}) for i in range(300)]
    assert remote.ingest(iter(documents)) == replace(remote.ingest(documents), added=300, unchanged=0)
    assert index.get(["n7"]) == [documents[7]]
    assert remote.ingest([Document("", "no id")]).added == 1
    assert index.get([""]) == remote.get([""]) == [Document("", "no id")]
    with pytest.raises(InvalidInputError, match="document 2 of the stream"):
        remote.ingest([documents[0], "text"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"k": 2},
        {"filter": {"legs": 4}},
        {"route_k": "auto"},
        {"hybrid": True},
        {"hybrid": 0.4, "fusion": "rrf"},
        {"route_k": 1, "refine": False},
        {"weighted": False, "score_threshold": 0.6},
        {"lane": "words"},
    ],
    ids=str,
)
def test_searches_find_the_same(remote, index, options):
    queries = ["cats sing", "fish"]
    assert remote.search_batch(queries, **options) == index.search_batch(queries, **options)
    assert remote.search("cats sing", **options) == index.search("cats sing", **options)
    for here, there in zip(
        index.search_batch_detailed(queries, **options), remote.search_batch_detailed(queries, **options), strict=True
    ):
        assert replace(there, routed=here.routed) == here
        assert [hit.relevance for hit in there.hits] == [hit.relevance for hit in here.hits]
        np.testing.assert_array_equal(there.routed.embeddings, here.routed.embeddings)
        assert there.routed.tokens == here.routed.tokens
        assert there.milliseconds["encode"] > 0 or options == {"lane": "words"}
    encoded = remote.model.encode_routed(queries)
    for here, there in zip(
        index.search_batch_detailed(encoded, texts=queries, **options),
        remote.search_batch_detailed(encoded, texts=queries, **options),
        strict=True,
    ):
        assert there.hits == here.hits
    policy = replace(index.policy, route_k=1, candidates_least=1)
    assert remote.search("cats sing", policy=policy) == index.search("cats sing", policy=policy)


def test_why_a_filter_matches_nothing_is_told(remote):
    with pytest.warns(FastLaneWarning, match="legs") as told:
        result = remote.search_detailed("cats", filter={"legs": "4"})
    assert result.hits == []
    assert "legs" in result.hint
    assert __file__ in [one.filename for one in told]  # the server, in this process, warns too


def test_documents_come_in_pages(remote, index, monkeypatch):
    monkeypatch.setattr("fastlane_rag.remote.index.MOST_LISTED", 2)
    remote.add(["cows moo"], ["cow"], [{"legs": 4}])
    for asked in ((), (None, 3), (None, 3, 1), (None, 0), (None, None, 9), ({"legs": 4},), ({"legs": 4}, 1, 1)):
        assert remote.find(*asked) == index.find(*asked) == asyncio.run(remote.afind(*asked))
    with pytest.raises(InvalidInputError, match="limit"):
        remote.find(limit=-1)


def test_dates_in_filters_are_instants(remote, index):
    day = date(2024, 5, 1)
    remote.add(["early", "late"], ["early", "late"], [{"day": "2024-05-01T00:00:00Z"}, {"day": "2024-06-01"}])
    for condition in (day, {"$in": [day, 3]}, {"$gte": np.datetime64("2024-05-02")}, {"$not": {"$gt": day}}):
        assert remote.ids({"day": condition}) == index.ids({"day": condition})
    assert remote.ids({"day": day}) == ["early"]
    assert remote.delete(filter={"$or": [{"day": {"$between": [day, day]}}]}) == 1
    # JSON would make null of NaN, and then the documents with a null went.
    remote.update_metadata(["late"], [{"day": None}])
    for wrong in (object(), float("nan"), {"$ne": float("inf")}, {"$between": {1, 2}}, "\ud800", iter([1])):
        with pytest.raises(FilterError) as told:
            remote.delete(filter={"day": wrong})
        with pytest.raises(FilterError) as here:
            index.delete(filter={"day": wrong})
        assert str(told.value) == str(here.value)
    with pytest.raises(FilterError, match="key must be str"):
        remote.ids({1: 1})
    assert "late" in remote


def test_embeddings_made_elsewhere(running):
    with FastLaneIndex.create(dim=4, model="elsewhere") as index:
        remote = RemoteIndex(running(create_app(ServeSettings(), {"rows": index})).url)
        rows = np.eye(4)
        assert remote.add_embeddings([rows[:2], rows[2:3]], ["a", "b"], ["red apples", "blue"]) == ["a", "b"]
        query = [[0, 0, 0.8, 0.6]]
        assert remote.search_embeddings(query, 1) == index.search_embeddings(query, 1)
        both = {"text": "apples", "hybrid": True}
        assert remote.search_embeddings(query, **both) == index.search_embeddings(query, **both)
        assert asyncio.run(remote.asearch_embeddings(query, 1))[0].id == "b"
        for wrong, said in (
            (lambda: remote.search_embeddings([[1.0]]), "shape"),
            (lambda: remote.add_embeddings([rows], ["a"], ["x", "y"]), "2 texts"),
            (lambda: remote.search_embeddings(query, route_k=1), "no router"),
            (lambda: remote.search("red"), "encodes elsewhere"),
        ):
            with pytest.raises(InvalidInputError, match=said):
                wrong()


def test_upkeep_is_waited_for(remote, index):
    remote.optimize()
    assert remote.stats().upkeep == index.stats().upkeep == "done"


def test_a_search_loads_no_torch(remote):
    """What a search took is told without the query's embeddings; they come when they are asked for."""
    code = (
        "import sys; from fastlane_rag import RemoteIndex; "
        f"index = RemoteIndex({remote.url.partition('/v1')[0]!r}); "
        "[result] = index.search_batch_detailed(['cats purr']); "
        "assert result.routed.tokens == ['cats', 'purr'], result; assert 'torch' not in sys.modules; "
        "assert result.routed.embeddings.shape == (2, 16); assert result.routed.select('auto').numel()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_asynchronous_methods_are_the_same(remote, index):
    async def ask():
        async with remote:
            await remote.aadd(["cows moo"], ["cow"])
            hits = await asyncio.gather(*(remote.asearch(text) for text in ("cows", "dogs bark", "cats")))
            result = await remote.asearch_detailed("cows")
            found = await remote.aget(["cow", "dog"]), await remote.aids({"legs": 2}), await remote.adelete(["cow"])
            return hits, result.hits, found

    for _ in range(2):  # each with an event loop of its own
        hits, detailed, (documents, ids, deleted) = asyncio.run(ask())
        assert [one[0].id for one in hits] == ["cow", "dog", "cat"]
        assert detailed == hits[0]
        assert ([one.id for one in documents], ids, deleted) == (["cow", "dog"], ["bird"], 1)
    assert hits[1] == index.search("dogs bark") or hits[1][0].id == "dog"


def test_hits_explain_themselves(running, model, passages):
    with FastLaneIndex.create(model=model) as index:
        index.add([one["text"] for one in passages[:5]], [one["id"] for one in passages[:5]])
        remote = RemoteIndex(running(create_app(ServeSettings(), {"peps": index})).url)
        query = "What is a decorator?"
        here, there = index.search(query, 1, route_k=3)[0], remote.search(query, 1, route_k=3)[0]
        assert there.explain().spans == here.explain().spans
        assert there.explain().tokens == here.explain().tokens
        assert remote.explain(query, here.id) == index.explain(query, here.id)
        assert (remote.model.name, remote.dim) == (model.name, model.dim)
        for wrong in ("text", None, [5]):
            with pytest.raises(InvalidInputError) as there:
                remote.model.encode_queries(wrong)
            with pytest.raises(InvalidInputError) as here:
                model.encode_queries(wrong)
            assert str(there.value) == str(here.value)
        with pytest.raises(InvalidInputError, match="batch_size must be"):
            remote.model.encode_routed(["text"], batch_size=0)
        (rows,) = remote.model.encode_documents([passages[0]["text"]])
        np.testing.assert_array_equal(rows, model.encode_documents([passages[0]["text"]])[0])


URL = "http://localhost:8000"
NO_ADDRESSES = (
    "localhost:8000",
    "",
    "ftp://x",
    "http://[",
    "http://a b",
    "http://x:99999999",
    "http://\udcff",
    "http://x\n",
    "http://x/?a=b",
)


def test_errors_are_those_of_an_index(remote, tmp_path):
    for wrong, kind, said in (
        (lambda: remote.search("cats", rout_k=1), UnknownOptionError, "route_k"),
        (lambda: remote.search("cats", k=-1), InvalidInputError, "k must be"),
        (lambda: remote.search("cats", filter={"legs": {"$near": 1}}), FilterError, "near"),
        (lambda: remote.search("cats", filter=lambda metadata: True), InvalidInputError, "cannot be sent"),
        (lambda: remote.search("cats", filter=all_of({}, lambda _: True)), InvalidInputError, "cannot be sent"),
        (lambda: remote.search(3), InvalidInputError, "queries"),
        (lambda: remote.search_batch("cats"), InvalidInputError, "must be a list"),
        (lambda: remote.add(["a", "b"], ["x"]), InvalidInputError, "2 texts but 1 ids"),
        (lambda: remote.add(["a"], metadatas=[{"x": object()}]), InvalidInputError, "metadatas"),
        (lambda: remote.add_embeddings(None, None), InvalidInputError, "rows must be a list"),
        (lambda: remote.delete(), InvalidInputError, "ids or a filter"),
        (lambda: remote.get("cat"), InvalidInputError, "must be a list"),
        (lambda: remote.explain("cats", "cow"), InvalidInputError, "'cow'"),
        (lambda: remote.save(tmp_path), FastLaneError, "kept by its server"),
        (lambda: RemoteIndex(remote.url.partition("/v1")[0], name="plants").search("x"), IndexNotFoundError, "animals"),
        *((partial(RemoteIndex, wrong), InvalidInputError, "no address") for wrong in NO_ADDRESSES),
        (lambda: RemoteIndex(None), InvalidInputError, "url must be the address"),
        (lambda: RemoteIndex(URL, timeout="x"), InvalidInputError, "timeout must be a number of seconds"),
        (lambda: RemoteIndex(URL, write_timeout=-1), InvalidInputError, "write_timeout must be a number of seconds"),
        (lambda: RemoteIndex(URL, retries=-1), InvalidInputError, "retries must be a whole number"),
        (lambda: RemoteIndex(URL, name=5), InvalidInputError, "name must be"),
        (lambda: RemoteIndex(URL, name="\ud800"), InvalidInputError, "name must be"),
        *(
            (
                partial(RemoteIndex, URL, key),
                InvalidInputError,
                "API key must be a text .* in one line, without spaces$",
            )
            for key in ("a\nb", "secret ", " secret", "schlüssel", 5)
        ),
        (
            lambda: RemoteIndex("http://127.0.0.1:9", retries=0).search("x"),
            RemoteError,
            "cannot reach http://127.0.0.1:9",
        ),
    ):
        with pytest.raises(kind, match=said):
            wrong()
    assert remote.search("cats", filter=all_of({"legs": 4}, {"legs": {"$gt": 1}}))[0].id == "cat"


SAME = {
    "texts-lengths": lambda index: index.search_batch_detailed(["cats"], texts=["a", "b"]),
    "texts-kind": lambda index: index.search_embeddings(np.eye(16)[:1], text=5),
    "texts-kind-of-words": lambda index: index.search_batch_detailed(["cats"], texts=[None], lane="words"),
    "texts-missing": lambda index: index.search_embeddings(np.eye(16)[:1], hybrid=True),
    "no-tokens": lambda index: index.search_batch_detailed([PlainQuery(torch.zeros(0, 16), [])]),
    "no-matrix": lambda index: index.search_batch_detailed([PlainQuery(torch.ones(16), ["a"])]),
    "explain-query": lambda index: index.explain(None, "cat"),
    "explain-hit": lambda index: index.explain("cats", 5),
    "explain-text": lambda index: index.explain("cats", Hit("cat", 1.0, "\ud800")),
    "explain-metadata": lambda index: index.explain("cats", Document("cat", "cats", None)),
    "explain-surrogate": lambda index: index.explain("cats", "\ud800"),
    "explain-route": lambda index: index.explain("cats", "cat", route_k=0),
    "explain-route-kind": lambda index: index.explain("cats", "cat", route_k=1.5),
    "explain-flag": lambda index: index.explain("cats", "cat", weighted="yes"),
    "compact": lambda index: index.compact(retrain="yes"),
    "metadata-kind": lambda index: index.update_metadata(["cat"], ["x"]),
    "metadata-value": lambda index: index.update_metadata(["cat"], [{"x": float("nan")}]),
    "save": lambda index: index.save(5),
    "metadata-lengths": lambda index: index.update_metadata(["cat"], ["x", "y"]),
}


@pytest.mark.parametrize("wrong", SAME.values(), ids=SAME)
def test_what_is_wrong_is_told_in_the_same_words(remote, index, wrong):
    with pytest.raises(InvalidInputError) as here:
        wrong(index)
    with pytest.raises(InvalidInputError) as there:
        wrong(remote)
    assert str(there.value) == str(here.value)


@pytest.mark.parametrize("options", [{"lane": "words"}, {"hybrid": True}, {}], ids=str)
def test_queries_may_bring_other_words_to_search_by(remote, index, options):
    for queries, texts in ((["cats purr"], ["fish"]), (["cats", "dogs"], ["silence", "morning"])):
        here = index.search_batch_detailed(queries, texts=texts, **options)
        there = remote.search_batch_detailed(queries, texts=texts, **options)
        assert [one.hits for one in there] == [one.hits for one in here]


def test_keys_are_sent_and_never_shown(running, index, tmp_path, monkeypatch):
    file = tmp_path / "keys"
    file.write_text("app read reader-key-0123456789\n")
    url = running(create_app(ServeSettings(keys=read_keys(file)), {"animals": index})).url
    remote = RemoteIndex(url, "reader-key-0123456789")
    assert remote.search("cats", 1)[0].id == "cat"
    assert "reader-key" not in repr(remote) + str(remote.model)
    with pytest.raises(RemoteError, match=r"403, Not allowed: the key 'app' may not write"):
        remote.add(["new"])
    with pytest.raises(RemoteError, match="401, Not authorised: an API key is needed"):
        RemoteIndex(url).search("cats")
    monkeypatch.setenv("FASTLANE_API_KEY", "reader-key-0123456789")
    assert len(RemoteIndex(url)) == 4


def test_a_password_in_the_address_is_sent_and_never_shown(running, index):
    app, seen = create_app(ServeSettings(), {"animals": index}), []

    async def watched(scope, receive, send):
        seen.extend(value.decode() for name, value in scope.get("headers", ()) if name == b"authorization")
        await app(scope, receive, send)

    url = running(watched).url.replace("://", "://some%40one:pass%2Fword@")
    with RemoteIndex(url) as remote:
        assert len(remote) == 4
        assert pickle.loads(pickle.dumps(remote)).search("cats", 1)[0].id == "cat"
        assert {*seen} == {"Basic " + base64.b64encode(b"some@one:pass/word").decode()}
        assert "pass" not in repr(remote) + str(remote.model) + remote.url
    with pytest.raises(RemoteError, match="cannot reach") as told:
        len(RemoteIndex("http://one:pass@localhost:9", retries=0))
    assert "pass" not in str(told.value)
    for wrong in ("ftp://one:pass@localhost", "http://one:pass@localhost/?a=b", "http://one:pass@"):
        with pytest.raises(InvalidInputError, match="no address of a server") as told:
            RemoteIndex(wrong)
        assert "pass" not in str(told.value)
    with pytest.raises(InvalidInputError, match="give one of both") as told:
        RemoteIndex(url, "reader-key-0123456789")
    assert "pass" not in str(told.value)


def test_a_read_only_server_says_so(running, index):
    with FastLaneIndex.open(index.path, model=index.model, read_only=True) as reading:
        remote = RemoteIndex(running(create_app(ServeSettings(), {"animals": reading})).url)
        assert remote.read_only
        with pytest.raises(IndexReadOnlyError):
            remote.add(["new"])


def test_copies_and_threads_share_nothing_they_must_not(remote):
    again = pickle.loads(pickle.dumps(remote))
    assert again.search("cats", 1) == remote.search("cats", 1)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: remote.search("dogs bark", 1)[0].id, range(40)))
    assert found == ["dog"] * 40
    remote.close()
    assert remote.search("cats", 1)[0].id == "cat"


@pytest.fixture
def flaky():
    """A server that answers what it is told, one after the other; None hangs up."""
    answers, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer = answers.pop(0)
            if answer is None:
                self.connection.close()
                return
            status, body, headers = answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield answers, asked, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


DONE = (200, b'{"ids": ["cat"]}', {})
BUSY = (503, b'{"title": "Busy", "status": 503, "detail": "later"}', {"Retry-After": "0"})


def test_what_was_refused_is_repeated_with_the_same_ids(flaky):
    answers, asked, url = flaky
    answers += [BUSY, None, (502, b"", {}), DONE]
    assert len(RemoteIndex(url, retries=3).add(["cats purr"])) == 1
    assert len(asked) == 4
    assert len(set(asked)) == 1


def test_what_cannot_become_better_is_not_repeated(flaky):
    answers, asked, url = flaky
    answers += [BUSY, BUSY]
    with pytest.raises(RemoteError, match="503, Busy: later"):
        RemoteIndex(url, retries=1).add(["cats"], ["cat"])
    for wrong in ((500, b"<html>", {}), (400, b"{}", {}), (504, b'{"title": "T", "status": 504, "detail": "d"}', {})):
        asked.clear()
        answers.append(wrong)
        with pytest.raises(RemoteError, match=str(wrong[0])):
            RemoteIndex(url).add(["cats"], ["cat"])
        assert len(asked) == 1
    answers.append((200, b'{"found": []}', {}))
    with pytest.raises(RemoteError, match="is not what a FastLane server answers"):
        RemoteIndex(url).add(["cats"], ["cat"])


def test_a_server_that_hangs_is_named(running, index, monkeypatch):
    event = threading.Event()
    monkeypatch.setattr(type(index), "ids", lambda *_: event.wait(5) and [])
    url = running(create_app(ServeSettings(), {"animals": index})).url
    with pytest.raises(RemoteError, match="did not answer in time"):
        RemoteIndex(url, timeout=0.05).ids()
    event.set()
