"""An encoded query, and what encodes documents, as a search sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["DocumentEncoder", "EncodedQuery"]


class DocumentEncoder(Protocol):
    """A model, as variety among hits needs it; `fastlane_rag.model.FastLaneModel` is one."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    def encode_documents(self, texts: Sequence[str], /) -> Sequence[Tensor]:
        """The (L, dim) float32 token embeddings of each text."""
        ...


class EncodedQuery(Protocol):
    """What a model makes of a query; `fastlane_rag.model.RoutedQuery` is one."""

    tokens: list[str]
    """The Lq token strings."""

    embeddings: Tensor
    """(Lq, dim) float32, L2-normalised token embeddings."""

    @property
    def scores(self) -> Tensor:
        """(Lq,) float32 router scores; ``-inf`` where a token may not be routed."""
        ...

    @property
    def weights(self) -> Tensor:
        """(Lq,) float32, at least 0, with the mean 1: how much each token counts where all are compared."""
        ...

    def select(self, k: int | Literal["auto"] | None, *, ordered: bool = True) -> Tensor:
        """(k,) int64 positions of the routed tokens, best first; in any order where `ordered` is False."""
        ...

    def in_context(self, k: int) -> bool:
        """Whether k routed tokens are compared by other rows than their own embeddings."""
        ...

    def compared(self, selected: Tensor) -> Tensor:
        """(k, dim) float32, L2-normalised: the rows by which the tokens at these positions are compared."""
        ...

    def to_cpu(self) -> Self:
        """The query on the CPU, where the index is; itself if it is there."""
        ...
