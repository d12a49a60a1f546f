"""A sentence-transformers MultiVectorEncoder whose modules include the FastLane routers."""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.util import load_file_path
from torch import Tensor, nn
from transformers import PreTrainedModel

from fastlane_rag.errors import ModelError
from fastlane_rag.model.folder import ROUTERS_FILE, check_model_folder
from fastlane_rag.model.hub import hub_folder
from fastlane_rag.model.onnx.backend import warn
from fastlane_rag.model.onnx.session import OnnxStates, StatesError
from fastlane_rag.model.router import (
    DocumentRouter,
    QueryRouter,
    TokenRouter,
    vocabulary_prior,
)
from fastlane_rag.model.tokenizing import TaskTokenizers

__all__ = ["ROUTERS_FILE", "RoutedEncoder"]

# The routers are in ROUTERS_FILE and not in modules.json, because sentence-transformers refuses modules from other
# packages unless trust_remote_code is set. So `MultiVectorEncoder(path)` opens a FastLane checkpoint as it is
# (without routing), and nobody has to switch a safety off.
_ROUTERS: dict[str, type[TokenRouter]] = {c.__name__: c for c in (QueryRouter, DocumentRouter)}

logger = logging.getLogger(__name__)


class RoutedEncoder(MultiVectorEncoder):
    """A ``MultiVectorEncoder`` with a query router and a document router after its transformer.

    Opens everything that ``MultiVectorEncoder`` opens: multi-vector models, PyLate and Stanford ColBERT checkpoints,
    plain encoders. A checkpoint without routers gets untrained ones, which rank tokens by rarity. For a plain encoder
    sentence-transformers would add a random projection; this class uses its token states instead.
    """

    states: OnnxStates | None = None
    """Makes token states in place of :attr:`transformer`, faster; None leaves them to it."""

    def __init__(self, model_name_or_path: str | None = None, **kwargs: Any) -> None:
        self._source = model_name_or_path
        self._hub: dict[str, Any] = {k: kwargs.get(k) for k in ("token", "cache_folder", "revision")}
        self._hub["local_files_only"] = kwargs.get("local_files_only", False)
        super().__init__(model_name_or_path, **kwargs)

    @classmethod
    def wrap(cls, encoder: MultiVectorEncoder) -> RoutedEncoder:
        """An encoder of the same modules (shared, not copied) plus routers; a RoutedEncoder is returned unchanged."""
        if isinstance(encoder, cls):
            return encoder
        routed = cls(
            modules=list(encoder),
            device=str(encoder.device),
            prompts=dict(encoder.prompts),
            default_prompt_name=encoder.default_prompt_name,
            similarity_fn_name=encoder.similarity_fn_name,
        )
        routed.model_card_data.base_model = encoder.model_card_data.base_model
        return routed

    @property
    def transformer(self) -> Transformer:
        """The first module, which computes the token states.

        Raises:
            ModelError: it is no ``Transformer``, so there are no token states to route by.
        """
        first: nn.Module = self[0]
        if isinstance(first, Router):
            raise ModelError(
                f"the model begins with a Router to {', '.join(first.sub_modules)}: queries and documents go through "
                "encoders of their own, and the routers here read the token states of one. A Router after a shared "
                "Transformer opens. Give such a model as an object that encodes; docs/encoding.md shows it"
            )
        if not isinstance(first, Transformer):
            raise ModelError(
                f"the model's first module is a {type(first).__name__}; routing needs a sentence-transformers "
                "Transformer there, whose token states the router reads. Give such a model as an object that encodes; "
                "docs/encoding.md shows it"
            )
        return cast(Transformer, first)

    @property
    def backbone(self) -> PreTrainedModel:
        """The transformers model inside :attr:`transformer`."""
        return self.transformer.auto_model

    def prompt_of(self, task: str) -> str:
        """What goes before each text of a task, as ``encode_query`` and ``encode_document`` put it.

        Args:
            task: "query" or "document". Documents take the first of the prompts "document", "passage" and "corpus" that
                the model has; both tasks take the one of `default_prompt_name` where they have none.
        """
        names = ("query",) if task == "query" else ("document", "passage", "corpus")
        name = next((name for name in names if name in self.prompts), self.default_prompt_name)
        return (self.prompts.get(name) if name is not None else None) or ""

    @property
    def query_router(self) -> QueryRouter:
        """The router that picks query tokens."""
        return next(m for m in self if isinstance(m, QueryRouter))

    @property
    def document_router(self) -> DocumentRouter:
        """The router that picks document tokens."""
        return next(m for m in self if isinstance(m, DocumentRouter))

    def forward(self, input: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Token embeddings as in the base class; for documents, of the tokens that the document router keeps.

        With ``part`` among the features, these are windows of documents, whose budget is not spent yet.
        """
        features = self._modules_forward(input, kwargs)
        return features if features.get("part") else self.document_router.condense(features, kwargs.get("task"))

    def _modules_forward(self, input: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the base class gives, by :attr:`states` where that can make the token states."""
        states = self._fast_states(input, kwargs.get("task"))
        if states is None:
            features: dict[str, Any] = super().forward(input, **kwargs)
            return features
        input[self.transformer.module_output_name] = states
        for name, module in list(self.named_children())[1:]:
            taken = {*(self.module_kwargs or {}).get(name, ()), *getattr(module, "forward_kwargs", ())}
            input = module(input, **{key: value for key, value in kwargs.items() if key in taken})
        return input

    def token_states(self, features: dict[str, Any], task: str | None) -> Tensor:
        """(B, L, h) token states of texts, which routers and projection take."""
        states = self._fast_states(features, task)
        return self.transformer(features)["token_embeddings"] if states is None else states

    def _fast_states(self, features: dict[str, Any], task: str | None) -> Tensor | None:
        if self.states is None or self.training or features.get("modality", "text") != "text":
            return None
        try:
            return self.states(features, task)
        except StatesError as error:
            self.states = None
            warn(str(self._source), str(error))
            return None

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Features of texts, as the base class gives them; several threads may call it with different tasks."""
        first: nn.Module = self[0]
        if inputs and isinstance(first, Transformer) and all(isinstance(text, str) for text in inputs):
            features = self._tokenizers.preprocess(first, inputs, prompt, kwargs)
            if features is not None:
                return features
        features = super().preprocess(inputs, prompt=prompt, **kwargs)
        return features

    def _post_init(self) -> None:
        self._tokenizers = TaskTokenizers()
        self._apply_legacy_fixups()
        self._legacy.is_pylate_v3 = False  # already converted; otherwise the base class would append the modules again
        if not any(isinstance(m, TokenRouter) for m in self):
            routers = self._load_routers() or self._fresh_routers()
            self._arrange([r.to(self.device) for r in routers])
        super()._post_init()

    def _arrange(self, routers: list[TokenRouter]) -> None:
        """Order the modules: transformer, scoring mask, routers, then the rest.

        The scoring mask reads only ids and masks, so it can run before the projection. There it also tells the routers
        which tokens are scored.
        """
        kwargs_of = {id(m): (self.module_kwargs or {}).get(name) for name, m in self._modules.items()}
        head, *rest = list(self)
        masks = [m for m in rest if isinstance(m, MultiVectorMask)]
        if not masks:
            masks = [MultiVectorMask()]
        rest = [m for m in rest if not isinstance(m, MultiVectorMask)]
        ordered = [head, *masks, *routers, *rest]
        self._modules.clear()
        for position, module in enumerate(ordered):
            self._modules[str(position)] = module
        if self.module_kwargs:
            self.module_kwargs = OrderedDict(
                (str(i), kwargs_of[id(m)]) for i, m in enumerate(ordered) if kwargs_of.get(id(m))
            )

    def _fresh_routers(self) -> list[TokenRouter]:
        size = self.transformer.get_embedding_dimension()
        prior = vocabulary_prior(self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer)))))
        routers = [kind(hidden_size=size, vocabulary_size=len(prior)) for kind in _ROUTERS.values()]
        for router in routers:
            router.set_prior(prior)
        return routers

    def _load_routers(self) -> list[TokenRouter]:
        if self._source is None:
            return []
        listing = load_file_path(self._source, ROUTERS_FILE, **self._hub)
        if listing is None:
            return []
        routers = []
        for entry in json.loads(Path(listing).read_text(encoding="utf-8"))["routers"]:
            kind = _ROUTERS.get(entry["type"])
            if kind is None or entry["path"] != Path(entry["path"]).name:
                raise ModelError(f"{listing}: unknown router entry {entry!r}; was it written by a newer version?")
            routers.append(kind.load(self._source, subfolder=entry["path"], **self._hub))
        return routers

    def save(self, path: str, *args: Any, **kwargs: Any) -> None:
        """Write a model directory that both this class and ``MultiVectorEncoder`` open (safetensors only)."""
        super().save(path, *args, **{**kwargs, "safe_serialization": True})
        listing = Path(path) / "modules.json"
        modules = json.loads(listing.read_text(encoding="utf-8"))
        routers, others = [], []
        for module in modules:
            kind = type(self[module["idx"]])
            if issubclass(kind, TokenRouter):
                routers.append({"type": kind.__name__, "path": module["path"]})
            else:
                others.append(module)
        listing.write_text(json.dumps(others, indent=2), encoding="utf-8")
        content = {"format_version": 1, "routers": routers}
        (Path(path) / ROUTERS_FILE).write_text(json.dumps(content, indent=2), encoding="utf-8")

    def _load_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if not Path(model_name_or_path).is_dir():  # the hub's id, with the revision pinned; folders are checked before
            names = ("token", "cache_folder", "revision", "local_files_only")
            check_model_folder(hub_folder(model_name_or_path, **{n: kwargs[n] for n in names if n in kwargs}))
        return super()._load_modules(model_name_or_path, *args, **kwargs)

    def _load_default_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        modules, module_kwargs = super()._load_default_modules(model_name_or_path, *args, **kwargs)
        config = load_file_path(model_name_or_path, "config.json", **self._hub)
        architectures = json.loads(Path(config).read_text()).get("architectures") or [] if config else []
        if "HF_ColBERT" not in architectures:
            modules = self._without_projection(modules)
        return modules, module_kwargs

    def _load_converted_modules(self, model_name_or_path: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        modules, module_kwargs = super()._load_converted_modules(model_name_or_path, *args, **kwargs)
        listing = load_file_path(model_name_or_path, "modules.json", **self._hub)
        types = [m["type"] for m in json.loads(Path(listing).read_text())] if listing else []
        if not any(t.endswith("Dense") for t in types):
            modules = self._without_projection(modules)
        return modules, module_kwargs

    @staticmethod
    def _without_projection(modules: Any) -> list[nn.Module]:
        kept = list(modules.values()) if isinstance(modules, dict) else list(modules)
        if any(isinstance(m, Dense) for m in kept):
            logger.info("No late-interaction projection in the checkpoint: using the token states as they are.")
        return [m for m in kept if not isinstance(m, Dense)]
