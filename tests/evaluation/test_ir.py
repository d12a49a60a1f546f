"""Datasets by ir_datasets id, with a stand-in for the library; exported datasets are read like all others."""

import sys
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from fastlane_rag.cli import main
from fastlane_rag.errors import DataError, MissingExtraError
from fastlane_rag.evaluation.dataset import load_dataset
from fastlane_rag.evaluation.ir import export_ir_dataset

Doc = namedtuple("Doc", "doc_id title text")
Doc.default_text = lambda self: f"{self.title} {self.text}"
Query = namedtuple("Query", "query_id text")
Query.default_text = lambda self: self.text
Judgement = namedtuple("Judgement", "query_id doc_id relevance iteration")


class Fake(SimpleNamespace):
    judged = True

    def has_docs(self) -> bool:
        return True

    has_queries = has_docs

    def has_qrels(self) -> bool:
        return self.judged

    def docs_iter(self):
        self.fetched = getattr(self, "fetched", 0) + 1
        yield from (Doc("d1", "PEP 572", "assignment expressions"), Doc("d2", "PEP 584", "union of dictionaries"))

    def queries_iter(self):
        yield Query("q1", "walrus operator")

    def qrels_iter(self):
        yield Judgement("q1", "d1", 1, "0")


def installed(monkeypatch: pytest.MonkeyPatch, dataset: Fake) -> None:
    def load(name: str) -> Fake:
        return {"beir/peps/test": dataset}[name]

    monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load=load))


def test_an_id_becomes_a_folder_that_is_fetched_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake()
    installed(monkeypatch, fake)
    for _ in range(2):
        folder = export_ir_dataset("ir_datasets:beir/peps/test", tmp_path)
    assert fake.fetched == 1
    dataset = load_dataset(folder)
    assert (dataset.name, dataset.queries, dataset.qrels) == (
        "beir-peps-test",
        {"q1": "walrus operator"},
        {"q1": {"d1": 1}},
    )
    assert [p.content for p in dataset.passages()] == [
        "PEP 572 assignment expressions",
        "PEP 584 union of dictionaries",
    ]


def test_trouble_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = Fake()
    installed(monkeypatch, fake)
    with pytest.raises(DataError, match=r"no dataset 'beir/nothing'; https://ir-datasets\.com"):
        export_ir_dataset("beir/nothing", tmp_path)
    fake.judged = False
    with pytest.raises(DataError, match="has no qrels"):
        export_ir_dataset("beir/peps/test", tmp_path)

    def offline(self: Fake) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(Fake, "judged", True)
    fake.judged = True
    monkeypatch.setattr(Fake, "queries_iter", offline)
    with pytest.raises(DataError, match=r"is there a network.*no route"):
        export_ir_dataset("beir/peps/test", tmp_path)
    assert not list(tmp_path.rglob("test.tsv")), "half a dataset must not count as one"
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtraError, match=r"fastlane-rag\[ir-datasets\]"):
        export_ir_dataset("beir/peps/test", tmp_path)


def test_eval_takes_ids(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed(monkeypatch, Fake())
    arguments = ["eval", "ir_datasets:beir/peps/test", "--methods", "bm25", "--cache", str(tmp_path)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "beir-peps-test, 1 test queries" in result.stdout
