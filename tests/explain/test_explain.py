"""Explanations: evidence as character spans of real passages, and hits that explain themselves."""

import copy
import dataclasses
import gc
import math
import pickle
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from fastlane_rag import FastLaneIndex, FastLaneModel, Hit
from fastlane_rag.errors import FastLaneError, FastLaneWarning, InvalidInputError, ModelError
from fastlane_rag.explain import Explanation, explain

QUERY = "how long may a line of code be?"
LINE_LENGTH = "pep8-6-0"
ODD = [
    "",
    " \n\t ",
    "?!.,;",
    "naïve FAÇADE — Ærøskøbing",
    "🙂🙂 smile \u200d👩‍💻 code\r\nnext\0line",
    "コードの行は何文字まで? 行の長さ",
    "tab\tand   many   spaces",
    "e\u0301cole cafe\u0301",
]


@pytest.fixture(scope="module")
def index(model: FastLaneModel, passages: list[dict[str, str]]) -> FastLaneIndex:
    """Passages of two PEPs, titles above their texts."""
    chosen = [p for p in passages if p["id"].startswith(("pep8-", "pep572-"))][:40]
    index = FastLaneIndex.create(model=model)
    index.add([f"{p['title']}\n{p['text']}" for p in chosen], ids=[p["id"] for p in chosen])
    return index


@pytest.fixture(scope="module")
def hit(index: FastLaneIndex) -> Hit:
    """The passage about the length of lines."""
    return next(hit for hit in index.search(QUERY, k=5, route_k=3) if hit.id == LINE_LENGTH)


def check_spans(explanation: Explanation) -> None:
    """Checks that hold for every explanation."""
    text = explanation.text
    for match in explanation.tokens:
        assert -1.001 <= match.similarity <= 1.001
        if match.span is not None:
            start, end = match.span
            assert 0 <= start < end <= len(text)
            assert match.matched == text[start:end] == match.matched.strip()
        if match.query_span is not None:
            assert 0 <= match.query_span[0] < match.query_span[1] <= len(explanation.query)
    assert math.fsum(match.share for match in explanation.tokens) == pytest.approx(1)
    spans = explanation.spans
    assert all(span.text == text[span.start : span.end] for span in spans)
    assert [span.weight for span in spans] == sorted((span.weight for span in spans), reverse=True)
    in_order = sorted((span.start, span.end) for span in spans)
    assert all(end <= start for (_, end), (start, _) in pairwise(in_order))
    if spans:
        assert math.fsum(span.weight for span in spans) == pytest.approx(1)


def test_a_hit_explains_itself(hit: Hit) -> None:
    explanation = hit.explain()
    check_spans(explanation)
    assert (explanation.query, explanation.text) == (QUERY, hit.text)
    assert explanation.score == pytest.approx(hit.score, abs=0.03)
    assert sum(match.routed for match in explanation.tokens) == 3
    assert explanation.routed_score < explanation.score
    best = {span.text.lower() for span in explanation.spans[:3]}
    assert {"line", "code", "length"} & best
    line = next(match for match in explanation.tokens if match.token == "line")
    assert QUERY[slice(*line.query_span)] == "line"
    assert line.matched.lower() in ("line", "lines")


def test_each_token_has_its_best_match(hit: Hit, model: FastLaneModel) -> None:
    """Similarities are the maxima that SumMaxSim adds up; router scores are those of `route`."""
    explanation = hit.explain()
    (query,) = model.encode_queries([QUERY])
    (document,) = model.encode_documents([hit.text])
    expected = (query @ document.T).max(dim=1).values
    assert [match.similarity for match in explanation.tokens] == pytest.approx(expected.tolist(), abs=1e-3)
    (route,) = model.route([QUERY], 3)
    assert [match.token for match in explanation.tokens] == route.tokens
    assert [i for i, match in enumerate(explanation.tokens) if match.routed] == sorted(route.selected)
    shares = torch.softmax(torch.from_numpy(route.scores), 0).tolist()
    assert [match.share for match in explanation.tokens] == pytest.approx(shares, abs=1e-6)


def test_pieces_of_a_word_point_at_the_whole_word(model: FastLaneModel) -> None:
    assert len(model.encode_queries(["walrus"])[0]) > 1
    explanation = explain(model, "walrus", "A walrus, they say.\nThe walrus is an operator.")
    check_spans(explanation)
    assert {match.matched for match in explanation.tokens if match.query_span} == {"walrus"}
    assert {match.query_span for match in explanation.tokens} == {(0, 6), None}  # None: [CLS] and [SEP]
    assert {span.text for span in explanation.spans} == {"walrus"}


def test_neighbouring_words_are_joined(model: FastLaneModel) -> None:
    explanation = explain(model, "assignment expressions", "PEP 572 adds assignment expressions to Python.")
    assert explanation.spans[0].text == "assignment expressions"
    assert explanation.spans[0].weight > 0.9
    apart = explain(model, "assignment expressions", "An assignment.\nThen there are expressions.")
    assert {span.text for span in apart.spans} == {"assignment", "expressions"}


@pytest.mark.parametrize("text", ODD, ids=ascii)
@pytest.mark.parametrize("query", ["café code", "🙂 行", ""], ids=ascii)
def test_odd_texts_keep_their_spans(model: FastLaneModel, query: str, text: str) -> None:
    explanation = explain(model, query, text)
    check_spans(explanation)
    assert explanation._repr_html_()


def test_accents_and_case_are_part_of_the_span(model: FastLaneModel) -> None:
    explanation = explain(model, "naive facade", "see\tthe NAÏVE façade!")
    assert explanation.spans[0].text == "NAÏVE façade"


def test_what_is_cut_off_is_no_evidence(model: FastLaneModel) -> None:
    """Only the start of a text longer than the model is told to read can have matched."""
    text = "Some filler words here. " * 400 + "walrus"
    explanation = explain(model, "walrus filler", text)
    check_spans(explanation)
    assert "walrus" in {match.matched for match in explanation.tokens}
    with pytest.warns(FastLaneWarning, match="1 document is longer than 512 tokens"):
        explanation = explain(model.bounded(512), "walrus filler", text)
    check_spans(explanation)
    assert "walrus" not in {match.matched for match in explanation.tokens}
    assert max(span.end for span in explanation.spans) < len(text) / 2


def test_pruned_documents_keep_their_spans(index: FastLaneIndex, hit: Hit) -> None:
    """A document router drops tokens, so the same word is in the text more often than among its tokens."""
    pruned = FastLaneModel.from_pretrained(document_budget=16)
    (kept,) = pruned.encode_documents([hit.text])
    assert len(kept) == 16
    explanation = explain(pruned, QUERY, hit.text)
    check_spans(explanation)
    (query,) = pruned.encode_queries([QUERY])
    expected = (query @ kept.T).max(dim=1).values
    assert [match.similarity for match in explanation.tokens] == pytest.approx(expected.tolist(), abs=1e-3)
    words = set(hit.text.lower().replace("(", " ").replace(")", " ").replace(",", " ").split())
    assert {match.matched.lower() for match in explanation.tokens} <= words


def test_the_index_explains_by_id_and_by_hit(index: FastLaneIndex, hit: Hit) -> None:
    by_id = index.explain(QUERY, LINE_LENGTH, route_k=3)
    assert by_id == index.explain(QUERY, hit, route_k=3) == hit.explain()
    assert all(match.routed == bool(match.query_span) for match in index.explain(QUERY, hit, route_k="all").tokens)
    assert sum(match.routed for match in index.explain(QUERY, hit, route_k=1).tokens) == 1
    with pytest.raises(InvalidInputError, match="no document with the id 'absent'"):
        index.explain(QUERY, "absent")
    with pytest.raises(InvalidInputError, match="query"):
        index.explain(7, hit)  # type: ignore[arg-type]


def test_a_copy_says_what_to_do_instead(index: FastLaneIndex, hit: Hit) -> None:
    by_hand = Hit(hit.id, hit.score, hit.text, hit.metadata)
    pickled = pickle.loads(pickle.dumps(hit))
    for other in (pickled, copy.deepcopy(hit), dataclasses.replace(hit), by_hand):
        assert other == hit
        assert repr(other) == repr(hit)
        assert dataclasses.asdict(other) == dataclasses.asdict(hit)
        with pytest.raises(FastLaneError, match=r"the hit 'pep8-6-0' does not know its search.*index\.explain\("):
            other.explain()
        assert index.explain(QUERY, other).text == hit.text
    assert set(dataclasses.asdict(hit)) == {"id", "score", "text", "metadata"}


def test_nothing_is_computed_before_it_is_asked_for(index: FastLaneIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def noting(name: str) -> Any:
        original = getattr(FastLaneModel, name)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*arguments, **options)

        return wrapped

    for name in ("route", "encode_queries", "encode_documents", "encode_routed"):
        monkeypatch.setattr(FastLaneModel, name, noting(name))
    hits = index.search(QUERY, k=2)
    assert calls == ["encode_routed"]
    hits[0].explain()
    assert len(calls) > 1


def test_a_hit_outlives_its_index_and_does_not_keep_it(model: FastLaneModel, tmp_path: Path) -> None:
    index = FastLaneIndex.create(tmp_path / "index", model=model)
    index.add(["Limit all lines to 79 characters."], ids=["a"])
    (hit,) = index.search(QUERY)
    gone = weakref.ref(index)
    del index
    gc.collect()
    assert gone() is None
    assert hit.explain().spans[0].text.strip(".") in {"lines", "lines to", "characters"}
    with FastLaneIndex.open(tmp_path / "index", model=model) as again:
        again.add(["The writer's lock is free."])


def test_a_model_without_such_a_tokenizer_is_named() -> None:
    class Words:
        name, fingerprint, dim = "words", "words", 4

        def encode_documents(self, texts: list[str], **_: Any) -> list[Any]:
            return [torch.eye(4)[: len(text.split())] for text in texts]

        def encode_routed(self, texts: list[str], **_: Any) -> list[Any]:
            from fastlane_rag.model import RoutedQuery

            return [RoutedQuery(torch.eye(4)[:1], torch.zeros(1), ["word"]) for _ in texts]

    with FastLaneIndex.create(model=Words()) as index:
        index.add(["one two"])
        (hit,) = index.search("one")
        with pytest.raises(ModelError, match="words cannot explain: it has no fast tokenizer"):
            hit.explain()
