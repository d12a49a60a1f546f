"""A shard is added: documents move, while searches and writes go on, and after a crash in between."""

import sys
import threading
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "index"))

from word_model import WordModel

from fastlane_rag import FastLaneIndex


def test_one_more_shard_takes_its_share_and_leaves_the_rest():
    from fastlane_rag.cluster.manifest import shard_of

    ids = [f"id-{n}" for n in range(20_000)]
    for shards in (1, 4, 9):
        before, after = [shard_of(id_, shards) for id_ in ids], [shard_of(id_, shards + 1) for id_ in ids]
        moved = [new for old, new in zip(before, after, strict=True) if old != new]
        assert set(moved) == {shards}
        assert abs(len(moved) / len(ids) - 1 / (shards + 1)) < 0.02
        counts = [before.count(shard) for shard in range(shards)]
        assert max(counts) < 1.1 * len(ids) / shards


@pytest.mark.slow
def test_a_shard_added_under_writes_and_searches(nodes, tmp_path):
    from fastlane_rag.cluster import ClusterIndex

    texts = {f"doc-{n}": f"animal number{n} sings song{n % 7} at {n % 11}" for n in range(800)}
    with ClusterIndex.create(tmp_path / "c", 2, cpus=0.1, model=WordModel(), codec="fp16") as index:
        index.add(list(texts.values()), list(texts))
        constant = index.search("song3 animal", k=50, route_k="all", filter=None)
        steady = {hit.id for hit in constant}
        other = ClusterIndex.open(tmp_path / "c", model=WordModel())  # does not know of the new shard
        failures, over, searched = [], threading.Event(), []

        def search():
            while not over.is_set():
                found = other.search("song3 animal", k=50, route_k="all")
                ids = [hit.id for hit in found]
                searched.append(len(ids))
                if len(set(ids)) != 50 or len(other.get(list(steady))) != 50:
                    failures.append(ids)

        def write():
            turn = 0
            while not over.is_set():
                turn += 1
                n = turn % 90
                texts[f"new-{n}"] = f"plant number{n} grows in turn{turn}"
                other.add([texts[f"new-{n}"]], [f"new-{n}"])
                if turn % 3 == 0:
                    other.delete([f"new-{n}"])
                    del texts[f"new-{n}"]

        threads = [threading.Thread(target=one) for one in (search, write)]
        for thread in threads:
            thread.start()
        try:
            assert index.add_shard() == 2
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert failures == []
        assert len(searched) > 3
        assert index.manifest.shards == 3
        assert sorted(index.ids()) == sorted(texts)
        assert {one.id: one.text for one in index.get(list(texts))} == texts
        assert index.verify() == []
        held = [one.documents for one in index.shard_stats().values()]
        assert sum(held) == len(texts)
        assert 0.2 < held[2] / len(texts) < 0.5
        with FastLaneIndex.create(model=WordModel(), codec="fp16") as one:
            one.add(list(texts.values()), list(texts))
            expected = one.search("song3 animal", k=50, route_k="all", hybrid=True)
            assert index.search("song3 animal", k=50, route_k="all", hybrid=True) == expected
        other.close()
        index.stop()


@pytest.mark.slow
def test_an_interrupted_move_loses_and_doubles_nothing_and_goes_on(nodes, tmp_path, monkeypatch):
    from fastlane_rag.cluster import ClusterIndex, shards

    texts = {f"doc-{n}": f"animal number{n} sings song{n % 7}" for n in range(300)}
    path = tmp_path / "c"
    with ClusterIndex.create(path, 2, cpus=0.1, model=WordModel(), codec="fp16") as index:
        index.add(list(texts.values()), list(texts))
        expected = index.search("song3 animal", k=300, route_k="all", hybrid=True)
        plain = index.search("song3 animal", k=300, route_k="all")
        tell, moves = shards.Shards.tell, []

        async def interrupted(self, name, given, **options):
            if name == "move":
                moves.append(name)
                [(shard, (ids, _))] = given.items()
                if len(moves) == 2:  # the writer dies between storing there and deleting here
                    documents = (await self.ask_some("get", {shard: (ids,)}))[shard]
                    rows = (await self.ask_some("embeddings", {shard: ([one.id for one in documents],)}))[shard]
                    await tell(self, "adopt", {2: (documents, rows)})
                    raise RuntimeError
            return await tell(self, name, given, **options)

        monkeypatch.setattr(shards.Shards, "tell", interrupted)
        with pytest.raises(RuntimeError):
            index.add_shard()
        monkeypatch.undo()
        with ClusterIndex.open(path, model=WordModel()) as again:
            assert again.manifest.growing
            assert len(again) == 300
            assert again.search("song3 animal", k=300, route_k="all") == plain
            assert len({hit.id for hit in again.search("song3 animal", k=40, route_k="all")}) == 40
            again.add(["changed text"], ["doc-5"])
            again.delete(["doc-6"])
            again.add(["animal number5 sings song5", "animal number6 sings song6"], ["doc-5", "doc-6"])
            assert again.add_shard() == 2
            assert len(again) == 300
            assert again.verify() == []
            assert again.search("song3 animal", k=300, route_k="all", hybrid=True) == expected
            again.stop()
