"""What is asked of a cluster whose machines die: an answer of a replica, or a clear error, and never a wrong one."""

import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "index"))

from word_model import WordModel

from fastlane_rag.errors import ShardUnavailableError

pytestmark = pytest.mark.slow

TEXTS = [f"animal number{n} sings song{n % 7}" for n in range(60)]
IDS = [f"doc-{n}" for n in range(60)]


def node_of(nodes, place):
    [found] = [node for node in nodes.worker_nodes if node.node_id == place]
    return found


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come back"
        time.sleep(0.5)


def test_a_node_killed_under_load_is_answered_for_by_replicas(nodes, tmp_path):
    from fastlane_rag.cluster import ClusterIndex

    with ClusterIndex.create(tmp_path / "c", 2, replicas=1, cpus=0.1, model=WordModel(), codec="fp16") as index:
        index.add(TEXTS, IDS)
        expected = index.search("animal song3", k=10)
        where = index.status()
        assert all(len(set(copies)) == 2 for copies in where.values()), "a shard's copies are on different nodes"
        answers, errors, over = [], [], threading.Event()

        def ask():
            while not over.is_set():
                try:
                    answers.append((time.monotonic(), index.search("animal song3", k=10)))
                except Exception as error:
                    errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        killed = time.monotonic()
        nodes.remove_node(node_of(nodes, where[0][0]), allow_graceful=False)  # where shard 0 writes
        # A node is given up after some seconds; a busy machine answers little in the meantime.
        wait_until(lambda: errors or sum(when > killed + 3 for when, _ in answers) > 10)
        over.set()
        for thread in threads:
            thread.join()
        assert errors == []
        assert all(found == expected for _, found in answers)
        nodes.add_node(num_cpus=2, object_store_memory=80 << 20)
        index.add(["a new animal"], ["after"])  # waits until Ray has brought the writer back
        assert index.search("a new animal", k=1)[0].id == "after"
        wait_until(lambda: not any(" " in place for copies in index.status().values() for place in copies))
        index.stop()


def test_a_shard_without_a_live_copy_is_named(nodes, tmp_path):
    import ray

    from fastlane_rag.cluster import ClusterIndex, manifest, shards

    path = tmp_path / "c"
    with ClusterIndex.create(path, 2, cpus=0.1, timeout=4, model=WordModel(), codec="fp16") as index:
        index.add(TEXTS, IDS)
        expected = index.search("animal song3", k=60, route_k="all")
        some = ClusterIndex.open(path, model=WordModel(), partial=True, timeout=4)
        home = path / "shards" / "0001"
        home.rename(path / "away")  # as if its storage were not mounted: Ray restarts the actor, which finds nothing
        actor = ray.get_actor(f"fastlane-{index.manifest.id}-1-0", shards.NAMESPACE)
        ray.kill(actor, no_restart=False)
        time.sleep(1)
        with pytest.raises(ShardUnavailableError, match="shard 1"):
            index.search("animal song3", k=60, route_k="all")
        with pytest.warns(UserWarning, match="partial: the documents of shard 1 of 2"):
            [result] = some.search_batch_detailed(["animal song3"], 60, route_k="all")
        assert result.missing == (1,)
        here = {id_ for id_ in IDS if manifest.shard_of(id_, 2) == 0}
        assert result.hits == [hit for hit in expected if hit.id in here]
        (path / "away").rename(home)
        wait_until(lambda: _answers(index, expected))
        some.close()
        index.stop()


def _answers(index, expected):
    try:
        return index.search("animal song3", k=60, route_k="all") == expected
    except ShardUnavailableError:
        return False
