"""No read waits for a fork, for another read or for an export that nobody finishes; in memory as on disk."""

import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from word_model import WordModel

from fastlane_rag import FastLaneIndex
from fastlane_rag.errors import IndexClosedError, IndexLockedError
from fastlane_rag.upkeep.verify import export

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


@pytest.fixture
def filled(index):
    index.add([f"word{i} of many" for i in range(20)], ids=[str(i) for i in range(20)])
    return index


def forked(act) -> float:
    """Seconds that a fork takes whose child does this and must succeed."""
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            act()
            os._exit(0)
        finally:
            os._exit(1)
    took = time.monotonic() - start
    while time.monotonic() - start < 10:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return took
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


def test_a_search_does_not_wait_for_a_slow_one(filled):
    other = threading.Event()

    def slow(metadata):
        assert other.wait(20)
        return True

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(filled.search, "word1", k=3, filter=slow)
        assert len(filled.search("word2", k=3)) == 3
        assert len(filled) == 20
        other.set()
        assert len(first.result(20)) == 3


def test_a_filter_may_search_from_another_thread(filled):
    with ThreadPoolExecutor(1) as pool:
        hits = filled.search("word1", k=2, filter=lambda _: bool(pool.submit(filled.search, "word2", k=1).result(20)))
    assert len(hits) == 2


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_filter_that_writes_into_what_it_reads_is_refused_at_once(tmp_path, place):
    with FastLaneIndex.create(tmp_path / "index" if place == "disk" else None, model=WordModel()) as index:
        index.add(["word1", "word2"], ["1", "2"])

        def writes(metadata):
            index.add(["more"], ["3"])
            return False

        def compacts(metadata):
            index.compact()
            return False

        with pytest.raises(IndexLockedError, match="such as a filter, cannot write to it"):
            index.delete(filter=writes)
        assert index.ids() == ["1", "2"]
        for wrong in (writes, compacts) if place == "memory" else ():
            with pytest.raises(IndexLockedError, match="such as a filter, cannot write to it"):
                index.search("word1", filter=wrong)
            assert index.ids() == ["1", "2"]
        assert index.search("word1", filter=writes if place == "disk" else lambda _: False) == []
        assert index.add(["later"], ["4"]) == ["4"]


def test_a_filter_may_search_from_another_thread_while_a_write_waits(filled):
    begun = threading.Event()

    def write():
        begun.wait(20)
        filled.delete(["0"])

    def passes(metadata):
        begun.set()
        time.sleep(0.005)
        return bool(pool.submit(filled.search, "word2", k=1).result(20))

    with ThreadPoolExecutor(1) as writers, ThreadPoolExecutor(1) as pool:
        writing = writers.submit(write)
        assert len(filled.search("word1", k=2, filter=passes)) == 2
        writing.result(20)
    assert len(filled) == 19


def test_a_write_gets_its_turn_among_many_searches(filled):
    end = threading.Event()

    def search():
        while not end.is_set():
            filled.search("word1", k=2)

    with ThreadPoolExecutor(4) as pool:
        searches = [pool.submit(search) for _ in range(4)]
        for number in range(10):
            filled.add([f"more{number}"], ids=[f"more{number}"])
        end.set()
        for one in searches:
            one.result(20)
    assert len(filled) == 30


def test_readers_see_whole_commits(filled):
    """Of two documents that are always written together, nobody sees one."""
    end = threading.Event()

    def read():
        seen = set()
        while not end.is_set():
            seen.add(len(filled.get(["x", "y"])))
            seen.add(len([id_ for id_ in filled.ids() if id_ in "xy"]))
        return seen

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for _ in range(15):
            filled.add(["both x", "both y"], ids=["x", "y"])
            filled.delete(["x", "y"])
        end.set()
        assert set().union(*(reader.result(20) for reader in readers)) <= {0, 2}


def test_an_index_that_is_closed_in_mid_search_closes_after_it(filled):
    inside, go_on = threading.Event(), threading.Event()

    def slow(metadata):
        inside.set()
        return go_on.wait(20)

    with ThreadPoolExecutor(1) as pool:
        searching = pool.submit(filled.ids, slow)
        assert inside.wait(20)
        filled.close()
        with pytest.raises(IndexClosedError):
            filled.ids()
        go_on.set()
        with suppress(IndexClosedError):
            assert len(searching.result(20)) == 20
    with pytest.raises(IndexClosedError):
        filled.search("word1")


@contextmanager
def in_thread(act):
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(act)


@forks
def test_a_fork_does_not_wait_for_a_long_read(filled):
    inside, go_on = threading.Event(), threading.Event()

    def slow(metadata):
        inside.set()
        return go_on.wait(20)

    with in_thread(lambda: filled.ids(slow)) as reading:
        assert inside.wait(20)
        assert forked(lambda: filled.search("word1", k=2)) < 2
        go_on.set()
        assert len(reading.result(20)) == 20


@forks
def test_a_fork_does_not_wait_for_an_unfinished_export(tmp_path):
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add(["a", "b"])
        unfinished = export(tmp_path / "index")
        with in_thread(lambda: next(unfinished)) as first:
            first.result(20)
            assert forked(lambda: index.search("a", k=2)) < 2
        unfinished.close()


@forks
def test_a_fork_does_not_wait_for_a_long_statement(tmp_path):
    """SQLite gives the floor every few milliseconds, and steps aside there."""
    with FastLaneIndex.create(tmp_path / "index", model=WordModel()) as index:
        index.add(["a", "b"])
        running: list[sqlite3.Connection] = []

        def endless():
            with suppress(KeyboardInterrupt), index._storage.catalogue.reading() as connection:
                running.append(connection)
                connection.execute(
                    "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
                ).fetchall()

        with in_thread(endless) as statement:
            while not running:
                time.sleep(0.001)
            time.sleep(0.05)
            try:
                for _ in range(3):
                    assert forked(lambda: index.search("a", k=2)) < 2
                assert len(index.search("a", k=2)) == 2
            finally:
                running[0].interrupt()
            statement.result(20)


@forks
def test_a_child_forked_in_mid_write_in_memory_sees_the_commit_before(word_model):
    with FastLaneIndex.create(model=word_model) as index:
        index.add(["a"], ids=["a"])
        inside, go_on = threading.Event(), threading.Event()

        def write():
            with index._storage.change() as change:
                change.delete(["a"])
                inside.set()
                go_on.wait(20)

        def child():
            assert index.ids() == ["a"]
            index.add(["b"], ids=["b"])
            assert index.ids() == ["a", "b"]

        with in_thread(write) as writing:
            assert inside.wait(20)
            assert forked(child) < 2
            go_on.set()
            writing.result(20)
        assert index.ids() == []
