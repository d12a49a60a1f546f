"""A deterministic stand-in for the encoder, for tests that write thousands of documents or are killed.

A token is a word, its embedding a unit vector drawn from a generator seeded with the word; long words are
routed first. Nothing here needs a trained model, so a child process starts in a fraction of a second.
"""

import math
import re
import zlib
from collections import Counter
from dataclasses import dataclass

import numpy as np

DIM = 16


def word_vector(word: str) -> np.ndarray:
    vector = np.random.default_rng(zlib.crc32(word.encode("utf-8", "surrogatepass"))).standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def words(text: str) -> list[str]:
    return text.split() or [""]


def embed(text: str) -> np.ndarray:
    return np.stack([word_vector(word) for word in words(text)])


def exact_score(query: str, document: str) -> float:
    """SumMaxSim in float64 over the rows as an index stores them, half precision."""
    rows = embed(document).astype(np.float16).astype(np.float64)
    return math.fsum((embed(query).astype(np.float64) @ rows.T).max(1))


@dataclass(frozen=True)
class RoutedWords:
    embeddings: object
    scores: object
    tokens: list[str]

    @property
    def weights(self):
        return self.embeddings.new_ones(len(self.embeddings))

    def to_cpu(self):
        return self

    def select(self, k, *, ordered=True):
        import torch

        order = torch.argsort(self.scores, descending=True, stable=True)
        if k == "auto":
            return order[:2]
        return order if k is None else order[:k]

    def in_context(self, k):
        return False

    def compared(self, selected):
        return self.embeddings[selected]


class WordModel:
    """The interface of a model that an index needs; counts the calls that encode documents."""

    name = "words"
    dim = DIM

    def __init__(self, fingerprint: str = "words-1") -> None:
        self.fingerprint = fingerprint
        self.encoded = 0

    def encode_documents(self, texts, *, batch_size=None, show_progress=None):
        self.encoded += len(texts)
        return [embed(text) for text in texts]

    def encode_routed(self, texts, *, batch_size=None):
        import torch

        return [
            RoutedWords(
                torch.from_numpy(embed(text)),
                torch.tensor([float(len(word)) for word in words(text)]),
                words(text),
            )
            for text in texts
        ]


def bm25_scores(query: str, documents: dict[str, str]) -> dict[str, float]:
    """BM25 (k1 = 0.9, b = 0.4, Lucene's) of ASCII texts, in float64."""
    counted = {id_: _counted(text) for id_, text in documents.items()}
    mean = sum(words.total() for words in counted.values()) / max(len(counted), 1) or 1.0
    scores = dict.fromkeys(documents, 0.0)
    for word, often in _counted(query).items():
        have = sum(word in words for words in counted.values())
        weight = often * math.log(1 + (len(counted) - have + 0.5) / (have + 0.5))
        for id_, words in counted.items():
            scores[id_] += weight * words[word] / (words[word] + 0.9 * (0.6 + 0.4 * words.total() / mean))
    return scores


def hybrid_scores(query: str, documents: dict[str, str]) -> dict[str, float]:
    """The score of each document in a hybrid search with all query tokens."""
    of_words = bm25_scores(query, documents)
    unit = 0.15 * len(words(query)) / (max(of_words.values(), default=0) or 1)
    return {id_: exact_score(query, text) + unit * of_words[id_] for id_, text in documents.items()}


def _counted(text: str) -> Counter[str]:
    found = re.findall("[a-z0-9]+", text.lower())
    return Counter(word[:7] if word.isalpha() else word for word in found)
