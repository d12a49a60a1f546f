"""Token states by onnxruntime: the same as torch's, or torch with a line that says why."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from fastlane_rag import FastLaneModel
from fastlane_rag.errors import ModelError
from fastlane_rag.model.onnx import backend as backends
from fastlane_rag.model.onnx import session as sessions
from fastlane_rag.model.onnx.graph import FULL, REDUCED, serialized
from fastlane_rag.model.onnx.plan import NotExportableError, plan_of

QUERIES = ["what is the capital of france ?", "python import error", ""]
DOCUMENTS = [
    "paris is the capital of france .",
    "the largest city in the world",
    "? , .",
    "paris is the capital of france . " * 9,
    "python import error on the largest river",
]
FORMATS = ["plain-encoder", "sentence-transformer", "multi-vector", "pylate", "stanford"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Graphs of these tests' models go here."""
    monkeypatch.setenv("FASTLANE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(path: Path, **options: object) -> FastLaneModel:
    return FastLaneModel.from_pretrained(path, device="cpu", **options)


def lowest_cosine(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    assert [one.shape for one in ours] == [one.shape for one in theirs]
    return min(float((a * b).sum(1).min()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("kind", FORMATS)
def test_the_same_vectors_as_torch_token_by_token(checkpoints: dict[str, Path], kind: str) -> None:
    """Alone and in batches, with expansion masks and with padding."""
    ours, theirs = (opened(checkpoints[kind], dtype="float32", backend=one) for one in ("onnx", "torch"))
    assert (ours.backend, theirs.backend) == ("onnx", "torch")
    for query in QUERIES:
        assert lowest_cosine(ours.encode_queries([query]), theirs.encode_queries([query])) > 0.99999
    assert lowest_cosine(ours.encode_queries(QUERIES), theirs.encode_queries(QUERIES)) > 0.99999
    assert lowest_cosine(ours.encode_documents(DOCUMENTS), theirs.encode_documents(DOCUMENTS)) > 0.99999
    few = ours.encode_documents(DOCUMENTS, batch_size=2)
    assert lowest_cosine(few, theirs.encode_documents(DOCUMENTS)) > 0.99999
    np.testing.assert_allclose(ours.encode_dense_queries(QUERIES), theirs.encode_dense_queries(QUERIES), atol=1e-4)
    for a, b in zip(ours.route(QUERIES, 3), theirs.route(QUERIES, 3), strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)
    assert ours.backend == "onnx"


def test_the_bundled_model(model: FastLaneModel, passages: list[dict[str, str]]) -> None:
    """By itself onnxruntime: queries have the vectors of float32, documents those of int8."""
    theirs = FastLaneModel.from_pretrained(backend="torch", dtype="float32")
    assert model.backend == "onnx"
    assert model.fingerprint == theirs.fingerprint
    questions = ["Which PEP introduced the walrus operator?", "strict zip", "how long may a line be, and why?"]
    assert lowest_cosine(model.encode_queries(questions), theirs.encode_queries(questions)) > 0.99999
    texts = [passage["text"] for passage in passages[:12]]
    ours, exact = model.encode_documents(texts), theirs.encode_documents(texts)
    assert lowest_cosine(ours, exact) > 0.98
    assert float(torch.cat([(a * b).sum(1) for a, b in zip(ours, exact, strict=True)]).mean()) > 0.998


@pytest.mark.parametrize("largest", [FULL, REDUCED])
def test_int8_does_not_depend_on_the_neighbours_in_a_batch(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, largest: int
) -> None:
    """A scale a token, not a batch; in both ranges of weights."""
    monkeypatch.setattr(backends, "_multiplies_bytes", lambda: largest == FULL)
    model, exact = opened(checkpoints["multi-vector"], dtype="int8"), opened(checkpoints["multi-vector"])
    together = model.encode_documents(DOCUMENTS)
    for text, rows in zip(DOCUMENTS, together, strict=True):
        torch.testing.assert_close(model.encode_documents([text])[0], rows, atol=1e-6, rtol=0)
    assert lowest_cosine(together, exact.encode_documents(DOCUMENTS)) > 0.97


def distilbert() -> DistilBertModel:
    return DistilBertModel(DistilBertConfig(vocab_size=50, dim=32, n_layers=2, n_heads=4, hidden_dim=64))


def roberta() -> RobertaModel:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return RobertaModel(RobertaConfig(vocab_size=50, max_position_embeddings=40, type_vocab_size=1, **sizes))


@pytest.mark.parametrize("make", [distilbert, roberta])
def test_other_bert_like_encoders(make: type) -> None:
    torch.manual_seed(3)
    backbone = make().eval()
    ids = torch.randint(5, 50, (3, 17))
    options = onnxruntime.SessionOptions()
    session = onnxruntime.InferenceSession(serialized(plan_of(backbone), None, masked=False), options)
    with torch.inference_mode():
        expected = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    np.testing.assert_allclose(session.run(None, {"input_ids": ids.numpy()})[0], expected.numpy(), atol=1e-5)


def test_what_is_not_bert_like_is_torchs(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An adapter, or an unknown architecture: one line says which."""
    monkeypatch.setattr("fastlane_rag.model.onnx.plan._BERT_LIKE", ())
    model = opened(checkpoints["multi-vector"])
    assert model.backend == "torch"
    assert one_line(caplog).endswith("it cannot be exported, it is of the kind 'bert', not BERT-like")
    monkeypatch.undo()
    backbone = opened(checkpoints["multi-vector"], backend="torch").encoder.backbone
    backbone.adapter = torch.nn.Linear(3, 3)
    with pytest.raises(NotExportableError, match=r"adapter\.bias"):
        plan_of(backbone)


def one_line(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("fastlane_rag.model.onnx")]
    assert len(lines) == 1
    assert "\n" not in lines[0]
    assert "is run by torch, not onnxruntime: " in lines[0]
    return lines[0]


def works(model: FastLaneModel, checkpoints: dict[str, Path]) -> bool:
    exact = opened(checkpoints["multi-vector"], backend="torch", dtype="float32")
    return lowest_cosine(model.encode_documents(DOCUMENTS), exact.encode_documents(DOCUMENTS)) > 0.99


@pytest.mark.parametrize("cut", [0, 100, 5000])
def test_a_damaged_graph_is_told_and_made_again(
    checkpoints: dict[str, Path], cache: Path, caplog: pytest.LogCaptureFixture, cut: int
) -> None:
    """Half written or changed: torch this time, and the next model finds a sound one."""
    assert opened(checkpoints["multi-vector"], dtype="float32").backend == "onnx"
    (graph,) = cache.rglob("*.onnx")
    content = graph.read_bytes()
    graph.write_bytes(content[:cut] if cut < 5000 else content[:cut] + b"x" + content[cut + 1 :])
    model = opened(checkpoints["multi-vector"], dtype="float32")
    assert model.backend == "torch"
    assert "damaged or half written" in one_line(caplog)
    assert works(model, checkpoints)
    assert opened(checkpoints["multi-vector"], dtype="float32").backend == "onnx"


def test_a_cache_that_cannot_be_written(
    checkpoints: dict[str, Path], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The line says where, why and what to do."""
    cache.write_text("a file, where a folder should be")
    model = opened(checkpoints["multi-vector"])
    assert model.backend == "torch"
    line = one_line(caplog)
    assert str(cache) in line
    assert "set FASTLANE_CACHE to a folder that can be written" in line
    assert works(model, checkpoints)


def test_an_old_onnxruntime(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.16.3")
    assert opened(checkpoints["multi-vector"]).backend == "torch"
    assert "onnxruntime 1.16.3 is older than 1.20" in one_line(caplog)


def test_without_onnxruntime_nothing_is_said_unless_it_was_asked_for(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert opened(checkpoints["multi-vector"]).backend == "torch"
    assert not caplog.records
    assert opened(checkpoints["multi-vector"], dtype="int8").backend == "torch"
    assert 'pip install "fastlane-rag[cpu]"' in one_line(caplog)


def test_states_that_differ_from_torchs_are_not_taken(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A processor that computes something else, say."""
    run = sessions._run
    monkeypatch.setattr(sessions, "_run", lambda session, inputs: run(session, inputs)[..., ::-1].copy())
    assert opened(checkpoints["multi-vector"]).backend == "torch"
    assert "have cosine" in one_line(caplog)


def test_a_failure_later_goes_on_with_torch(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = opened(checkpoints["multi-vector"], dtype="float32")
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "_run", lambda *_: (_ for _ in ()).throw(RuntimeError("no\nmemory")))
        assert works(model, checkpoints)
    assert one_line(caplog).endswith("onnxruntime failed: no memory")
    assert model.backend == "torch"


@pytest.mark.parametrize(
    "options",
    [
        {"backend": "tensorrt"},
        {"dtype": "int4"},
        {"backend": "onnx", "dtype": "bfloat16"},
        {"backend": "torch", "dtype": "int8"},
    ],
    ids=str,
)
def test_choices_that_mean_nothing_are_refused(checkpoints: dict[str, Path], options: dict[str, str]) -> None:
    with pytest.raises(ModelError, match=next(reversed(options.values()))):
        opened(checkpoints["multi-vector"], **options)


def test_an_encoder_object_stays_with_torch_unless_onnx_is_asked_for(checkpoints: dict[str, Path]) -> None:
    encoder = MultiVectorEncoder(str(checkpoints["multi-vector"]), device="cpu")
    assert FastLaneModel.from_pretrained(encoder).backend == "torch"
    assert FastLaneModel.from_pretrained(encoder, backend="onnx").backend == "onnx"


def test_changed_weights_are_torchs(checkpoints: dict[str, Path]) -> None:
    """A graph holds the weights as they were: after training or an edit it would give stale states."""
    model, trained = (opened(checkpoints["multi-vector"], dtype="float32") for _ in range(2))
    before = model.encode_queries(QUERIES)
    parameters = dict(trained.encoder.backbone.named_parameters())
    with torch.no_grad():
        parameters["encoder.layer.1.output.LayerNorm.weight"][::2].mul_(-1)
    after = trained.encode_queries(QUERIES)
    assert lowest_cosine(before, after) < 0.999
    theirs = opened(checkpoints["multi-vector"], dtype="float32", backend="torch")
    theirs.encoder.backbone.load_state_dict(trained.encoder.backbone.state_dict())
    assert lowest_cosine(after, theirs.encode_queries(QUERIES)) > 0.99999
    model.encoder.train()
    features = model.encoder.preprocess(QUERIES, task="query")
    assert model.encoder(features, task="query")["token_embeddings"].requires_grad


def test_threads_follow_torch_and_batches_are_shared_among_them(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread everything runs in the caller's."""
    model = opened(checkpoints["multi-vector"], dtype="float32")
    expected = model.encode_documents(DOCUMENTS)
    ran: set[str] = set()
    run = sessions._run

    def watched(session: object, inputs: dict[str, np.ndarray]) -> np.ndarray:
        ran.add(threading.current_thread().name.partition("_")[0])
        return run(session, inputs)

    monkeypatch.setattr(sessions, "_run", watched)
    before = torch.get_num_threads()
    try:
        for threads, names in ((1, {threading.current_thread().name}), (3, {"fastlane-encode"})):
            ran.clear()
            torch.set_num_threads(threads)
            assert lowest_cosine(model.encode_documents(DOCUMENTS), expected) > 0.999999
            # A document of several windows is a batch of its own, which may be too small to share.
            assert names <= ran <= names | {threading.current_thread().name}
        assert sessions._threads is not None
        assert sessions._threads._max_workers == 3
    finally:
        torch.set_num_threads(before)


SCRIPT = """
import json, sys, torch
from fastlane_rag import FastLaneModel
model = FastLaneModel.from_pretrained(sys.argv[1], device="cpu")
print(json.dumps([model.backend, model.encode_documents(["paris is the capital of france ."])[0].sum().item()]))
"""


def test_processes_that_export_at_once_agree(checkpoints: dict[str, Path], cache: Path) -> None:
    """Each graph is there once, and no draft is left."""
    command = [sys.executable, "-c", SCRIPT, str(checkpoints["multi-vector"])]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) for _ in range(3)]
    answers = [json.loads(run.communicate(timeout=600)[0]) for run in runs]
    assert [answer[0] for answer in answers] == ["onnx"] * 3
    assert len({answer[1] for answer in answers}) == 1
    assert sorted(one.name.split("-")[2] for one in (cache / "onnx").iterdir()) in (
        ["float32", "int8127"],
        ["float32", "int863"],
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_encodes(checkpoints: dict[str, Path]) -> None:
    """Also one that is forked while threads of the parent encode."""
    model = opened(checkpoints["multi-vector"])
    expected = [rows.sum().item() for rows in model.encode_documents(DOCUMENTS)]
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            model.encode_documents(DOCUMENTS)

    threads = [threading.Thread(target=busy) for _ in range(2)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(4):
            receive, send = context.Pipe(duplex=False)
            child = context.Process(
                target=lambda send=send: send.send([r.sum().item() for r in model.encode_documents(DOCUMENTS)])
            )
            child.start()
            assert receive.poll(120), "the child hangs"
            assert receive.recv() == pytest.approx(expected, abs=1e-4)
            child.join(60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_few_graphs_stay_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those used last; a graph that is there is not made again."""
    from fastlane_rag.model.onnx import cache as caches

    monkeypatch.setattr(caches, "_KEPT", 2)
    for number, name in enumerate(["a", "b", "c"]):
        assert caches.cached(cache, name, lambda name=name: name.encode()) == name.encode()
        for path in cache.glob(f"{name}.*"):
            os.utime(path, (number, number))
    assert sorted(path.name[0] for path in cache.iterdir()) == ["b", "c"]
    assert caches.cached(cache, "c", lambda: pytest.fail("made again")) == b"c"


def test_onnxruntime_loads_with_the_first_model_only() -> None:
    """Neither the package nor its command pays for it."""
    code = "import sys, fastlane_rag.model; print([m for m in ('onnx', 'onnxruntime') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_what_queries_hold_is_given_back_and_opened_again(model: FastLaneModel) -> None:
    """As `fastlane index` does, which encodes documents alone."""
    own = FastLaneModel.from_pretrained(backend="onnx", device="cpu")
    states = own.encoder.states
    assert states is not None
    before, _ = own.encode_queries(["what is it?"])[0], own.encode_documents(["it is a cat"])
    states.release("query")
    assert [precision for precision, _ in states._sessions] == ["int8"]
    torch.testing.assert_close(own.encode_queries(["what is it?"])[0], before)
    same = FastLaneModel.from_pretrained(backend="onnx", dtype="float32", device="cpu").encoder.states
    assert same is not None
    same.release("query")  # documents need it as well
    assert same._sessions
