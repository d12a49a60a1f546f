"""The model of an index on a server: it encodes there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from fastlane_rag.lengths import check_batch_size, check_texts
from fastlane_rag.remote.encoded import received_query
from fastlane_rag.remote.messages import Encoded, EncodedQueryMessage, EncodeRequest, ModelInfo, StatsMessage, rows_of
from fastlane_rag.remote.transport import Call, Transport

if TYPE_CHECKING:
    from torch import Tensor

    from fastlane_rag.search.query import EncodedQuery

__all__ = ["RemoteModel"]

_TEXTS = 256  # a request


class RemoteModel:
    """What encodes the documents and queries of an index on a server.

    Args:
        transport: to the index.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._info: ModelInfo | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self._known().name

    @property
    def dim(self) -> int:
        """Size of a token embedding."""
        return self._known().dim

    @property
    def fingerprint(self) -> str:
        """What tells the model from others."""
        return self._known().fingerprint

    @property
    def takes_images(self) -> bool:
        """Whether documents may be images."""
        return self._known().takes_images

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[Tensor]:
        """The (L, dim) float32 token embeddings of each text; the server chooses how many it encodes at once."""
        import torch

        encoded = self._encoded(texts, "document", batch_size)
        return [torch.from_numpy(rows_of(one.embeddings)) for one in encoded]

    def encode_queries(self, texts: Sequence[str], *, batch_size: int | None = None) -> list[Tensor]:
        """The (L, dim) float32 token embeddings of each query."""
        return [one.embeddings for one in self.encode_routed(texts, batch_size=batch_size)]

    def encode_routed(self, texts: Sequence[str], *, batch_size: int | None = None) -> list[EncodedQuery]:
        """The queries with what the router says of their tokens."""
        return [received_query(one) for one in self._encoded(texts, "query", batch_size)]

    def _encoded(
        self, texts: Iterable[str], kind: Literal["query", "document"], batch_size: int | None
    ) -> Iterator[EncodedQueryMessage]:
        check_batch_size(batch_size)
        checked = check_texts(texts)
        for start in range(0, len(checked), _TEXTS):
            asked = EncodeRequest(texts=checked[start : start + _TEXTS], kind=kind, packed=True)
            yield from self._transport.ask(Call("POST", "/encode", Encoded, asked)).encoded

    def _known(self) -> ModelInfo:
        if self._info is None:
            self._info = self._transport.ask(Call("GET", "", StatsMessage)).model
        return self._info
