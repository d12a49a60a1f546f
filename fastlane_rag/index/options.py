"""What an index is made with: every option once, with its default, its check and its documentation.

`IndexOptions` is the list. `FastLaneIndex.create`, `build` and `open_or_create` and the adapters take options as
keyword arguments, and make one `IndexOptions` of them. A new option is a field there, and its type in `IndexKeywords`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypedDict, cast

from fastlane_rag.codecs.policy import check_codec
from fastlane_rag.errors import InvalidInputError, ModelMismatchError
from fastlane_rag.index.encoding import budget_of, model_device, open_model
from fastlane_rag.lengths import check_max_document_tokens, check_text, check_texts
from fastlane_rag.search.engines.choice import check_device, is_cuda
from fastlane_rag.search.options import SearchOptions, check_keywords, check_policy, check_seconds
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.lock import TIMEOUT_SECONDS
from fastlane_rag.storage.metadata import catalogue_text

if TYPE_CHECKING:
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.types import IndexStats

__all__ = ["IndexKeywords", "IndexOptions"]


class IndexKeywords(TypedDict, total=False):
    """The options as keyword arguments, for type checkers. A test holds it against `IndexOptions`."""

    model: Any
    device: str | None
    dim: int | None
    filter_keys: Iterable[str]
    codec: str
    policy: SearchPolicy | None
    timeout: float
    max_document_tokens: int | None
    truncate_dim: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """What an index is made with.

    Attributes:
        model: what `FastLaneModel.from_pretrained` takes, None for the bundled model; or an object that encodes, which
            `fastlane_rag.index.outside` describes. Indexes and rerankers of a process share what they load by name.
            With `dim`, the name of a model that encodes elsewhere.
        device: where a model that is loaded here runs; None takes CUDA or MPS when there is one, else the CPU. With
            "cuda", "cuda:1" and so on, documents are kept and searched on that device as well.
        dim: size of the token embeddings that another model makes elsewhere: for `add_embeddings` and
            `search_embeddings`, without a model here.
        filter_keys: metadata keys to keep an index on. Filters work on every key; on these they are fast in large
            collections.
        codec: how token embeddings are stored: "fp16", or "residual1", "residual2", "residual4" or "residual8", for
            that many bits a dimension once there are enough documents to train on (half precision until then). "auto"
            is "residual4".
        policy: constants of planning for the object's searches; None for the measured defaults.
        timeout: seconds that a write waits for writers in other objects and processes.
        max_document_tokens: tokens that are encoded of a document, the tokenizer's markers included; the rest cannot
            be found, and one warning a call counts it. None encodes every document to its end.
        truncate_dim: dimensions that are kept of each token embedding, for models trained for it (Matryoshka), see
            `FastLaneModel.truncated`. None keeps what the model gives.

    Raises:
        InvalidInputError: an option is not what it must be; the message names it and its value.
        DeviceError: there is no such CUDA device, or it cannot be used.
    """

    model: Any = None
    device: str | None = None
    dim: int | None = None
    filter_keys: Iterable[str] = ()
    codec: str = "auto"
    policy: SearchPolicy | None = None
    timeout: float = TIMEOUT_SECONDS
    max_document_tokens: int | None = None
    truncate_dim: int | None = None

    def __post_init__(self) -> None:
        keys = tuple(dict.fromkeys(map(catalogue_text, check_texts(self.filter_keys, "filter_keys"))))
        object.__setattr__(self, "filter_keys", keys)
        object.__setattr__(self, "timeout", check_seconds(self.timeout))
        object.__setattr__(self, "max_document_tokens", check_max_document_tokens(self.max_document_tokens))
        check_codec(self.codec)
        check_device(self.device)
        check_policy(self.policy)

    @classmethod
    def of(cls, **keywords: Any) -> Self:
        """Options from keyword arguments.

        Raises:
            UnknownOptionError: a keyword is no option; the message names the nearest one.
            InvalidInputError: a value is not what it must be.
        """
        check_keywords(keywords, [one.name for one in fields(cls)], "an index")
        return cls(**keywords)

    @classmethod
    def divided(cls, keywords: dict[str, Any]) -> tuple[IndexKeywords, dict[str, Any]]:
        """Keyword arguments of an index and of what searches it: those of the index, and the others.

        An option of searches too, `policy`, is among the others.
        """
        names = {one.name for one in fields(cls)} - {*SearchOptions.names()}
        ours = {name: value for name, value in keywords.items() if name in names}
        return cast(IndexKeywords, ours), {name: keywords[name] for name in keywords if name not in ours}

    def opened_model(self) -> FastLaneModel:
        """The model, loaded.

        Raises:
            ModelError: it cannot be opened.
        """
        device = None if self.dim is not None and is_cuda(self.device) else model_device(self.model, self.device)
        return open_model(
            self.model, None, self.max_document_tokens, truncate_dim=self.truncate_dim, device=device, dim=self.dim
        )

    def meta(self, model: FastLaneModel) -> dict[str, str | int]:
        """What the catalogue says of a new index with this model; see STORE_FORMAT.md."""
        kept = getattr(model, "truncate_dim", None)
        return {
            **({"truncate_dim": kept} if kept else {}),
            "model": check_text("the name of the model", model.name),
            "fingerprint": model.fingerprint,
            "dim": model.dim,
            "codec": check_codec(self.codec),
            "document_budget": str(budget_of(model) or ""),
            "max_document_tokens": getattr(model, "max_document_tokens", None) or "",
        }

    def check_made(self, stats: IndexStats) -> None:
        """Check that an index that exists was made with these options.

        Raises:
            ModelMismatchError: its embeddings have another size.
            InvalidInputError: another option differs; the message names it and both values.
        """
        if self.dim not in (None, stats.dim):
            raise ModelMismatchError(
                f"the index {stats.path} holds embeddings of {stats.dim} dimensions, not of dim={self.dim}; give "
                "another path"
            )
        if self.truncate_dim not in (None, stats.dim):
            raise ModelMismatchError(
                f"the index {stats.path} holds embeddings of {stats.dim} dimensions, not of truncate_dim="
                f"{self.truncate_dim}; leave it out to go on with the index, or give another path"
            )
        wanted = {"codec": check_codec(self.codec), "max_document_tokens": self.max_document_tokens}
        made = {"codec": stats.codec, "max_document_tokens": stats.max_document_tokens}
        for name, value in wanted.items():
            if getattr(self, name) not in ("auto", None) and value != made[name]:
                raise InvalidInputError(
                    f"the index {stats.path} was made with {name}={made[name]!r}, not {value!r}; leave {name} out to "
                    "go on with it, or give another path"
                )
        if missing := [key for key in self.filter_keys if key not in stats.filter_keys]:
            raise InvalidInputError(
                f"the index {stats.path} was made without the filter key(s) {', '.join(missing)}; leave filter_keys "
                "out to go on with it (filters on other keys work, only slower), or give another path"
            )
