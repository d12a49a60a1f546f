"""Prompts, asymmetric modules, truncated dimensions and XTR: each works as in sentence-transformers, or is refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Router, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from torch import Tensor

from fastlane_rag import FastLaneIndex, FastLaneModel
from fastlane_rag.errors import InvalidInputError, ModelError, ModelMismatchError
from fastlane_rag.rerank import rerank
from fastlane_rag.scoring import maxsim

QUERIES = ["what is the capital of france?", "import error in python"]
DOCUMENTS = ["paris is the capital of france.", "the river in the largest city of the world", "python import error"]
PLAIN = {"dtype": "float32", "device": "cpu", "backend": "torch"}


def opened(folder: Path | MultiVectorEncoder, **options: object) -> FastLaneModel:
    given = PLAIN if isinstance(folder, Path) else {}
    return FastLaneModel.from_pretrained(folder, **{**given, **options})  # type: ignore[arg-type]


def changed(folder: Path, source: Path, **values: object) -> Path:
    """A copy of a model whose sentence-transformers configuration says something else."""
    shutil.copytree(source, folder)
    config = folder / "config_sentence_transformers.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
    return folder


def same(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, torch.nn.functional.normalize(other.float(), dim=-1), atol=1e-5, rtol=1e-4)


PROMPTS = {
    "both": {"prompts": {"query": "what is ", "document": "the city "}},
    "query-alone": {"prompts": {"query": "what is "}},
    "other-names": {"prompts": {"query": "what is ", "passage": "the city ", "corpus": "the world "}},
    "default": {"prompts": {"ask": "what is "}, "default_prompt_name": "ask"},
    "default-and-own": {"prompts": {"ask": "how ", "query": "what is "}, "default_prompt_name": "ask"},
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts_are_those_of_the_library(checkpoints: dict[str, Path], tmp_path: Path, case: str) -> None:
    """Of a checkpoint's configuration, in one batch, in several, and in windows."""
    folder = changed(tmp_path / "model", checkpoints["multi-vector"], **PROMPTS[case])
    model, theirs = opened(folder), MultiVectorEncoder(str(folder), device="cpu")
    for size in (1, 32):
        same(model.encode_queries(QUERIES, batch_size=size), theirs.encode_query(QUERIES))
        same(model.encode_documents(DOCUMENTS, batch_size=size), theirs.encode_document(DOCUMENTS))


@pytest.mark.parametrize("kept", [("ask", "passage", "corpus"), ("ask", "corpus"), ("ask",)])
def test_prompts_under_other_names_are_found_in_the_librarys_order(
    checkpoints: dict[str, Path], kept: tuple[str, ...]
) -> None:
    """An encoder without the prompts "query" and "document" takes "passage", "corpus", and then the default one."""
    theirs = MultiVectorEncoder(str(checkpoints["multi-vector"]), device="cpu", default_prompt_name=None)
    every = {"ask": "what is ", "passage": "the city ", "corpus": "the world "}
    model = opened(theirs)
    plain = model.fingerprint
    for encoder in (theirs, model.encoder):
        encoder.prompts = {name: every[name] for name in kept}
        encoder.default_prompt_name = "ask"
    same(model.encode_queries(QUERIES), theirs.encode_query(QUERIES))
    same(model.encode_documents(DOCUMENTS), theirs.encode_document(DOCUMENTS))
    same(model.encode_documents(DOCUMENTS, batch_size=1), theirs.encode_document(DOCUMENTS))
    again = opened(theirs)
    assert again.fingerprint != plain
    with FastLaneIndex.create(model=model) as index:
        index.add(DOCUMENTS)
        hit = index.search(QUERIES[0], k=1)[0]
        assert all(match.span is None or hit.text[slice(*match.span)] for match in hit.explain().tokens)


def asymmetric_heads(bert: str) -> MultiVectorEncoder:
    """One transformer, and a projection of its own for queries and for documents."""
    torch.manual_seed(8)
    heads = [Dense(32, 16, bias=False, activation_function=None, module_input_name="token_embeddings") for _ in "qd"]
    router = Router.for_query_document(query_modules=[heads[0]], document_modules=[heads[1]])
    ends = [MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    return MultiVectorEncoder(modules=[Transformer(bert), router, *ends], device="cpu")


def test_projections_of_their_own_for_queries_and_documents_work(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    theirs = asymmetric_heads(str(checkpoints["plain-encoder"]))
    theirs.save(str(tmp_path / "model"))
    for model in (opened(theirs), opened(tmp_path / "model")):
        same(model.encode_queries(QUERIES), theirs.encode_query(QUERIES))
        same(model.encode_documents(DOCUMENTS), theirs.encode_document(DOCUMENTS))
        assert model.dim == 16
    other = opened(asymmetric_heads(str(checkpoints["plain-encoder"])))
    assert other.fingerprint == model.fingerprint
    opened(tmp_path / "model").save(tmp_path / "saved")
    same(opened(tmp_path / "saved").encode_queries(QUERIES), theirs.encode_query(QUERIES))
    with FastLaneIndex.create(model=model) as index:
        index.add(DOCUMENTS)
        assert len(index.search(QUERIES[0], k=3)) == 3


class Asymmetric:
    """The object of docs/encoding.md."""

    def __init__(self, encoder: MultiVectorEncoder, name: str) -> None:
        self.encoder, self.name = encoder, name
        self.dim = int(encoder.get_embedding_dimension() or 0)

    def encode_queries(self, texts: Sequence[str]) -> list[Tensor]:
        return self.encoder.encode_query(list(texts), normalize_embeddings=True)

    def encode_documents(self, texts: Sequence[str]) -> list[Tensor]:
        return self.encoder.encode_document(list(texts), normalize_embeddings=True)


def test_encoders_of_their_own_are_refused_and_work_as_an_object(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Queries by one transformer, documents by another."""
    torch.manual_seed(9)
    sides = []
    for _ in "qd":
        head = Dense(32, 16, bias=False, activation_function=None, module_input_name="token_embeddings")
        sides.append([Transformer(str(checkpoints["plain-encoder"])), head])
    router = Router.for_query_document(query_modules=sides[0], document_modules=sides[1])
    theirs = MultiVectorEncoder(modules=[router, MultiVectorMask()], device="cpu")
    theirs.save(str(tmp_path / "model"))
    for given in (theirs, tmp_path / "model"):
        with pytest.raises(ModelError, match=r"begins with a Router to query, document.*object that encodes"):
            opened(given)
    with FastLaneIndex.create(model=Asymmetric(theirs, "two encoders")) as index:
        index.add(DOCUMENTS)
        hits = index.search(QUERIES[0], k=3)
    rows = [torch.nn.functional.normalize(one, dim=-1) for one in theirs.encode_document(DOCUMENTS)]
    query = torch.nn.functional.normalize(theirs.encode_query(QUERIES)[0], dim=-1)
    best = max(range(3), key=lambda i: float(maxsim(query, rows[i][None])))
    assert hits[0].text == DOCUMENTS[best]


@pytest.mark.parametrize("name", ["xtr", "meanmaxsim"])
def test_other_scorings_of_a_checkpoint_are_scored_by_full_sums(
    checkpoints: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """An XTR model's candidates have all their tokens here, so nothing is imputed."""
    model = opened(changed(tmp_path / "model", checkpoints["multi-vector"], similarity_fn_name=name))
    with FastLaneIndex.create(model=model) as index:
        index.add(DOCUMENTS)
        hits = index.search(QUERIES[0], k=3, weighted=False)
    query = model.encode_queries(QUERIES)[0]
    for hit in hits:
        (rows,) = model.encode_documents([hit.text])
        assert hit.score == pytest.approx(float(maxsim(query, rows[None])), abs=0.01)


def test_truncated_embeddings_are_the_first_dimensions_normalised(checkpoints: dict[str, Path]) -> None:
    whole = opened(checkpoints["multi-vector"])
    small = opened(checkpoints["multi-vector"], truncate_dim=6)
    assert (whole.dim, small.dim, small.truncate_dim) == (16, 6, 6)
    same(small.encode_queries(QUERIES), [row[:, :6] for row in whole.encode_queries(QUERIES)])
    same(small.encode_documents(DOCUMENTS), [row[:, :6] for row in whole.encode_documents(DOCUMENTS)])
    long = [" ".join(DOCUMENTS * 20)]
    same(small.encode_documents(long), [row[:, :6] for row in whole.encode_documents(long)])
    assert small.fingerprint != whole.fingerprint
    assert whole.truncated(6).fingerprint == small.fingerprint
    assert small.truncated(None).fingerprint == whole.truncated(16).fingerprint == whole.fingerprint
    assert opened(whole.encoder, truncate_dim=6).fingerprint == small.fingerprint
    assert rerank(QUERIES[0], DOCUMENTS, model=small)


def test_views_in_context_are_truncated_as_well(model: FastLaneModel) -> None:
    """The bundled model's router adds shifts of its full size."""
    small = model.truncated(64)
    (query,) = small.encode_routed(QUERIES[:1])
    (whole,) = model.encode_routed(QUERIES[:1])
    assert query.views is not None
    assert whole.views is not None
    same([query.views], [whole.views[:, :64]])
    assert query.compared(query.select(2)).shape == (2, 64)


def test_an_index_remembers_its_dimensions(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Opened by the model's name, or with a whole model, it goes on with them; another number is refused."""
    path, folder = tmp_path / "index", str(checkpoints["multi-vector"])
    with FastLaneIndex.open_or_create(path, model=folder, truncate_dim=6) as index:
        index.add(DOCUMENTS)
        assert index.dim == index.stats().dim == 6
        found = [hit.id for hit in index.search(QUERIES[0])]
        assert index.explain(QUERIES[0], found[0]).tokens
    whole = FastLaneModel.from_pretrained(folder)
    for given in (folder, whole, whole.truncated(6)):
        with FastLaneIndex.open(path, model=given) as index:
            assert [hit.id for hit in index.search(QUERIES[0])] == found
    with FastLaneIndex.open_or_create(path, model=folder) as index:
        index.add(["paris"])
    with pytest.raises(ModelMismatchError, match=r"truncate_dim=6 \(6 dimensions\).*truncate_dim=8 \(8\)"):
        FastLaneIndex.open(path, model=whole.truncated(8))
    with pytest.raises(ModelMismatchError, match="truncate_dim=8"):
        FastLaneIndex.open_or_create(path, model=folder, truncate_dim=8)
    FastLaneIndex.create(tmp_path / "whole", model=folder).close()
    with pytest.raises(ModelMismatchError, match=r"truncate_dim=None \(16 dimensions\)"):
        FastLaneIndex.open(tmp_path / "whole", model=whole.truncated(6))


@pytest.mark.parametrize("wrong", [0, -1, 17, 6.5, True, "6"])
def test_dimensions_that_there_are_not_are_refused(checkpoints: dict[str, Path], wrong: object) -> None:
    with pytest.raises(InvalidInputError, match=r"truncate_dim must be a whole number from 1 to 16"):
        FastLaneIndex.create(model=str(checkpoints["multi-vector"]), truncate_dim=wrong)  # type: ignore[arg-type]


def test_an_object_that_encodes_cannot_be_told_its_dimensions() -> None:
    class Encoder:
        dim, name = 4, "other"
        encode_documents = encode_queries = None

    with pytest.raises(InvalidInputError, match=r"truncate_dim=2: the Encoder"):
        FastLaneIndex.create(model=Encoder(), truncate_dim=2)
