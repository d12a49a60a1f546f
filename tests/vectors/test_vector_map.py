"""Fitted vectors of documents: near SumMaxSim on real text, the same however they are made, restored by their bytes."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from fastlane_rag.errors import IndexFormatError
from fastlane_rag.scoring import maxsim
from fastlane_rag.vectors.fit import fit
from fastlane_rag.vectors.map import VectorMap

QUERIES = (
    "how do I annotate a function that returns several types",
    "when is a module's loader chosen",
    "which release dropped implicit relative imports",
    "what does the walrus operator do in a comprehension",
    "who decides on the acceptance of a proposal",
)


def packed(matrices):
    return np.concatenate(matrices).astype(np.float16), np.cumsum([0, *map(len, matrices)])


@pytest.fixture(scope="module")
def documents(model, passages):
    """Token rows of 240 real passages, and their offsets."""
    return packed([rows.numpy() for rows in model.encode_documents([one["text"] for one in passages[:240]])])


@pytest.fixture(scope="module")
def fitted(documents):
    rows, offsets = documents
    sample = rows[np.random.default_rng(0).choice(len(rows), 4096, replace=False)]
    return fit(sample, rows, offsets)


@pytest.fixture(scope="module")
def queries(model):
    return [query.float() for query in model.encode_queries(list(QUERIES))]


def exact(query, documents):
    rows, offsets = documents
    return maxsim(query, torch.from_numpy(rows), document_offsets=torch.from_numpy(offsets))[0].numpy()


def approximate(fitted, query, vectors):
    vector, constant = fitted.query(query)
    return vectors.levels.astype(np.float32) @ vector * vectors.scales + constant


def found(scores, true, depth):
    """Share of the ten best that are among the first `depth` by these scores."""
    return len({*np.argsort(-scores)[:depth]} & {*np.argsort(-true)[:10]}) / 10


def test_products_are_near_summaxsim_where_mean_vectors_are_not(documents, fitted, queries):
    rows, offsets = documents
    vectors = fitted.documents(rows, offsets)
    means = np.stack([rows[a:b].astype(np.float32).mean(0) for a, b in pairwise(offsets)])
    recalls = []
    for query in queries:
        true, near = exact(query, documents), approximate(fitted, query, vectors)
        assert np.abs(near - true).mean() / len(query) < 0.05
        by_mean = means @ query.numpy().mean(0)
        recalls.append((found(near, true, 20), found(by_mean, true, 20)))
        assert np.corrcoef(near, true)[0, 1] > max(0.8, np.corrcoef(by_mean, true)[0, 1])
    of_vectors, of_means = np.mean(recalls, 0)
    assert of_vectors > of_means
    assert of_vectors > 0.75


def test_documents_outside_the_fit_have_vectors_too(documents, queries):
    """Fitted on two of three documents, the vectors of the third rank as well as SumMaxSim lets expect."""
    rows, offsets = documents
    matrices = [rows[a:b] for a, b in pairwise(offsets)]
    known = packed([one for n, one in enumerate(matrices) if n % 3])
    new = packed(matrices[::3])
    fitted = fit(np.random.default_rng(1).permutation(known[0])[:4096], *known)
    vectors = fitted.documents(*new)
    near = np.stack([approximate(fitted, query, vectors) for query in queries])
    true = np.stack([exact(query, new) for query in queries])
    assert np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(near, true, strict=True)]) > 0.8


def test_a_vector_depends_on_its_document_alone(documents, fitted):
    rows, offsets = documents
    whole = fitted.documents(rows, offsets)
    part = fitted.documents(rows[offsets[7] : offsets[20]], offsets[7:21] - offsets[7])
    assert len(part) == 13
    assert np.abs(part.levels.astype(int) - whole.levels[7:20]).max() <= 1
    assert part.scales == pytest.approx(whole.scales[7:20], rel=1e-4)
    assert len(fitted.documents(rows[:0], np.zeros(1, np.int64))) == 0


def test_the_same_rows_give_the_same_map(documents, fitted):
    rows, offsets = documents
    sample = rows[np.random.default_rng(0).choice(len(rows), 4096, replace=False)]
    assert fit(sample, rows, offsets).name == fitted.name


def test_bytes_restore_the_map(documents, fitted, queries):
    again = VectorMap.from_bytes(fitted.to_bytes())
    assert again.name == fitted.name
    assert (again.dim, again.size) == (fitted.dim, fitted.size)
    assert np.array_equal(again.query(queries[0])[0], fitted.query(queries[0])[0])


def test_damaged_bytes_are_refused(fitted):
    data = fitted.to_bytes()
    newer = data.replace(b'"fastlane-vector-map":"1"', b'"fastlane-vector-map":"2"')
    with pytest.raises(IndexFormatError, match="version 2"):
        VectorMap.from_bytes(newer)
    for bad in (data[:100], b"", data.replace(b'"means"', b'"moans"')):
        with pytest.raises(IndexFormatError, match="damaged"):
            VectorMap.from_bytes(bad)


def test_few_rows_fit(documents):
    """One document, and fewer tokens than a vector usually has dimensions."""
    rows, offsets = documents
    few = fit(rows[: offsets[1]], rows[: offsets[1]], offsets[:2])
    assert len(few.documents(rows, offsets)) == len(offsets) - 1


@pytest.mark.parametrize("bad", ["none", "infinite"])
def test_rows_that_cannot_be_fitted(documents, bad):
    rows, offsets = documents
    sample = rows[:0] if bad == "none" else np.full((3, rows.shape[1]), np.inf, np.float16)
    with pytest.raises(ValueError, match="fitted on finite rows"):
        fit(sample, rows, offsets)
