"""The comparison with the peers, with engines that need no peer: protocol, rounds, quality, ratios."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from side_by_side import runs
from side_by_side.corpus import Corpus, Query, write_documents, write_queries
from side_by_side.engine import ENGINES
from side_by_side.export import choose
from side_by_side.grown import open_corpus, write_grown
from side_by_side.judging import compare, named, percentiles, quality, shared
from side_by_side.runs import Runner, WorkerFailed, build_once, rounds, runners

TITLES = [
    "Union Operators To dict",
    "Assignment Expressions",
    "Data Classes",
    "Structural Pattern Matching",
    "Type Hints",
    "Asynchronous Generators",
    "Literal String Interpolation",
    "Exception Groups and except*",
    "Unpacking in subscripts",
    "Deferred evaluation of annotations",
    "Simplified package layout",
    "Positional-Only Parameters",
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Twelve documents of 3 to 8 rows; query n is document n's own rows, moved a little."""
    folder = tmp_path_factory.mktemp("corpus")
    generator = np.random.default_rng(0)

    def unit(rows: np.ndarray) -> np.ndarray:
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    rows = [unit(generator.standard_normal((3 + n % 6, 16))) for n in range(len(TITLES))]
    documents = ((f"pep{n}", title, rows[n]) for n, title in enumerate(TITLES))
    write_documents(folder, documents, sum(map(len, rows)), 16)
    queries = []
    for n in range(4):
        near = unit(rows[n] + 0.1 * generator.standard_normal(rows[n].shape)).astype(np.float32)
        scores = np.arange(len(near), dtype=np.float32)
        queries.append(Query(f"q{n}", TITLES[n], ["token"] * len(near), near, -near, scores, near.mean(axis=0)))
    write_queries(folder, queries, {f"q{n}": {f"pep{n}": 1} for n in range(4)})
    facts = {"documents": len(TITLES), "tokens": sum(map(len, rows)), "dim": 16, "model": "m", "fingerprint": "f"}
    (folder / "facts.json").write_text(json.dumps(facts))
    np.save(folder / "token-scores.npy", np.zeros(facts["tokens"], np.float32))
    return Corpus(folder)


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers look for the engines of these tests here."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))


def fake(module: str, role: str = "peer") -> Runner:
    return Runner(module, f"fake_peers.{module}", role, sys.executable)


def test_what_is_exported_is_read_back(corpus: Corpus) -> None:
    documents, queries = list(corpus.documents()), corpus.queries()
    assert corpus.ids == [f"pep{n}" for n in range(12)]
    assert list(corpus.texts()) == TITLES
    assert [len(rows) for rows in documents] == [3 + n % 6 for n in range(12)]
    assert np.linalg.norm(documents[5], axis=1) == pytest.approx(1, abs=1e-3)
    assert [query.rows.shape for query in queries] == [(3, 16), (4, 16), (5, 16), (6, 16)]
    assert queries[2].text == TITLES[2]
    assert np.array_equal(queries[3].views, -queries[3].rows)
    assert queries[3].scores.tolist() == [0, 1, 2, 3, 4, 5]
    assert queries[1].dense == pytest.approx(queries[1].rows.mean(axis=0))


def test_an_export_with_the_wrong_number_of_rows_fails(tmp_path: Path) -> None:
    document = ("pep8", "Style Guide", np.ones((3, 4)))
    for tokens in (2, 4):
        with pytest.raises(ValueError, match=f"not {tokens}"):
            write_documents(tmp_path, iter([document]), tokens, 4)


def test_engines_build_and_search_in_processes_of_their_own(corpus: Corpus, tmp_path: Path) -> None:
    built = build_once(fake("pooled"), corpus, tmp_path, 1, 60)
    assert built["bytes"] == {"index": 128 + 12 * 16 * 4}
    assert built["build_seconds"] > 0
    assert built["versions"]["numpy"] == np.__version__
    assert build_once(fake("pooled"), corpus, tmp_path, 1, 60) == built, "it is not built again"
    report = fake("pooled").run("search", corpus, tmp_path / "pooled", 1, 60)
    assert [one["knobs"] for one in report["results"]] == [{"first": 3}, {"first": 10}]
    assert [[len(answer) for answer in one["answers"]] for one in report["results"]] == [[3] * 4, [10] * 4]
    assert all(len(one["seconds"]) == 4 and min(one["seconds"]) > 0 for one in report["results"])
    assert report["memory"]["peak"] >= report["memory"]["now"]


def test_the_reference_ranks_by_the_definition(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one block and in several, of float32 rows and of half precision."""
    from side_by_side.engines import exhaustive

    engine = exhaustive.engine()
    engine.build(corpus, tmp_path)
    documents, queries = list(corpus.documents()), corpus.queries()
    scores = [[float((rows @ query.rows.T).max(axis=0).sum()) for rows in documents] for query in queries]
    for block, most in ((16_384, 1 << 30), (9, 1 << 30), (9, 0)):
        monkeypatch.setattr(exhaustive, "BLOCK", block)
        monkeypatch.setattr(exhaustive, "FLOAT32_BYTES", most)
        engine.open(corpus, tmp_path, 1)
        [knobs] = engine.settings()
        assert knobs["rows"].startswith("float32" if most else "float16")
        for query, expected in zip(queries, scores, strict=True):
            found = engine.documents(engine.search(engine.prepare(query), knobs))
            assert found == np.argsort(expected)[::-1][:10].tolist()
    assert engine.index_bytes(tmp_path)["index"] >= 2 * corpus.rows.size


def test_an_engine_that_dies_is_left_out_with_its_last_words(corpus: Corpus, tmp_path: Path) -> None:
    ready = [fake("broken"), fake("pooled")]
    for runner in ready:
        build_once(runner, corpus, tmp_path, 1, 60)
    failures = {}
    reports = rounds(
        ready,
        lambda runner: runner.run("search", corpus, tmp_path / runner.name, 1, 60),
        1,
        lambda runner, reason: failures.update({runner.name: reason}),
    )
    assert list(reports) == ["pooled"]
    assert "search ended with 1: the index is not loaded" in failures["broken"]


def test_a_worker_that_takes_too_long_or_does_not_start_fails(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(WorkerFailed, match="build took longer than 0 s"):
        fake("pooled").run("build", corpus, tmp_path / "slow", 1, 0.01)
    gone = Runner("gone", "fake_peers.pooled", "peer", str(tmp_path / "no-python"))
    with pytest.raises(WorkerFailed, match="no-python does not run"):
        gone.run("build", corpus, tmp_path / "gone", 1, 60)


def test_every_round_begins_with_another_engine() -> None:
    order: list[str] = []
    ready = [Runner(name, "", "peer", "") for name in "abc"]
    reports = rounds(ready, lambda runner: order.append(runner.name) or {}, 4, lambda *_: None)
    assert "".join(order) == "abcbcacababc"
    assert [len(of_engine) for of_engine in reports.values()] == [4, 4, 4]


def test_what_is_not_installed_is_told(tmp_path: Path) -> None:
    record = tmp_path / "peers.json"
    packages = {"fast-plaid": {"version": "1"}, "xtr-warp-rs": {"error": "No matching distribution"}}
    record.write_text(json.dumps({"plaid": {"python": "/venv/bin/python", "packages": packages}}))
    names = ["lateweave", "fast-plaid", "xtr-warp-rs", "fastlane 4 bits"]
    lateweave, plaid, warp, ours = runners(names, record)
    assert lateweave == ("lateweave", f"{record} does not know the environment 'scorers'")
    assert plaid == Runner("fast-plaid", "fast_plaid_index", "peer", "/venv/bin/python")
    assert warp == ("xtr-warp-rs", "not installed: No matching distribution")
    assert isinstance(ours, Runner)
    assert ours.python == sys.executable
    assert list(runners(["fast-plaid"], None)) == [
        ("fast-plaid", "no --peers: run install_peers.py for the environment 'plaid'")
    ]


def test_every_engine_has_a_module() -> None:
    folder = Path(runs.__file__).parent / "engines"
    for module, group, _ in ENGINES.values():
        assert (folder / f"{module}.py").is_file()
        assert group is None or (runs.BENCHMARKS / "requirements" / f"{group}.txt").is_file()


def test_percentiles_take_the_median_of_the_repeats_of_each_query() -> None:
    """One slow repeat of a query does not count; a slow query does."""
    repeats = [[0.001, 0.002, 0.009], [0.001, 0.050, 0.009], [0.001, 0.002, 0.009]]
    times = percentiles(repeats)
    assert times["p50_ms"] == pytest.approx(2)
    assert times["p95_ms"] == pytest.approx(2 + 0.9 * 7)
    assert times["mean_ms"] == pytest.approx(4)
    assert times["p50_ms_of_repeats"] == pytest.approx([2, 9, 2])


def test_quality_by_hand() -> None:
    exact = {"q1": ["a", "b", "c", "d"], "q2": ["e", "f"]}
    run = {"q1": ["b", "x", "a", "y"], "q2": ["e", "f"]}
    assert shared(run, exact) == pytest.approx((2 / 4 + 2 / 2) / 2)
    values = quality(run, {"q1": {"b": 1}, "q2": {"f": 1}}, exact)
    assert values["nDCG@10"] == pytest.approx((1 + 1 / np.log2(3)) / 2, abs=1e-5)
    assert values["R@10"] == 1
    assert quality({"q": ["q", "d"]}, {"q": {"d": 1}}, {"q": ["d"]})["nDCG@10"] == 1, "it is not its own answer"


def test_numbers_become_ids_and_a_repeated_document_is_refused() -> None:
    assert named([[2, 0], ["x"]], ["q1", "q2"], ["a", "b", "c"]) == {"q1": ["c", "a"], "q2": ["x"]}
    with pytest.raises(ValueError, match="'q1'"):
        named([[1, 1]], ["q1"], ["a", "b"])
    with pytest.raises(ValueError, match="at most 10"):
        named([list(range(11))], ["q1"], [f"d{n}" for n in range(11)])


def row(engine: str, role: str, p50: float, ndcg: float, recall: float, **knobs: int) -> dict:
    times = {"p50_ms": p50, "p95_ms": 2 * p50}
    return {
        "engine": engine,
        "role": role,
        "knobs": knobs,
        **times,
        "nDCG@10": ndcg,
        "recall@10_of_exhaustive": recall,
    }


def test_ratios_are_taken_at_equal_quality() -> None:
    """A fast peer of low quality does not count at a quality level that it does not reach."""
    rows = [
        row("exact", "exhaustive", 100, 0.70, 1),
        row("plaid", "peer", 5, 0.60, 0.7, probes=1),
        row("plaid", "peer", 20, 0.71, 0.95, probes=8),
        row("warp", "peer", 10, 0.698, 0.85),
        row("bm25", "baseline", 1, 0.697, 0.85),
        row("ours", "ours", 4, 0.699, 0.97),
        row("ours", "ours", 2, 0.66, 0.9, route_k=1),
    ]
    engines = {
        name: {"bytes": {"index": size}, "build_seconds": seconds}
        for name, size, seconds in [("exact", 8, 0), ("plaid", 5, 60), ("warp", 4, 80), ("bm25", 2, 1), ("ours", 3, 6)]
    }
    found = compare(rows, engines)
    strict = next(one for one in found["at equal nDCG@10"] if one["at_least"] == pytest.approx(0.995 * 0.7))
    assert strict["peer"]["engine"] == "warp"
    assert strict["ours over peer, p50_ms"] == pytest.approx(0.4)
    assert strict["ours over baseline, p50_ms"] == pytest.approx(4)
    assert strict["ours over anybody else, p50_ms"] == pytest.approx(4)
    whole = found["at equal nDCG@10"][-1]
    assert whole["peer"]["knobs"] == {"probes": 8}
    assert whole["ours"] is None
    assert whole["ours over peer, p50_ms"] is None
    recall = next(one for one in found["at equal recall@10 of exhaustive"] if one["at_least"] == 0.9)
    assert recall["ours over peer, p50_ms"] == pytest.approx(2 / 20)

    default = found["default"]
    assert default["of exhaustive nDCG@10"] == pytest.approx(0.699 / 0.7, abs=1e-4)
    assert default["faster than exhaustive"] == 25
    assert default["best nDCG@10 of peers"] == 0.71
    assert default["p50 over that of any peer"] == pytest.approx(4 / 5)
    assert default["p50 over that of a peer of no less nDCG@10"] == pytest.approx(4 / 20)
    assert default["bytes over the smallest peer of no less nDCG@10"] == pytest.approx(3 / 5)
    assert default["build over the fastest peer's"] == pytest.approx(0.1)
    assert compare(rows[:-2], engines)["default"] is None


def test_a_subset_keeps_the_judged_documents() -> None:
    ids = [f"d{n}" for n in range(50)]
    qrels = {"q1": {"d7": 1, "d31": 0}, "q2": {"d7": 1, "not in the corpus": 1}}
    chosen = choose(ids, qrels, 10)
    assert len(chosen) == 10
    assert {"d7", "d31"} <= chosen <= set(ids)
    assert choose(ids, qrels, 10) == chosen
    assert choose(ids, qrels, 10, seed=1) != chosen
    assert choose(ids, qrels, None) == choose(ids, qrels, 99) == set(ids)
    with pytest.raises(ValueError, match="judge 2 documents, more than the 1 asked for"):
        choose(ids, qrels, 1)


def test_a_grown_corpus_begins_with_real_documents_and_goes_on_with_moved_ones(corpus: Corpus, tmp_path: Path) -> None:
    small = write_grown(tmp_path / "small", corpus, 5)
    large = write_grown(tmp_path / "large", corpus, 30, noise=0.1)
    few = write_grown(tmp_path / "few", corpus, 30, tokens=4)
    assert isinstance(open_corpus(tmp_path / "large"), type(large))
    assert type(open_corpus(corpus.folder)) is Corpus

    rows = list(large.documents())
    assert small.ids == large.ids[:5]
    assert len(set(large.ids)) == len(large.ids) == len(rows) == 30
    assert large.ids[12:24] == [f"{id_}~1" for id_ in large.ids[:12]]
    assert large.facts["synthetic_documents"] == 18
    assert small.facts["synthetic_documents"] == 0
    assert large.facts["tokens"] == sum(map(len, rows))
    real = dict(zip(corpus.ids, corpus.documents(), strict=True))
    for id_, one, text in zip(large.ids, rows, large.texts(), strict=True):
        source = real[id_.split("~")[0]]
        assert text == TITLES[int(id_.split("~")[0][3:])]
        if "~" in id_:
            cosines = (one * source).sum(axis=1)
            assert 0.97 < cosines.min() < 0.9999
            assert np.linalg.norm(one, axis=1) == pytest.approx(1, abs=1e-3)
        else:
            assert np.array_equal(one, source)
    assert max(len(one) for one in few.documents()) == 4
    assert few.facts["tokens_kept_of_a_document"] == 4
