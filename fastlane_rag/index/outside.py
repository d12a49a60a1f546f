"""Token embeddings made elsewhere: by any late-interaction model, of any modality.

An index takes them by `add_embeddings` and `search_embeddings`, or by an object that encodes (`Encoder`). Such a model
has no router here, so all tokens of a query gather.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import InvalidInputError, ModelError
from fastlane_rag.index.checks import prepare
from fastlane_rag.lengths import check_list, kind
from fastlane_rag.storage.tables import Entry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Encoder", "OutsideModel", "PlainQuery", "checked_rows", "prepare_rows"]

UNNAMED = "another model"
# How far the length of a row may be from 1: bfloat16 rounds by up to 2**-9 a number.
_NORM_TOLERANCE = 0.02


class Encoder(Protocol):
    """An object that encodes, as `model=` takes it."""

    dim: int
    """Size of a token embedding."""

    name: str
    """Of the model, which an index remembers: an index opened with another name is refused."""

    def encode_documents(self, texts: Sequence[str]) -> Sequence[Any]:
        """One (Ld, dim) array or tensor for each text, its rows L2-normalised."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> Sequence[Any]:
        """One (Lq, dim) array or tensor for each text, its rows L2-normalised."""
        ...


class OutsideModel:
    """Stands where an index has its model, for embeddings made elsewhere.

    Args:
        dim: size of a token embedding.
        name: of the model that makes them.
        encoder: encodes texts; None where whoever holds the index brings embeddings only.

    Raises:
        InvalidInputError: `dim` is no whole number from 1, or the name is no text.
    """

    def __init__(self, dim: int, name: str = UNNAMED, encoder: Encoder | None = None) -> None:
        if isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1:
            raise InvalidInputError(f"dim must be a whole number from 1, the size of a token embedding, not {dim!r}")
        if not isinstance(name, str):
            raise InvalidInputError(f"the name of the model that makes the embeddings must be a str, not {kind(name)}")
        self.dim = int(dim)
        self.name = name
        self._encoder = encoder

    @classmethod
    def of(cls, meta: Mapping[str, str]) -> OutsideModel | None:
        """The model of an index by what its catalogue says; None where it is one that runs here."""
        found = cls(int(meta["dim"]), meta["model"])
        return found if found.fingerprint == meta["fingerprint"] else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of name and dimensions, which is all that is known here."""
        return hashlib.sha256(json.dumps(["outside", self.name, self.dim]).encode()).hexdigest()

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[Tensor]:
        """The (Ld, dim) float32 rows of each text, checked.

        Raises:
            InvalidInputError: nobody here encodes, or what came cannot be stored.
        """
        import torch

        rows = self._listed(self._asked("add_embeddings(rows, ids)").encode_documents(list(texts)), "encode_documents")
        return [
            torch.from_numpy(checked_rows(one, self.dim, f"the embeddings of document {i}"))
            for i, one in enumerate(rows)
        ]

    def encode_queries(self, texts: Sequence[str]) -> list[Tensor]:
        """The (Lq, dim) float32 rows of each text, checked."""
        return [query.embeddings for query in self.encode_routed(texts)]

    def encode_routed(self, texts: Sequence[str]) -> list[PlainQuery]:
        """The queries, whose tokens all gather.

        Raises:
            InvalidInputError: nobody here encodes, or what came cannot be searched with.
        """
        rows = self._listed(self._asked("search_embeddings(rows)").encode_queries(list(texts)), "encode_queries")
        return [PlainQuery.of(one, self.dim, f"the embeddings of query {i}") for i, one in enumerate(rows)]

    def _listed(self, given: Any, method: str) -> Iterable[Any]:
        if not isinstance(given, Iterable):
            raise ModelError(f"{method} of {self.name!r} must give an array for each text in a list, not {kind(given)}")
        return given

    def _asked(self, instead: str) -> Encoder:
        if self._encoder is None:
            raise InvalidInputError(
                f"this index holds embeddings of {self.name!r}, which encodes elsewhere, so texts cannot be encoded "
                f"here: call {instead}, or open it with model= an object that encodes (dim, name, encode_documents, "
                "encode_queries)"
            )
        return self._encoder

    def __repr__(self) -> str:
        return f"OutsideModel({self.name!r}, dim={self.dim})"


@dataclass(slots=True)
class PlainQuery:
    """A query of given token embeddings, without a router: an `EncodedQuery` whose tokens all gather.

    Attributes:
        embeddings: (Lq, dim) float32, L2-normalised, on the CPU.
        tokens: names for its tokens.
    """

    embeddings: Tensor
    tokens: list[str] = field(repr=False)

    @classmethod
    def of(cls, rows: Any, dim: int, what: str = "the query") -> PlainQuery:
        """A query of an (Lq, dim) array or tensor.

        Raises:
            InvalidInputError: the rows have another shape, are not finite or not normalised.
        """
        import torch

        checked = checked_rows(rows, dim, what)
        return cls(torch.from_numpy(checked), [f"token {i}" for i in range(len(checked))])

    @classmethod
    def without_tokens(cls) -> PlainQuery:
        """What stands for a query that no model has encoded, in the lane of words."""
        import torch

        return cls(torch.zeros(0, 0), [])

    @property
    def scores(self) -> Tensor:
        """(Lq,) float32 zeros: no router prefers a token."""
        return self.embeddings.new_zeros(len(self.embeddings))

    @property
    def weights(self) -> Tensor:
        """(Lq,) float32 ones: each token counts the same."""
        return self.embeddings.new_ones(len(self.embeddings))

    def select(self, k: object, *, ordered: bool = True) -> Tensor:
        """The positions of all tokens (int64), however many are asked for."""
        import torch

        return torch.arange(len(self.embeddings))

    def in_context(self, k: int) -> bool:
        """False: tokens are compared by their own rows."""
        return False

    def compared(self, selected: Tensor) -> Tensor:
        """(k, dim) float32: the rows at these positions."""
        return self.embeddings[selected]

    def to_cpu(self) -> PlainQuery:
        """The query itself."""
        return self


def prepare_rows(
    rows: Iterable[Any],
    dim: int,
    ids: Iterable[str | None] | None,
    texts: Iterable[str] | None,
    metadatas: Iterable[Mapping[str, Any] | None] | None,
) -> tuple[list[str], list[Entry], dict[str, NDArray[np.float32]]]:
    """Check the arguments of `add_embeddings`.

    Returns:
        What `prepare` returns, and the rows of each id: of a repeated one the last.

    Raises:
        InvalidInputError: what is wrong, and at which position.
    """
    given = [checked_rows(one, dim, f"rows[{i}]") for i, one in enumerate(check_list("rows", rows))]
    final, entries = prepare([""] * len(given) if texts is None else texts, ids, metadatas)
    if len(final) != len(given):
        raise InvalidInputError(f"{len(given)} rows but {len(final)} texts")
    return final, entries, dict(zip(final, given, strict=True))


def checked_rows(rows: Any, dim: int, what: str) -> NDArray[np.float32]:
    """Token embeddings as a new (L, dim) float32 array.

    Args:
        rows: an array or tensor of any floating type, on any device, or nested lists.
        dim: of the index.
        what: they are, for messages.

    Raises:
        InvalidInputError: they have another shape, no row, NaN or infinite values, or rows whose length is not 1.
    """
    try:
        plain = rows.detach().float().cpu().numpy() if hasattr(rows, "detach") else rows
        found = np.array(plain, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{what} must be a matrix of numbers, not {kind(rows)} ({error})") from error
    if found.ndim != 2 or not len(found) or found.shape[1] != dim:
        raise InvalidInputError(f"{what} must have the shape (tokens, {dim}) with a token at least, not {found.shape}")
    norms = np.linalg.norm(found, axis=1)
    if not np.isfinite(norms).all():
        raise InvalidInputError(f"{what}: row {int(np.argmin(np.isfinite(norms)))} holds NaN or infinite values")
    far = np.abs(norms - 1)
    worst = int(far.argmax())
    if far[worst] > _NORM_TOLERANCE:
        raise InvalidInputError(
            f"{what}: row {worst} has the length {norms[worst]:.3g} instead of 1. SumMaxSim compares directions: leave "
            "out rows of padding, and divide each other row by its length"
        )
    return found
