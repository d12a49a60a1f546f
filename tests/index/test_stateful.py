"""Random operations against a plain dictionary with exhaustive float64 scoring: the index must agree with it."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from word_model import WordModel, bm25_scores, exact_score, words

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import InvalidInputError
from fastlane_rag.types import Document
from fastlane_rag.upkeep import merge, write

names = st.sampled_from([f"d{i}" for i in range(12)])
texts = st.lists(st.sampled_from(["red", "green", "blue", "sea", "tree", "long-word"]), max_size=6).map(" ".join)
metadatas = st.fixed_dictionaries({}, optional={"n": st.integers(0, 3), "t": st.sampled_from(["x", "y"])})
documents = st.lists(st.tuples(names, texts, metadatas), max_size=8)


class IndexAgainstDictionary(RuleBasedStateMachine):
    """The truth is `self.truth`: id -> (text, metadata), in insertion order."""

    on_disk: bool

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name, "index") if self.on_disk else None
        self.truth: dict[str, tuple[str, dict]] = {}
        self.model = WordModel()
        self.index: FastLaneIndex
        self.reader: FastLaneIndex | None = None

    def teardown(self):
        self.index.close()
        if self.reader is not None:
            self.reader.close()
        self.folder.cleanup()

    @initialize(keys=st.sets(st.sampled_from(["n", "t"])))
    def create(self, keys):
        self.index = FastLaneIndex.create(self.path, model=self.model, filter_keys=sorted(keys))

    @rule(batch=documents)
    def add(self, batch):
        self.index.add([t for _, t, _ in batch], ids=[n for n, _, _ in batch], metadatas=[m for _, _, m in batch])
        self.truth.update({n: (t, m) for n, t, m in batch})

    @rule(start=st.integers(0, 40), text=texts)
    def add_many(self, start, text):
        batch = {f"m{i}": (f"{text} number{i}", {"n": i % 4}) for i in range(start, start + 15)}
        self.index.add([t for t, _ in batch.values()], ids=list(batch), metadatas=[m for _, m in batch.values()])
        self.truth.update(batch)

    @rule(ids=st.lists(names, max_size=4), n=st.none() | st.integers(0, 3))
    def delete(self, ids, n):
        doomed = {i for i in ids if i in self.truth and (n is None or self.truth[i][1].get("n") == n)}
        assert self.index.delete(ids, filter=None if n is None else {"n": n}) == len(doomed)
        self.truth = {i: v for i, v in self.truth.items() if i not in doomed}

    @rule(n=st.integers(0, 3))
    def delete_by_filter(self, n):
        kept = {i: v for i, v in self.truth.items() if not v[1].get("n", 9) < n}
        assert self.index.delete(filter={"n": {"$lt": n}}) == len(self.truth) - len(kept)
        self.truth = kept

    @rule(ids=st.lists(names, max_size=3, unique=True), metadata=metadatas)
    def update_metadata(self, ids, metadata):
        present = [i for i in ids if i in self.truth]
        assert self.index.update_metadata(ids, [metadata] * len(ids)) == len(present)
        self.truth.update({i: (self.truth[i][0], metadata) for i in present})

    @rule(name=names)
    def add_something_wrong(self, name):
        with pytest.raises(InvalidInputError):
            self.index.add(["fine", "fine"], ids=[name, "new"], metadatas=[{}, {"bad": object()}])

    @rule()
    def compact(self):
        self.index.compact()
        stats = self.index.stats()
        assert (stats.segments, stats.dead, stats.pending) == (min(len(self.truth), 1), 0, 0)

    @precondition(lambda self: self.on_disk)
    @rule(read_only=st.booleans())
    def open_a_reader(self, read_only):
        if self.reader is not None:
            self.reader.close()
        self.reader = FastLaneIndex.open(self.path, model=self.model, read_only=read_only)

    @precondition(lambda self: self.on_disk)
    @rule()
    def reopen(self):
        self.index.close()
        self.index = FastLaneIndex.open(self.path, model=self.model)

    @rule(
        query=texts,
        k=st.integers(0, 80),
        n=st.none() | st.integers(0, 3),
        route_k=st.sampled_from([1, 2, "auto", "all", None]),
        hybrid=st.booleans(),
    )
    def search(self, query, k, n, route_k, hybrid):
        passing = {i: t for i, (t, m) in self.truth.items() if n is None or m.get("n") == n}
        scored = {i: exact_score(query, text) for i, text in passing.items()}
        if hybrid:
            of_words = bm25_scores(query, {i: text for i, (text, _) in self.truth.items()})
            most = max((of_words[i] for i in passing), default=0) or 1
            scored = {i: score + 0.15 * len(words(query)) * of_words[i] / most for i, score in scored.items()}
        expected = sorted(scored.values(), reverse=True)[:k]
        for index in filter(None, (self.index, self.reader)):
            hits = index.search(query, k, filter=None if n is None else {"n": n}, route_k=route_k, hybrid=hybrid)
            assert [hit.score for hit in hits] == pytest.approx(expected, abs=1e-3)
            assert len({hit.id for hit in hits}) == len(hits)
            assert hits == sorted(hits, key=lambda hit: (-hit.score, hit.id))
            for hit in hits:
                assert hit.score == pytest.approx(scored[hit.id], abs=1e-3)
                assert (hit.text, hit.metadata) == self.truth[hit.id]

    @invariant()
    def contents_agree(self):
        for index in filter(None, (getattr(self, "index", None), self.reader)):
            assert index.ids() == list(self.truth)
            assert len(index) == len(self.truth)
            assert index.get(list(self.truth)) == [Document(i, t, m) for i, (t, m) in self.truth.items()]

    @rule()
    def verify(self):
        assert self.index.verify() == []
        tokens = sum(len(text.split()) or 1 for text, _ in self.truth.values())
        assert self.index.stats().tokens == tokens


def run(on_disk, monkeypatch, **options):
    monkeypatch.setattr(write, "SMALL_BYTES", 600)
    monkeypatch.setattr(merge, "PENDING_BYTES", 1500)
    monkeypatch.setattr(merge, "FAN", 3)
    machine = type("Machine", (IndexAgainstDictionary,), {"on_disk": on_disk})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(machine, settings=settings(deadline=None, suppress_health_check=checks, **options))


@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_random_operations(on_disk, monkeypatch):
    run(on_disk, monkeypatch, max_examples=15, stateful_step_count=25)


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [True, False], ids=["disk", "memory"])
def test_many_random_operations(on_disk, monkeypatch):
    run(on_disk, monkeypatch, max_examples=300, stateful_step_count=50)
