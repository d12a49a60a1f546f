"""A deterministic stand-in for the encoder, for tests that write thousands of documents or are killed.

A token is a word, its embedding a unit vector drawn from a generator seeded with the word; long words are
routed first. Nothing here needs a trained model, so a child process starts in a fraction of a second.
"""

import math
import zlib
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

    def select(self, k):
        import torch

        order = torch.argsort(self.scores, descending=True, stable=True)
        if k == "auto":
            return order[:2]
        return order if k is None else order[:k]


class WordModel:
    """What an index asks of a model, and how often it was asked to encode documents."""

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
