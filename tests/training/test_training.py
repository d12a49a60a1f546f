"""Training from pairs to a saved model, on a small encoder and real passages."""

import copy
import csv
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel

from fastlane_rag import FastLaneModel
from fastlane_rag.errors import DataError, ModelError
from fastlane_rag.model import RoutedEncoder
from fastlane_rag.training import TrainConfig, load_config, train
from fastlane_rag.training.config import DataConfig, LossWeights, RoutingConfig, Source
from fastlane_rag.training.data import load_dev, load_pairs
from fastlane_rag.training.loss import CachedRoutedLoss, RoutedLoss, RoutedTerms
from fastlane_rag.training.monitor import RoutingMonitor
from fastlane_rag.training.trainer import train_from


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, passages: list[dict[str, str]]) -> Path:
    """A BEIR folder: PEP section titles as queries, their passages as answers."""
    folder = tmp_path_factory.mktemp("peps")
    chosen = [p for p in passages if len(p["title"].split()) > 2][:120]
    with (folder / "corpus.jsonl").open("w") as corpus, (folder / "queries.jsonl").open("w") as queries:
        for p in chosen:
            corpus.write(json.dumps({"_id": p["id"], "title": "", "text": p["text"]}) + "\n")
            queries.write(json.dumps({"_id": f"q{p['id']}", "text": p["title"]}) + "\n")
    (folder / "qrels").mkdir()
    for split, part in (("train", chosen[:90]), ("dev", chosen[90:])):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{p['id']}\t{p['id']}\t1" for p in part)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def encoder_path(tmp_path_factory: pytest.TempPathFactory, model: FastLaneModel) -> Path:
    """A two-layer BERT with the default model's vocabulary, small enough to train here."""
    folder = tmp_path_factory.mktemp("encoder")
    model.encoder.tokenizer.save_pretrained(folder)
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=len(model.encoder.tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def settings(encoder: Path, dataset: Path, output: Path, **changes: Any) -> TrainConfig:
    values = {
        "model": str(encoder),
        "output": output,
        "dim": 16,
        "data": {"train": {"peps": {"path": dataset}}, "dev": {"peps": {"path": dataset, "split": "dev", "limit": 10}}},
        "batch_size": 8,
        "max_steps": 6,
        "evaluate_every": 3,
        "document_length": 48,
        "precision": "float32",
        "freeze_embeddings": False,
        "threads": 1,
    }
    return TrainConfig.model_validate(values | changes)


def test_a_run_trains_saves_and_opens_again(encoder_path: Path, dataset: Path, tmp_path: Path) -> None:
    """The saved model routes, has the projection asked for, and its router has moved."""
    trained = train(settings(encoder_path, dataset, tmp_path / "run"))
    opened = FastLaneModel.from_pretrained(tmp_path / "run" / "model", dtype="float32")
    assert opened.dim == 16
    assert opened.fingerprint == trained.fingerprint
    assert opened.encoder.query_router.score.weight.abs().sum() > 0
    assert opened.encoder.document_router.score.weight.abs().sum() > 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["pairs"] == {"peps": 90}
    assert all(len(digest) == 64 for digest in record["sha256"].values())
    with (tmp_path / "run" / "log.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {"eval_dev_score", "eval_peps_ndcg10_full", "eval_peps_ndcg10_k1"} <= names


def test_a_stopped_run_resumes_to_the_same_weights(encoder_path: Path, dataset: Path, tmp_path: Path) -> None:
    """Six steps in one go, and six steps with the last three after a stop."""
    whole = train(settings(encoder_path, dataset, tmp_path / "whole"))
    train(settings(encoder_path, dataset, tmp_path / "parts"))
    last = tmp_path / "parts" / "checkpoints" / "checkpoint-6"
    for file in sorted(last.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    last.rmdir()
    resumed = train(settings(encoder_path, dataset, tmp_path / "parts"))
    assert resumed.fingerprint == whole.fingerprint


def test_an_earlier_run_is_not_overwritten(encoder_path: Path, dataset: Path, tmp_path: Path) -> None:
    """Starting over in a folder with checkpoints is refused."""
    (tmp_path / "run" / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(ModelError, match="holds checkpoints of an earlier run"):
        train(settings(encoder_path, dataset, tmp_path / "run"), resume=False)


def test_checkpoints_of_another_run_are_refused(encoder_path: Path, dataset: Path, tmp_path: Path) -> None:
    """A changed setting, another start and a lost record are named; settings without effect on results may change."""
    run = tmp_path / "run"
    train(settings(encoder_path, dataset, run, max_steps=3))
    with pytest.raises(ModelError, match=r"another run: config\.learning_rate 5e-05 -> 0\.001"):
        train(settings(encoder_path, dataset, run, max_steps=3, learning_rate=1e-3))
    for name, value in {"seed": 5, "batch_size": 3, "scale": 10.0, "loss": LossWeights(distill=0.5)}.items():
        with pytest.raises(ModelError, match=rf"another run: config\.{name}"):
            train(settings(encoder_path, dataset, run, max_steps=3, **{name: value}))
    with pytest.raises(ModelError, match="another run: start "):
        train(settings(run / "model", dataset, run, max_steps=3))
    moved = run.rename(tmp_path / "moved")
    train(settings(encoder_path, dataset, moved, max_steps=3, threads=2))
    (moved / "run.json").unlink()
    with pytest.raises(ModelError, match="holds checkpoints, but not of which run"):
        train(settings(encoder_path, dataset, moved, max_steps=3))


def test_adapters_are_merged_when_saved(encoder_path: Path, dataset: Path, tmp_path: Path) -> None:
    """A LoRA run ends as a plain checkpoint."""
    train(settings(encoder_path, dataset, tmp_path / "run", lora_rank=2, max_steps=2, evaluate_every=2))
    opened = FastLaneModel.from_pretrained(tmp_path / "run" / "model", dtype="float32")
    assert not [name for name, _ in opened.encoder.named_parameters() if "lora" in name]


COLUMNS = [["how to sort a list", "what is a PEP", "type hints"], ["sort()", "a proposal", "annotations"]]


def batch(model: FastLaneModel, columns: list[list[str]] = COLUMNS) -> list[dict[str, Any]]:
    features = []
    for position, texts in enumerate(columns):
        task = "query" if position == 0 else "document"
        features.append({**model.encoder.preprocess(texts, task=task), "task": task})
    return features


def train_without_dropout(model: FastLaneModel) -> None:
    model.encoder.train()
    for module in model.encoder.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.encoder.backbone.config.attention_probs_dropout_prob = 0.0


def another(model: FastLaneModel) -> RoutedEncoder:
    """The same encoder with other weights in its last layer."""
    copied = copy.deepcopy(model.encoder)
    generator = torch.Generator().manual_seed(5)
    for parameter in list(copied.backbone.parameters())[-8:]:
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return copied


def test_caching_gradients_changes_neither_loss_nor_gradients(encoder_path: Path) -> None:
    """Mini-batches of one text against the whole batch at once."""
    results = []
    for cached in (False, True):
        torch.manual_seed(4)
        model = FastLaneModel.from_pretrained(encoder_path, dtype="float32")
        for router in (model.encoder.query_router, model.encoder.document_router):
            torch.nn.init.normal_(router.score.weight)
        train_without_dropout(model)
        terms = RoutedTerms(LossWeights(anchor=1.0, anchor_tokens=1.0), RoutingConfig(), 20.0, seed=3)
        anchor = another(model)
        loss = CachedRoutedLoss(model.encoder, terms, 1, anchor) if cached else RoutedLoss(model.encoder, terms, anchor)
        torch.manual_seed(9)
        value = loss(batch(model))
        value.backward()
        grads = {n: p.grad.clone() for n, p in model.encoder.named_parameters() if p.grad is not None}
        results.append((value.item(), grads))
    (plain, plain_grads), (cached_value, cached_grads) = results
    assert plain == pytest.approx(cached_value, rel=1e-4)
    assert plain_grads.keys() == cached_grads.keys()
    for name, grad in plain_grads.items():
        torch.testing.assert_close(grad, cached_grads[name], rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.parametrize("term", list(LossWeights.model_fields))
def test_every_term_alone_has_a_gradient(encoder_path: Path, term: str) -> None:
    """Every weight of the config has an effect, on the part it is meant for."""
    model = FastLaneModel.from_pretrained(encoder_path, dtype="float32")
    torch.nn.init.normal_(model.encoder.query_router.score.weight)
    torch.nn.init.normal_(model.encoder.document_router.score.weight)
    model.encoder.train()
    weights = LossWeights(**{name: float(name == term) for name in LossWeights.model_fields})
    terms = RoutedTerms(weights, RoutingConfig(), 20.0, seed=3)
    columns, teacher = COLUMNS, None
    if term == "teacher":
        columns = [*COLUMNS, ["min()", "a law", "imports"]]
        teacher = torch.tensor([[3.0, 0.0], [1.0, 2.0], [0.0, 0.5]])
    anchor = another(model) if term.startswith("anchor") else None
    RoutedLoss(model.encoder, terms, anchor)(batch(model, columns), teacher).backward()
    part = {
        "full": model.encoder.backbone,
        "anchor": model.encoder.backbone,
        "anchor_tokens": model.encoder.backbone,
        "expected": model.encoder.query_router,
        "routed": model.encoder.query_router,
        "teacher": model.encoder.backbone,
        "distill": model.encoder.query_router,
        "document": model.encoder.document_router,
        "document_alignment": model.encoder.document_router,
        "collapse": model.encoder.query_router,
    }[term]
    assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("cached", [False, True])
def test_a_teacher_ranks_each_querys_own_passages(encoder_path: Path, cached: bool) -> None:
    """The term is the divergence from the teacher's softmax, computed here by hand from MaxSim of single texts."""
    model = FastLaneModel.from_pretrained(encoder_path, dtype="float32")
    train_without_dropout(model)
    columns = [["sort a list", "what is a PEP"], ["sort()", "a proposal for Python"], ["imports", "a law of men"]]
    weights = LossWeights(**{name: float(name == "teacher") for name in LossWeights.model_fields})
    terms = RoutedTerms(weights, RoutingConfig(), 20.0, seed=3)
    loss = CachedRoutedLoss(model.encoder, terms, 1) if cached else RoutedLoss(model.encoder, terms)
    teacher = torch.tensor([[2.0, -1.0], [0.0, 1.5]])
    value = float(loss(batch(model, columns), teacher).detach())
    model.encoder.eval()
    wanted = 0.0
    for i, (query, *passages) in enumerate(zip(*columns, strict=True)):
        rows = model.encode_queries([query])[0]
        own = torch.stack([(rows @ d.T).max(1).values.mean() for d in model.encode_documents(passages)]) * 20
        p = torch.softmax(teacher[i], 0)
        wanted += float((p * (p.log() - torch.log_softmax(own, 0))).sum()) / 2
    assert value == pytest.approx(wanted, rel=1e-4)


def test_a_run_learns_from_a_teacher(encoder_path: Path, dataset: Path, tmp_path: Path) -> None:
    """Pairs that bring scores, mixed with some that do not; the term is in the log."""
    config = settings(encoder_path, dataset, tmp_path / "run", max_steps=10, evaluate_every=10)
    pairs = load_pairs("peps", config.data.train["peps"], config.data, seed=1)
    file = tmp_path / "taught.jsonl"
    file.write_text(
        "".join(
            json.dumps({"query": p.query, "pos": p.positive, "neg": p.negatives, "scores": [4, -2.5]}) + "\n"
            for p in pairs
        )
    )
    data = config.data.model_copy(update={"train": {**config.data.train, "taught": Source(path=file)}})
    train(config.model_copy(update={"data": data}))
    with (tmp_path / "run" / "log.csv").open() as log:
        assert any(row["name"] == "teacher" and float(row["value"]) > 0 for row in csv.DictReader(log))


@pytest.mark.parametrize("scores", [[1.0], [1.0, "2"], 3, [True, 0.0]])
def test_bad_teacher_scores_are_named(tmp_path: Path, scores: Any) -> None:
    """With the line and the value."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps({"query": "q", "pos": "p", "neg": ["n"], "scores": scores}) + "\n")
    with pytest.raises(DataError, match=r"line 1: expected 2 finite numbers in \"scores\""):
        load_pairs("file", Source(path=file), DataConfig(train={}), seed=1)


def test_teacher_scores_are_in_all_lines_or_none(tmp_path: Path) -> None:
    """Scores in only some lines are an error of the file."""
    rows: list[dict[str, Any]] = [{"query": f"q{i}", "pos": f"p{i}", "neg": ["n"]} for i in range(3)]
    rows[0]["scores"] = [1, 0]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match=r"line 2: .* in every line or in none"):
        load_pairs("file", Source(path=file), DataConfig(train={}), seed=1)


def test_a_model_trained_in_bfloat16_computes_as_the_saved_one(
    encoder_path: Path, dataset: Path, tmp_path: Path
) -> None:
    """Mixed precision ends with the run, and works with a document budget."""
    start = FastLaneModel.from_pretrained(encoder_path, dtype="float32", document_budget=0.4)
    config = settings(encoder_path, dataset, tmp_path / "run", precision="bfloat16", max_steps=2, evaluate_every=1)
    trained = train_from(start, config)
    again = FastLaneModel.from_pretrained(tmp_path / "run" / "model", dtype="float32")
    texts = ["Decorators are applied from the bottom up.", "A list is mutable."]
    for left, right in zip(trained.encode_documents(texts), again.encode_documents(texts), strict=True):
        torch.testing.assert_close(left, right)


def test_temperature_falls_geometrically() -> None:
    """First, middle and last step."""
    terms = RoutedTerms(LossWeights(), RoutingConfig(temperature=(4.0, 1.0)), 20.0, seed=0)
    terms.last_step = 10
    seen = []
    for terms.step in (0, 5, 10):
        seen.append(terms.temperature)
    assert seen == pytest.approx([4.0, 2.0, 1.0])


def test_collapse_is_said_in_words(caplog: pytest.LogCaptureFixture) -> None:
    """All queries routing one position warn; spread ones do not."""

    class State:
        global_step = 5

    for positions, warned in ((torch.full((20,), 3), True), (torch.arange(20), False)):
        terms = RoutedTerms(LossWeights(), RoutingConfig(), 20.0, seed=0)
        monitor = RoutingMonitor(terms, window=5)
        terms.routed_positions = positions
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            for _ in range(5):
                monitor.on_step_end(None, State(), None)
        assert ("collapsing" in caplog.text) is warned


def test_hard_negatives_look_alike_and_are_not_the_answer(dataset: Path) -> None:
    """Mined by BM25, reproducible by the seed, never the positive itself."""
    config = DataConfig(train={}, negatives=2)
    pairs = load_pairs("peps", Source(path=dataset), config, seed=1)
    assert len(pairs) == 90
    assert pairs == load_pairs("peps", Source(path=dataset), config, seed=1)
    for pair in pairs:
        assert len(set(pair.negatives)) == 2
        assert pair.positive not in pair.negatives


def test_pair_files_are_read_and_bad_ones_named(tmp_path: Path) -> None:
    """{query, pos} lines; anything else is refused with its line."""
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": f"question {i}", "pos": f"answer number {i}", "pos_id": f"a{i}"} for i in range(5)]
    file.write_text("\n".join(map(json.dumps, rows)))
    pairs = load_pairs("file", Source(path=file, limit=3), DataConfig(train={}), seed=1)
    assert len(pairs) == 3
    file.write_text('{"query": "no answer"}\n')
    with pytest.raises(DataError, match="line 1"):
        load_pairs("file", Source(path=file), DataConfig(train={}), seed=1)


def test_dev_collections_hold_every_judged_passage(dataset: Path) -> None:
    """Filled up to the size asked for."""
    dev = load_dev("peps", Source(path=dataset, split="dev"), 60, seed=1)
    assert len(dev.documents) == 60
    assert {d for grades in dev.qrels.values() for d in grades} <= set(dev.documents)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bach_size": 8}, "bach_size"),
        ({"batch_size": 1}, "batch_size"),
        ({"routing": {"temperature": [0, 1]}}, "temperature must be above 0"),
        ({"routing": {"k": {0: 1.0}}}, "counts of at least 1"),
        ({"routing": {"document_share": [0.9, 0.2]}}, "document_share"),
        ({"routing": {"k": {1: 0.0}}}, "counts of at least 1"),
        ({"routing": {"k": {1: float("inf")}}}, "counts of at least 1"),
        ({"learning_rate": float("nan")}, "learning_rate: .*, not float nan"),
        ({"learning_rate": -0.1}, r"learning_rate: .*, not float -0\.1"),
        ({"epochs": float("inf")}, "epochs: .*, not float inf"),
        ({"scale": 0}, "scale: .*, not int 0"),
        ({"loss": {"full": -1}}, r"loss\.full: .*, not int -1"),
    ],
)
def test_a_bad_config_names_the_setting(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Unknown and impossible settings are errors, not defaults."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"output": "out", "data": {"train": {"a": {"path": "x"}}}} | change))
    with pytest.raises(ModelError, match=message):
        load_config(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed: 1\nseed: 2\n", "has the key 'seed' twice"),
        (b"data: {train: {a: {path: x, path: y}}}\noutput: out\n", "has the key 'path' twice"),
        (b"", "the file: .*, not NoneType None"),
        (b"seed: \xff", "cannot read the training config"),
        (b"a: [", "cannot read the training config"),
    ],
)
def test_a_file_that_is_no_config_is_told_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    """YAML's own reader drops the first of two values, and its errors have several lines."""
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=message) as told:
        load_config(file)
    assert "\n" not in str(told.value)


def test_a_config_may_use_anchors_and_any_unicode_encoding(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = "data:\n  train:\n    a: &a {path: x, limit: 5}\n    b: {<<: *a, limit: 6}\noutput: out\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_text(text, encoding=encoding)
        train = load_config(file).data.train
        assert [train[name].limit for name in "ab"] == [5, 6]


def test_config_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A recipe works from any folder."""
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"output": "out", "data": {"train": {"a": {"path": "x"}}}}))
    config = load_config(file)
    assert config.output == tmp_path / "out"
    assert config.data.train["a"].path == tmp_path / "x"
