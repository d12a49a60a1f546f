"""The face of an index on a cluster: writes, reads, copies, adapters."""

import pickle
import sys
import threading
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "index"))

from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import (
    FastLaneError,
    FilterError,
    IndexExistsError,
    IndexNotFoundError,
    InvalidInputError,
    StorageError,
)
from fastlane_rag.storage.filters import all_of
from fastlane_rag.types import Document

pytestmark = pytest.mark.slow

TEXTS = {f"doc-{n}": f"animal number{n} sings song{n % 7} in the morning{n % 3}" for n in range(40)}


@pytest.fixture
def cluster(nodes, tmp_path):
    """Forty documents over two shards."""
    from fastlane_rag.cluster import ClusterIndex

    with ClusterIndex.create(tmp_path / "animals", 2, cpus=0.1, model=WordModel(), codec="fp16") as index:
        index.add(list(TEXTS.values()), list(TEXTS), [{"n": n} for n in range(40)])
        yield index
        index.stop()


def test_an_image_is_no_text(cluster):
    """It was encoded as its text, which is empty, without a word."""
    with pytest.raises(InvalidInputError, match="takes no images"):
        cluster.add([""], ["page"], [{"fastlane_image": "page.png"}])
    with pytest.raises(InvalidInputError, match="takes no images"):
        cluster.add_images(["page.png"], ["page"])
    assert "page" not in cluster


def test_writes_and_reads_are_those_of_an_index(cluster):
    with FastLaneIndex.create(model=WordModel(), codec="fp16") as one:
        one.add(list(TEXTS.values()), list(TEXTS), [{"n": n} for n in range(40)])
        for index in (one, cluster):
            assert len(index) == 40
            assert "doc-3" in index
            assert "doc-99" not in index
            assert index.add(["new text here", "another"], ["doc-3", None], [{"n": -1}, None])[0] == "doc-3"
            assert index.delete(["doc-4", "doc-5", "absent"]) == 2
            assert index.delete(filter={"n": {"$gte": 38}}) == 2
            assert index.update_metadata(["doc-7", "absent"], [{"n": 7, "seen": True}, None]) == 1
            assert len(index) == 37
            index.optimize()
            index.compact()
        assert cluster.get(["doc-7", "doc-4", "doc-3"]) == one.get(["doc-7", "doc-4", "doc-3"])
        named = {id_ for id_ in one.ids() if id_.startswith("doc")}
        assert set(cluster.ids()) >= named
        assert set(cluster.ids({"seen": True})) == {"doc-7"}
        assert {d.id for d in cluster.find({"n": {"$lt": 9}})} == {d.id for d in one.find({"n": {"$lt": 9}})}
        pages = [cluster.find(limit=10, offset=first) for first in range(0, 40, 10)]
        assert [d.id for page in pages for d in page] == cluster.ids()
        ours, theirs = cluster.stats(), one.stats()
        assert (ours.documents, ours.tokens, ours.dim) == (theirs.documents, theirs.tokens, theirs.dim)
        assert ours.path == cluster.path
    assert cluster.verify() == []


def test_what_is_stored_is_not_encoded_again(cluster):
    done = cluster.ingest(Document(id_, text, {"n": n}) for n, (id_, text) in enumerate(TEXTS.items()))
    assert (done.documents, done.unchanged) == (40, 40)
    done = cluster.ingest([Document("doc-1", "changed text", {}), Document("doc-new", "new", {})])
    assert (done.added, done.changed) == (1, 1)


def deleted(cluster, filter):
    return cluster.delete(filter=filter)


def searched(cluster, filter):
    return cluster.search("cats", filter=filter)


def test_wrong_arguments_are_told_as_by_an_index(cluster):
    with pytest.raises(InvalidInputError, match="k must be"):
        cluster.search("a", k=-1)
    with pytest.raises(FastLaneError, match="nope"):
        cluster.search("a", filter={"n": {"$nope": 1}})
    with pytest.warns(UserWarning, match="nothing matches"):
        assert cluster.search("a", filter={"wrong": 1}) == []
    for wrong in ({"n": (one for one in "a")}, "n"):
        for asked in (cluster.ids, cluster.find, partial(deleted, cluster), partial(searched, cluster)):
            with pytest.raises(FilterError):
                asked(wrong)
    lock = threading.Lock()
    with pytest.raises(InvalidInputError, match=r"cannot be sent to the shards .*; write it in the filter language"):
        cluster.ids(lambda metadata: lock.locked())
    views = {"n": {"$in": {1: "one", 2: "two"}.keys()}}
    assert {*cluster.ids(views)} == {*cluster.ids(all_of(views, lambda metadata: True))} == {"doc-1", "doc-2"}
    assert {hit.id for hit in searched(cluster, views)} == {"doc-1", "doc-2"}
    with pytest.raises(InvalidInputError, match="retrain must be True or False"):
        cluster.compact(retrain=threading.Lock())
    with pytest.raises(InvalidInputError, match="ids or a filter"):
        cluster.delete()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cpus": -1}, "cpus must be a number"),
        ({"cpus": "x"}, "cpus must be a number"),
        ({"timeout": "x"}, "timeout must be a number of seconds"),
        ({"write_timeout": -1}, "write_timeout must be a number of seconds"),
        ({"partial": "x"}, "partial must be True or False"),
        ({"policy": "x"}, "policy must be a SearchPolicy"),
        ({"local": 5}, "is a str or a Path"),
        ({"codec": "x"}, "codec must be"),
        ({"modle": "x"}, "did you mean 'model'"),
    ],
)
def test_a_wrong_argument_leaves_nothing_that_blocks_the_next_try(tmp_path, options, said):
    from fastlane_rag.cluster import ClusterIndex

    with pytest.raises(InvalidInputError, match=said):
        ClusterIndex.create(tmp_path / "papers", 1, **options)
    assert not (tmp_path / "papers").exists()


def test_paths_that_cannot_be_a_cluster_are_told(tmp_path):
    from fastlane_rag.cluster import ClusterIndex

    file = tmp_path / "file"
    file.touch()
    for path, kind in ((None, InvalidInputError), (file, StorageError), (file / "in", StorageError)):
        with pytest.raises(kind):
            ClusterIndex.create(path, 1, dim=4)
    for path, kind in ((None, InvalidInputError), (file, IndexNotFoundError), (tmp_path, IndexNotFoundError)):
        with pytest.raises(kind):
            ClusterIndex.open(path)


def test_a_copy_and_a_pickle_answer_the_same(cluster, tmp_path):
    from fastlane_rag.cluster import ClusterIndex

    expected = cluster.search("animal song3", k=5)
    cluster.save(tmp_path / "copy")
    with pytest.raises(IndexExistsError):
        cluster.save(tmp_path / "copy")
    with ClusterIndex.open(tmp_path / "copy", model=WordModel()) as copy:
        assert copy.search("animal song3", k=5) == expected
        copy.stop()
    with pickle.loads(pickle.dumps(cluster)) as again:
        assert again.search("animal song3", k=5) == expected
    with pytest.raises(IndexNotFoundError):
        ClusterIndex.open(tmp_path / "nothing")


async def test_coroutines_answer_the_same(cluster):
    assert await cluster.asearch("animal song3", k=5) == cluster.search("animal song3", k=5)
    assert await cluster.aget(["doc-1"]) == cluster.get(["doc-1"])
    assert await cluster.aids() == cluster.ids()


async def test_both_adapters_take_it(cluster):
    from langchain_fastlane import FastLaneRetriever as OfLangChain
    from langchain_fastlane import FastLaneVectorStore
    from llama_index.retrievers.fastlane import FastLaneRetriever as OfLlamaIndex

    expected = [hit.id for hit in cluster.search("animal song3", k=4)]
    retriever = OfLangChain(index=cluster, k=4)
    assert [found.id for found in retriever.invoke("animal song3")] == expected
    assert [found.id for found in await retriever.ainvoke("animal song3")] == expected
    store = FastLaneVectorStore(index=cluster)
    store.add_texts(["a wholly new passage"], ids=["added"])
    assert store.similarity_search("wholly new passage", k=1)[0].id == "added"
    store.delete(["added"])
    nodes = OfLlamaIndex(index=cluster, similarity_top_k=4)
    assert [found.node.node_id for found in nodes.retrieve("animal song3")] == expected
    assert [found.node.node_id for found in await nodes.aretrieve("animal song3")] == expected
