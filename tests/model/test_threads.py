"""Encoding in several threads at once gives what one thread gives."""

import copy
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.explain import explain

QUERIES = ["what is the capital of france ?", "python import error on largest river"]
LONG = " ".join(["paris is the capital of france , the largest city in the world ."] * 5)
DOCUMENTS = [LONG, f"python import error {LONG}"]


@contextmanager
def running(calls: list[Callable[[], object]], times: int) -> Iterator[None]:
    """Make each of the calls in threads of its own, over and over, meanwhile."""
    with ThreadPoolExecutor(len(calls)) as pool:
        futures = [pool.submit(lambda call=call: [call() for _ in range(times)]) for call in calls]
        yield
    for future in futures:
        future.result()


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_no_thread_cuts_a_document_to_the_length_of_anothers_query(checkpoints: dict[str, Path], backend: str) -> None:
    """One tokenizer's truncation, set anew by every call, once cut documents to 32 tokens, and nobody saw it."""
    model = FastLaneModel.from_pretrained(checkpoints["multi-vector"], device="cpu", dtype="float32", backend=backend)
    model.encoder.transformer.query_length, model.encoder.transformer.document_length = 8, 60
    expected = [len(rows) for rows in model.encode_documents(DOCUMENTS)]
    assert min(expected) > 40
    found: list[list[int]] = []
    with running([lambda: model.encode_queries(QUERIES)] * 4, 150):
        for texts in islice(cycle([DOCUMENTS]), 300):
            found.append([len(rows) for rows in model.encode_documents(texts)])
    assert [one for one in found if one != expected] == []


def test_routes_and_explanations_beside_searches(model: FastLaneModel, passages: list[dict[str, str]]) -> None:
    """They share the model, and once its tokenizer: searches beside them raised a raw ValueError."""
    index = FastLaneIndex.create(model=model)
    index.add([passage["text"] for passage in passages[:6]], ids=[passage["id"] for passage in passages[:6]])
    question, text = "what is a PEP?", passages[0]["text"]
    expected = [hit.id for hit in index.search(question, k=6)]
    calls = [lambda: model.route(question), lambda: explain(model, question, text)]
    found = []
    with running(calls, 15):
        for queries in islice(cycle([[question], [question, f"{question} " * 20]]), 40):
            found.append([hit.id for hit in index.search_batch(queries, k=6)[0]])
    assert [one for one in found if one != expected] == []


def test_a_length_that_is_set_later_holds(checkpoints: dict[str, Path]) -> None:
    """Copies of the tokenizer keep no length that the model no longer has."""
    model = FastLaneModel.from_pretrained(checkpoints["multi-vector"], device="cpu", dtype="float32")
    assert len(model.encode_queries([LONG])[0]) == 64
    model.encoder.transformer.query_length = 9
    assert len(model.encode_queries([LONG])[0]) == 9
    model.encoder.max_seq_length = 20
    model.encoder.transformer.query_length = None
    assert len(model.encode_queries([LONG])[0]) == 20


def test_a_copied_encoder_encodes(checkpoints: dict[str, Path]) -> None:
    """Copies and pickles leave the tokenizers of threads, and sessions, behind."""
    model = FastLaneModel.from_pretrained(checkpoints["multi-vector"], device="cpu", dtype="float32")
    expected = model.encode_documents(DOCUMENTS)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for a, b in zip(twin.encode_documents(DOCUMENTS), expected, strict=True):
            torch.testing.assert_close(a, b)
            assert np.isfinite(a.numpy()).all()
