"""Documents longer than the model's window: every token once, and found to the last word."""

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import FastLaneWarning, InvalidInputError
from fastlane_rag.explain import explain
from fastlane_rag.model import windows as module
from fastlane_rag.model.windows import OVERLAP, long_texts, token_count, windows
from fastlane_rag.rerank import rerank
from fastlane_rag.types import Document

FILLER = "The committee met again on a Tuesday and spoke about the budget of the library without any result. " * 60
ANSWER = "The password of the vault in Zurich is heliotrope."
QUESTION = "What is the password of the vault in Zurich?"
DOCUMENTS = [FILLER + ANSWER if i == 6 else FILLER for i in range(10)]
CHINESE = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))


@given(st.integers(1, 5000), st.integers(1, 600), st.data())
def test_every_token_is_kept_once_and_in_order(tokens: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    made = windows(tokens, size, overlap)
    kept = [token for window in made for token in range(window.first, window.last)]
    assert kept == list(range(tokens))
    for window in made:
        assert 0 <= window.start <= window.first < window.last <= window.stop <= tokens
        assert window.stop - window.start <= size
    for left, right in pairwise(made):
        assert left.stop - right.start >= overlap
        assert abs((left.stop - left.last) - (left.last - right.start)) <= 1
    assert sum(window.stop - window.start for window in made) <= tokens + (len(made) - 1) * (overlap + 1)


@pytest.mark.parametrize("text", [FILLER, CHINESE, "🙂 " * 3000, "a.b" * 900, "\u0e01" * 2000 + " x" * 900], ids=ascii)
def test_the_encoder_reads_each_token_of_a_text(model: FastLaneModel, text: str) -> None:
    """The ids are those of the tokenizer, and no window is longer than the model's."""
    whole = model.encoder.tokenizer(text, truncation=False, verbose=False)["input_ids"]
    (one,) = long_texts(model.encoder, [text], model.max_document_length, None).values()
    assert one.ids.tolist() == whole
    assert (one.head, one.tail, one.cut) == (1, 1, 0)
    kept = []
    for window in one.windows:
        ids = one.of_window(window).tolist()
        assert len(ids) <= model.max_document_length
        assert (ids[0], ids[-1]) == (whole[0], whole[-1])
        kept += ids[1 + window.first - window.start : 1 + window.last - window.start]
    assert kept == whole[1:-1]
    share = sum(len(one.of_window(w)) for w in one.windows) / len(whole)
    assert share < 1 + 1.6 / OVERLAP


def test_a_document_is_found_by_its_last_sentence(model: FastLaneModel) -> None:
    with FastLaneIndex.create(model=model) as index:
        index.add(DOCUMENTS, ids=[str(i) for i in range(10)])
        hits = index.search(QUESTION, k=3)
        assert hits[0].id == "6"
        assert hits[0].score > hits[1].score + 1
        explanation = hits[0].explain()
        assert explanation.score == pytest.approx(hits[0].score, abs=0.05)
        best = explanation.spans[0]
        assert best.start >= len(FILLER)
        assert DOCUMENTS[6][best.start : best.end] == best.text
    ranked = rerank(QUESTION, DOCUMENTS, model=model)
    assert ranked[0].position == 6
    assert ranked[0].score == pytest.approx(hits[0].score, abs=0.05)


def test_texts_of_any_script_keep_all_tokens(model: FastLaneModel) -> None:
    """The two markers have rows, punctuation has none."""
    texts = [CHINESE, "word " * 3000, "", "x" * 5000, "🙂" * 3000, "." * 3000, "\n \t"]
    assert [len(rows) for rows in model.encode_documents(texts)] == [1002, 3002, 2, 3, 3, 2, 2]


def test_a_text_that_fits_is_encoded_as_before(model: FastLaneModel, passages: list[dict[str, str]]) -> None:
    """Bit for bit, by the encoder's own way."""
    texts = [p["text"][:800] for p in passages[:6]]
    plain = model.encoder.encode_document(texts, output_value=None)
    for ours, row in zip(model.encode_documents(texts), plain, strict=True):
        rows = row["token_embeddings"][row["attention_mask"].bool()]
        assert torch.equal(ours, torch.nn.functional.normalize(rows.float(), dim=-1))


def test_a_bound_of_the_window_is_what_the_encoder_cuts(model: FastLaneModel) -> None:
    plain = model.encoder.encode_document([DOCUMENTS[6]])[0].float()
    with pytest.warns(FastLaneWarning):
        (cut,) = model.bounded(model.max_document_length).encode_documents([DOCUMENTS[6]])
    torch.testing.assert_close(cut, torch.nn.functional.normalize(plain, dim=-1))


def test_rows_in_windows_are_near_those_of_one_window(
    model: FastLaneModel, passages: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real text that fits, encoded in windows of half the length: each token like its own."""
    text = " ".join(p["text"] for p in passages[:3])[:1800]
    (whole,) = model.encode_documents([text])
    monkeypatch.setattr(FastLaneModel, "max_document_length", 256)
    (parts,) = model.encode_documents([text])
    assert 256 < len(whole) == len(parts)
    own = (whole * parts).sum(1)
    assert own.mean() > 0.85
    assert own.min() > 0.4


@pytest.mark.parametrize("kind", ["plain-encoder", "sentence-transformer", "multi-vector", "pylate", "stanford"])
def test_every_format_is_encoded_in_windows(checkpoints: dict[str, Path], kind: str) -> None:
    """Prompts and markers are put around each window, and scored once."""
    model = FastLaneModel.from_pretrained(checkpoints[kind], dtype="float32", device="cpu")
    words = "paris is the capital of france in the largest city on a river".split()  # noqa: SIM905
    count = 16 * len(words)
    short, long = model.encode_documents([" ".join(words), " ".join(words * 16)])
    assert len(long) - count == len(short) - len(words)
    (one,) = long_texts(model.encoder, [" ".join(words * 16)], model.max_document_length, None).values()
    assert one.head + one.tail == len(short) - len(words)
    assert all(len(one.of_window(w)) <= model.max_document_length for w in one.windows)
    torch.testing.assert_close(long[0].norm(), torch.tensor(1.0))
    explanation = explain(model, "capital", " ".join(words * 16))
    assert all(match.matched in words for match in explanation.tokens if match.span is not None)


@pytest.mark.parametrize("budget", [1 / 3, 0.9, 20, 1500, 10**6])
def test_a_budget_is_spent_on_the_whole_document(model: FastLaneModel, budget: float) -> None:
    text = FILLER * 3 + ANSWER
    (whole,) = model.encode_documents([text])
    model.encoder.document_router.budget = budget
    try:
        kept, short = model.encode_documents([text, ANSWER])
        explanation = explain(model, QUESTION, text)
    finally:
        model.encoder.document_router.budget = None
    tokens = len(whole) - 2  # a budget never picks the markers
    wanted = -(-tokens * budget // 1) if budget < 1 else min(budget, tokens)
    assert len(kept) == pytest.approx(wanted, abs=1)
    assert 1 <= len(short) <= 12
    assert all(text[span.start : span.end] == span.text for span in explanation.spans)
    torch.testing.assert_close(kept.norm(dim=1), torch.ones(len(kept)))


def test_what_a_bound_cuts_is_counted_once_a_call(model: FastLaneModel) -> None:
    lengths = [token_count(model.encoder, text, "document") for text in DOCUMENTS]
    beyond = sum(lengths) - 10 * 300
    expected = f"10 documents are longer than 300 tokens.* the last {beyond} tokens"
    ways: list[Callable[[FastLaneIndex], object]] = [
        lambda index: index.add([*DOCUMENTS, "short"]),
        lambda index: index.ingest(Document(str(i), text) for i, text in enumerate([*DOCUMENTS, "short"])),
    ]
    for way in ways:
        with FastLaneIndex.create(model=model, max_document_tokens=300) as index:
            with pytest.warns(FastLaneWarning, match=expected) as told:
                way(index)
            assert [warning.filename for warning in told] == [__file__]
            assert index.stats().max_document_tokens == 300
            assert index.model.max_document_tokens == 300
            assert index.stats().tokens < 10 * 300
    with pytest.warns(FastLaneWarning, match=expected) as told:
        rerank(QUESTION, DOCUMENTS, model=model.bounded(300))
    assert len(told) == 1


def test_a_bound_stays_with_the_index(model: FastLaneModel, tmp_path: Path) -> None:
    FastLaneIndex.create(tmp_path / "index", model=model, max_document_tokens=100).close()
    with (
        FastLaneIndex.open(tmp_path / "index", model=model) as index,
        pytest.warns(FastLaneWarning, match="100 tokens"),
    ):
        index.add([FILLER])
    with FastLaneIndex.open(tmp_path / "index", model=model, max_document_tokens=10_000) as index:
        index.add([FILLER], ids=["all"])
        assert index.model.max_document_tokens == 10_000
        assert model.max_document_tokens is None
    for wrong in (0, -1, True, 1.5, "all"):
        with pytest.raises(InvalidInputError, match="max_document_tokens"):
            FastLaneIndex.create(model=model, max_document_tokens=wrong)  # type: ignore[arg-type]
        with pytest.raises(InvalidInputError, match="max_document_tokens"):
            FastLaneIndex.open(tmp_path / "index", max_document_tokens=wrong)  # type: ignore[arg-type]


def test_a_query_that_is_cut_is_told_and_nothing_else(model: FastLaneModel) -> None:
    with pytest.warns(FastLaneWarning, match="2 queries are longer .*: the last 980 tokens") as told:
        model.encode_queries(["word " * 1000, "word", "word " * 1000])
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_queries(["word " * 510, ""])
        model.encode_documents([FILLER, "word " * 600, ""])


def test_long_documents_are_encoded_some_windows_at_a_time(
    model: FastLaneModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    made = module._batch
    monkeypatch.setattr(module, "_batch", lambda encoder, ids: sizes.append(len(ids)) or made(encoder, ids))
    model.encode_documents([FILLER, FILLER, "word " * 3000], batch_size=3)
    assert set(sizes) <= {1, 2, 3}
    assert len(sizes) >= 4
