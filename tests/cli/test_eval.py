"""`fastlane eval` on a small set of real passages, each asked for by its section's title."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.cli import main
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.evaluation.metrics import METRICS
from fastlane_rag.evaluation.whole import WholeEncoder, documents_with_rows

REAL_ENCODE = FastLaneModel._encode
Passages = list[dict[str, str]]


@pytest.fixture
def dataset(passages: Passages, tmp_path: Path) -> Path:
    """Thirty short passages; the title asks for the text."""
    chosen = sorted(passages, key=lambda p: len(p["text"]))[:30]
    folder = tmp_path / "pep-titles"
    (folder / "qrels").mkdir(parents=True)
    corpus = "".join(json.dumps({"_id": p["id"], "text": p["text"]}) + "\n" for p in chosen)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(corpus.encode()))
    queries = "".join(json.dumps({"_id": f"q{i}", "text": p["title"]}) + "\n" for i, p in enumerate(chosen))
    (folder / "queries.jsonl").write_text(queries)
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{i}\t{p['id']}\t1\n" for i, p in enumerate(chosen)))
    return folder


def test_every_method_is_judged_and_the_second_run_encodes_no_document(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "report.json"
    arguments = ["eval", str(dataset), "--route-k", "1,all", "--cache", str(tmp_path / "cache"), "--json", str(out)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads(out.read_text())
    (judged,) = report["datasets"]
    assert (judged["name"], judged["split"], judged["documents"], judged["queries"]) == ("pep-titles", "test", 30, 30)
    methods = {method["method"]: method for method in judged["methods"]}
    gathered = ["fastlane k=1 gather", "fastlane k=all gather"]
    assert list(methods) == [
        "dense",
        "dense hnsw",
        "bm25",
        "full SumMaxSim",
        "weighted SumMaxSim",
        "fastlane k=1",
        "fastlane k=all",
        *gathered,
    ]
    for name, method in methods.items():
        assert name in result.stdout
        assert set(method["metrics"]) == set(METRICS)
        assert method["metrics"]["nDCG@10"] > 0.2, "titles ask for their own text; chance gives 0.15"
        assert method["metrics"]["R@100"] == 1, "all thirty documents are ranked"
        assert 0 < method["search_ms"]["p50"] <= method["search_ms"]["p95"]
        assert method["total_ms"]["p50"] > method["search_ms"]["p50"]
    full, weighted = methods["full SumMaxSim"], methods["weighted SumMaxSim"]
    assert methods["fastlane k=all gather"]["metrics"] == weighted["metrics"]
    assert weighted["comparisons"] == full["comparisons"]
    assert methods["fastlane k=1 gather"]["comparisons"] < full["comparisons"]
    assert methods["dense"]["comparisons"] == 30
    assert methods["dense hnsw"]["metrics"] == methods["dense"]["metrics"], "thirty vectors are one neighbourhood"
    assert 0 < methods["dense hnsw"]["comparisons"] <= 200
    assert methods["bm25"]["comparisons"] is None
    pairs = {tuple(pair["methods"]): pair for pair in judged["significance"]["pairs"]}
    assert len(pairs) == 9 * 8 // 2
    assert pairs["weighted SumMaxSim", "fastlane k=all"]["p"] == 1, "the same rankings"
    assert pairs["full SumMaxSim", "fastlane k=1 gather"]["p"] < 1, "other rankings"
    assert [finding["subject"] for finding in judged["diagnosis"]][:2] == ["routing", "coverage"]
    assert judged["diagnosis"][1]["figures"]["documents"] == 30
    assert report["environment"]["versions"]["torch"]
    assert report["model"]["fingerprint"] == FastLaneModel.from_pretrained().fingerprint

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a cached corpus was encoded again")

    monkeypatch.setattr(WholeEncoder, "encode_documents", refuse)
    monkeypatch.setattr(FastLaneModel, "encode_dense_documents", refuse)
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 0, again.output
    repeated = json.loads(out.read_text())["datasets"][0]["methods"]
    assert [method["metrics"] for method in repeated] == [method["metrics"] for method in judged["methods"]]


def test_an_interrupted_encoding_goes_on_where_it_stopped(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk that failed is encoded in the next run, those before it are not."""
    monkeypatch.setattr("fastlane_rag.index.ingestion.CHUNK", 10)
    real, encoded = WholeEncoder.encode_documents, []

    def failing(self: WholeEncoder, texts: list[str], **options: object) -> object:
        if len(encoded) == 2:
            raise MemoryError("out of memory")
        encoded.append(len(texts))
        return real(self, texts, **options)  # type: ignore[arg-type]

    arguments = ["eval", str(dataset), "--methods", "full", "--cache", str(tmp_path / "cache")]
    monkeypatch.setattr(WholeEncoder, "encode_documents", failing)
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, encoded) == (1, [10, 10])
    assert "Error: out of memory" in result.stderr

    def counting(self: WholeEncoder, texts: list[str], **options: object) -> object:
        encoded.append(len(texts))
        return real(self, texts, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(WholeEncoder, "encode_documents", counting)
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert encoded == [10, 10, 10]


def test_a_limit_and_chosen_methods(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    arguments = ["eval", str(dataset), "--methods", "bm25", "--limit", "7", "--json", str(out)]
    result = CliRunner().invoke(main, [*arguments, "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 0, result.output
    (judged,) = json.loads(out.read_text())["datasets"]
    assert (judged["queries"], [method["method"] for method in judged["methods"]]) == (7, ["bm25"])
    assert not (tmp_path / "cache").exists(), "nothing was encoded"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--split", "dev"], 1, "no split 'dev'"),
        (["--methods", "bm52"], 2, "'bm52' is none of dense, hnsw, bm25, full, weighted, fastlane, gather, hybrid"),
        (["--route-k", "1,x"], 2, "'x' is neither"),
        (["--json", "no-such-folder/report.json"], 2, "no-such-folder is not a folder"),
        (["--limit", "0"], 2, "0 is not in the range"),
    ],
)
def test_trouble_shows_before_any_work(dataset: Path, options: list[str], code: int, message: str) -> None:
    result = CliRunner().invoke(main, ["eval", str(dataset), *options])
    assert result.exit_code == code
    assert message in " ".join(result.stderr.split())


def test_judgements_of_another_corpus_are_noticed(dataset: Path) -> None:
    (dataset / "qrels" / "test.tsv").write_text("q0\tnot-there\t1\n")
    result = CliRunner().invoke(main, ["eval", str(dataset), "--methods", "bm25"])
    assert result.exit_code == 1
    assert "holds none of the documents" in result.stderr


def test_a_document_budget_is_kept_from_the_rows_encoded_once(dataset: Path, tmp_path: Path) -> None:
    """Half the tokens are stored, the rows that a model with that budget gives, and no text is encoded again."""
    sizes = []
    for more in ([], ["--document-budget", "0.5"]):
        out = tmp_path / "report.json"
        common = ["eval", str(dataset), "--methods", "dense,full", "--cache", str(tmp_path / "cache")]
        with pytest.MonkeyPatch.context() as patch:
            if more:
                patch.setattr(FastLaneModel, "_encode", _queries_alone)
            result = CliRunner().invoke(main, [*common, "--json", str(out), *more])
        assert result.exit_code == 0, result.output
        sizes.append(json.loads(out.read_text())["datasets"][0]["methods"][1]["comparisons"])
    assert 0.45 < sizes[1] / sizes[0] < 0.55
    (folder,) = (tmp_path / "cache").iterdir()
    (path,) = folder.glob("index-fp16-0.5-stand-ins-????????????????")
    loaded = load_dataset(dataset)
    model = FastLaneModel.from_pretrained(document_budget=0.5)
    texts = [passage.content for passage in loaded.passages()]
    with FastLaneIndex.open(path, read_only=True) as index:
        stored = [rows for _, chunk in documents_with_rows(index) for rows in chunk]
    for kept, direct in zip(stored, model.encode_documents(texts), strict=True):
        assert len(kept) == len(direct)
        np.testing.assert_allclose(kept, direct.numpy(), atol=0.02)
    pooled = np.load(folder / "dense.npy")
    np.testing.assert_allclose(pooled, model.encode_dense_documents(texts), atol=0.02)


def _queries_alone(self: FastLaneModel, texts: list[str], task: str, *more: object) -> object:
    assert task == "query", "a cached corpus was encoded again"
    return REAL_ENCODE(self, texts, task, *more)  # type: ignore[arg-type]


def test_a_document_budget_is_a_number_of_tokens_or_a_share(dataset: Path) -> None:
    bad = CliRunner().invoke(main, ["eval", str(dataset), "--document-budget", "1.5"])
    assert bad.exit_code == 2
    assert "'1.5' is neither" in bad.stderr
