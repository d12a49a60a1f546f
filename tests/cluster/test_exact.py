"""A cluster answers as one index does: the same ids and scores, on real passages."""

import pytest

from fastlane_rag import FastLaneIndex

QUESTIONS = [
    "How do I combine two dictionaries with an operator?",
    "Why would a parameter be accepted by position only?",
    "How long may a line of code be?",
    "PEP 572 walrus",
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def documents(passages):
    return [
        (one["text"], one["id"], {"title": one["title"], "even": n % 2 == 0, "third": n % 3})
        for n, one in enumerate(passages[:600])
    ]


@pytest.fixture(scope="module")
def one(model, documents):
    """All documents in one index."""
    with FastLaneIndex.create(model=model, codec="fp16") as index:
        index.add(*zip(*documents, strict=True))
        yield index


@pytest.fixture(scope="module")
def cluster(nodes, model, documents, tmp_path_factory):
    """The same documents over three shards."""
    from fastlane_rag.cluster import ClusterIndex

    path = tmp_path_factory.mktemp("cluster") / "peps"
    with ClusterIndex.create(path, 3, cpus=0.1, model=model, codec="fp16") as index:
        index.add(*zip(*documents, strict=True))
        yield index
        index.stop()


@pytest.mark.parametrize(
    "options",
    [
        {"route_k": "all"},
        {"lane": "exhaustive", "depth": 600},
        {"route_k": "all", "filter": {"even": True, "third": {"$ne": 1}}},
        {"route_k": "all", "hybrid": True},
        {"route_k": "all", "hybrid": 0.4, "filter": {"even": False}},
        {"route_k": "all", "hybrid": True, "fusion": "rrf"},
        {"route_k": "all", "weighted": False, "score_threshold": 0.75},
        {"route_k": "all", "hybrid": True, "score_threshold": 0.75},
        {"route_k": 4, "refine": False},
        {"lane": "words"},
        {"lane": "words", "filter": {"third": 2}, "score_threshold": 0.2},
        {"route_k": "all", "filter": lambda metadata: metadata["third"] == 0},
    ],
    ids=lambda options: str(options).split(" at ")[0],
)
def test_hits_are_those_of_one_index(one, cluster, options):
    for k in (1, 10, 50):
        expected = one.search_batch_detailed(QUESTIONS, k, **options)
        found = cluster.search_batch_detailed(QUESTIONS, k, **options)
        for want, got in zip(expected, found, strict=True):
            assert [hit.id for hit in got.hits] == [hit.id for hit in want.hits]
            assert [hit.score for hit in got.hits] == [hit.score for hit in want.hits]
            assert [hit.relevance for hit in got.hits] == [hit.relevance for hit in want.hits]
            assert got.hits == want.hits
            assert got.missing == ()


def test_hits_explain_themselves(one, cluster):
    hit = cluster.search(QUESTIONS[0], k=1)[0]
    assert hit.explain() == one.search(QUESTIONS[0], k=1)[0].explain()
    assert cluster.explain(QUESTIONS[0], hit.id) == one.explain(QUESTIONS[0], hit.id)
