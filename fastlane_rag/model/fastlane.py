"""FastLaneModel: a routed late-interaction encoder, as users hold it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Module
from torch import Tensor

from fastlane_rag.errors import ModelError
from fastlane_rag.model.batches import encoded_in_batches
from fastlane_rag.model.default import default_model_path
from fastlane_rag.model.encoder import RoutedEncoder
from fastlane_rag.model.onnx.backend import Backend, Dtype, check_choice, onnx_states
from fastlane_rag.model.route import Route
from fastlane_rag.model.routed_query import LazyRouting, RoutedQuery, Selection
from fastlane_rag.model.router import CONTEXT_MOST, TokenRouter
from fastlane_rag.model.spans import token_spans

__all__ = ["CONTEXT_MOST", "FastLaneModel"]
# What the query router makes of the token states.
_OF_ROUTER = ("routing_scores", "routing_attended", "routing_pooled")


class FastLaneModel:
    """A late-interaction encoder with token routers.

    Wraps a sentence-transformers ``MultiVectorEncoder``; :attr:`encoder` is that object, for training and for
    everything sentence-transformers offers. Encoding is thread-safe.

    Args:
        encoder: any ``MultiVectorEncoder``; routers are added where it has none.
        name: what to call the model in messages and reports.
    """

    def __init__(self, encoder: MultiVectorEncoder, *, name: str | None = None) -> None:
        self.encoder = RoutedEncoder.wrap(encoder)
        self.encoder.eval()
        self.name = name or self.encoder.model_card_data.base_model or type(encoder).__name__

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | MultiVectorEncoder | FastLaneModel | None = None,
        *,
        device: str | torch.device | None = None,
        backend: Backend = "auto",
        dtype: Dtype = "auto",
        trust_remote_code: bool = False,
        document_budget: float | None = None,
        **options: Any,
    ) -> FastLaneModel:
        """Open a model.

        Args:
            model: None for the bundled default; a model directory; a Hugging Face hub id; or an object already
                loaded. Multi-vector models, PyLate and Stanford ColBERT checkpoints and plain encoders all open.
            device: where to run; None takes CUDA or MPS when there is one, else the CPU.
            backend: what computes on a CPU: "onnx" is onnxruntime (the extra `cpu`), which takes BERT-like encoders;
                "auto" is onnxruntime where it is installed and can. Otherwise, and where it fails, torch computes,
                and a warning says why. Encoders given as objects stay with torch unless "onnx" is asked for.
            dtype: number format of the encoder. "auto" is, by onnxruntime, float32 for queries and int8 for documents
                (docs/encoding.md has what that costs); by torch float32, except bfloat16 where the processor
                multiplies it natively (CPUs with AVX512-BF16 or AMX, CUDA from Ampere on). "int8" is for
                onnxruntime alone, "bfloat16" and "float16" for torch.
            trust_remote_code: run code that comes with a checkpoint. Off unless you trust its source.
            document_budget: tokens to keep per document (see :class:`DocumentRouter`); None leaves it as saved.
            **options: passed to ``MultiVectorEncoder`` (``revision``, ``token``, ``prompts``, ...).

        Raises:
            ModelError: the model cannot be opened; the message says why.
        """
        check_choice(backend, dtype)
        if isinstance(model, FastLaneModel):
            return model
        folder = None
        if isinstance(model, MultiVectorEncoder):
            opened = cls(model)
            if backend == "onnx":
                opened._set_backend(folder, backend, dtype)
        else:
            if model is None:
                path, name = str(default_model_path()), "fastlane-default"
                folder = Path(path, "onnx")
            else:
                path = name = str(model)
            device = None if device is None else str(device)
            try:
                encoder = RoutedEncoder(path, device=device, trust_remote_code=trust_remote_code, **options)
            except (OSError, ValueError, KeyError, ImportError) as error:
                raise ModelError(
                    f"cannot open the model {name!r}: {error}. Give a directory that holds a "
                    "sentence-transformers, PyLate, Stanford ColBERT or Hugging Face encoder, or a hub id (which "
                    "needs a network the first time)."
                ) from error
            opened = cls(encoder, name=name)
            opened._set_backend(folder, backend, dtype)
        if document_budget is not None:
            opened.encoder.document_router.budget = document_budget
        return opened

    def _set_backend(self, folder: Path | None, backend: str, dtype: str) -> None:
        self.encoder.float()
        self.encoder.states = onnx_states(self.encoder, self.encoder.backbone, self.name, folder, backend, dtype)
        if self.encoder.states is None:
            self._set_dtype(dtype)

    def _set_dtype(self, dtype: str) -> None:
        native = "bfloat16" if native_bfloat16(self.device) else "float32"
        self.encoder.to(getattr(torch, native if dtype in ("auto", "int8") else dtype))
        for module in self.encoder:
            if isinstance(module, TokenRouter):
                module.float()  # a few scores a query: precision costs nothing here

    @property
    def device(self) -> torch.device:
        """Where the encoder runs."""
        return next(self.encoder.parameters()).device  # the encoder's own `device` walks over all modules

    @property
    def backend(self) -> str:
        """What computes token states: "torch" or "onnx"."""
        return "torch" if self.encoder.states is None else "onnx"

    @cached_property
    def dim(self) -> int:
        """Width of a token embedding."""
        return int(self.encoder.get_embedding_dimension() or 0)

    @cached_property
    def _vocabulary(self) -> list[str]:
        """All tokens; asking the tokenizer for those of every query takes ten times as long."""
        tokenizer = self.encoder.tokenizer
        tokens: list[str] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        return tokens

    @property
    def max_query_length(self) -> int:
        """Tokens a query may have; longer ones are cut."""
        return int(getattr(self.encoder.transformer, "query_length", None) or self.encoder.max_seq_length or 0)

    @property
    def max_document_length(self) -> int:
        """Tokens a document may have; longer ones are cut."""
        return int(getattr(self.encoder.transformer, "document_length", None) or self.encoder.max_seq_length or 0)

    @property
    def document_budget(self) -> float | None:
        """Tokens kept of each document, or below 1 their share; None keeps all."""
        budget: float | None = self.encoder.document_router.budget
        return budget

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over what decides an embedding: weights, lengths, prompts, vocabulary.

        The routers are left out: they choose among embeddings and never change one, so a re-trained router goes on
        serving an existing index. The number format is left out as well.
        """
        digest = hashlib.sha256()
        for module in self.encoder:
            if isinstance(module, TokenRouter):
                continue
            config = module.get_config_dict() if isinstance(module, Module) else {}
            digest.update(json.dumps([type(module).__name__, config], sort_keys=True, default=str).encode())
            for key, value in sorted(module.state_dict().items()):
                digest.update(f"{key}{tuple(value.shape)}".encode())
                digest.update(value.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        vocabulary = sorted(self.encoder.tokenizer.get_vocab().items())
        digest.update(json.dumps([self.encoder.prompts, vocabulary], sort_keys=True).encode())
        return digest.hexdigest()

    def encode_queries(
        self, texts: Sequence[str], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[Tensor]:
        """Token embeddings of queries: a list of (Lq, dim) float32 tensors, L2-normalised, on :attr:`device`."""
        return [q.embeddings for q in self.encode_routed(texts, batch_size=batch_size, show_progress=show_progress)]

    def encode_documents(
        self, texts: Sequence[str], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[Tensor]:
        """Token embeddings of documents: a list of (Ld, dim) float32 tensors, L2-normalised, on :attr:`device`.

        Ld is at least 1: a document whose every token is skipped (say, only punctuation) keeps its first.
        """
        return [
            _unit(row["token_embeddings"][_scored(row)])
            for row in self._encode(texts, "document", batch_size, show_progress)
        ]

    def encode_routed(
        self, texts: Sequence[str], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[RoutedQuery]:
        """Queries with embeddings, router scores and token strings, from one forward pass."""
        queries = []
        rows, router = self._encode(texts, "query", batch_size, show_progress), self.encoder.query_router
        for row in rows:
            scored = _scored(row)
            part = partial(_copied, scored=scored, alone=len(rows) == 1)
            ids = part(row["input_ids"])
            numbers = ids.tolist()
            tokens = [self._vocabulary[i] for i in numbers]
            embeddings = _unit(row["token_embeddings"][scored])
            known = {name: part(row[name]) for name in ("routing_states", *_OF_ROUTER[:2]) if name in row}
            if "routing_pooled" in row:
                known["routing_pooled"] = row["routing_pooled"].clone()
            later = LazyRouting(router, ids, embeddings, known)
            context = later.views if router.context is not None else None
            waits = "routing_states" in known
            scores, routable = (later.scores, router.routable(numbers)) if waits else (later.scores(), None)
            queries.append(RoutedQuery(embeddings, scores, tokens, context, routable=routable))
        return queries

    def route(self, texts: str | Sequence[str], k: Selection = "auto") -> list[Route]:
        """Which tokens of each query are routed, and how the router scored all of them.

        Args:
            texts: queries.
            k: as in :meth:`RoutedQuery.select`.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        tokenizer, prompt = self.encoder.tokenizer, self.encoder.prompts.get("query") or ""
        routes = []
        for text, query in zip(texts, self.encode_routed(texts), strict=True):
            ids = tokenizer.convert_tokens_to_ids(query.tokens)
            spans = [span or (0, 0) for span in token_spans(tokenizer, prompt, text, ids, whole_words=False)]
            routes.append(Route(query.tokens, query.scores.cpu().numpy(), query.select(k).tolist(), spans))
        return routes

    def encode_dense_queries(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Single-vector baseline: mean of the token states before projection, (N, h) float32, L2-normalised."""
        return self._encode_dense(texts, "query", batch_size)

    def encode_dense_documents(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Single-vector baseline for documents; see :meth:`encode_dense_queries`."""
        return self._encode_dense(texts, "document", batch_size)

    def save(self, path: str | Path) -> None:
        """Write a model directory (safetensors, JSON, tokenizer) that :meth:`from_pretrained` opens."""
        self.encoder.save(str(path))

    def _encode(
        self, texts: Sequence[str], task: str, batch_size: int | None, show_progress: bool | None
    ) -> list[dict[str, Any]]:
        texts = _checked(texts)
        size = batch_size or (32 if self.device.type == "cpu" else 128)
        if size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not texts:
            return []
        if len(texts) <= size and task in self.encoder.prompts:
            return self._one_pass(texts, task)
        return encoded_in_batches(self.encoder, texts, task, size, bool(show_progress))

    def _one_pass(self, texts: Sequence[str], task: str) -> list[dict[str, Any]]:
        """What `MultiVectorEncoder.encode` gives for one batch, without what it does around the forward pass.

        For one query that walk over all modules takes as long as the search.
        """
        if self.encoder.training:
            self.encoder.eval()
        with torch.inference_mode():
            features = self._features(texts, task)
            # One query may have no more tokens than are to be routed: then nobody asks the router.
            features["routing_later"] = task == "query" and len(texts) == 1 and self.device.type == "cpu"
            features = self.encoder(features, task=task)
        batched = {
            name for name, value in features.items() if isinstance(value, Tensor) and value.shape[:1] == (len(texts),)
        }
        return [{name: features[name][i] for name in batched} for i in range(len(texts))]

    def _features(self, texts: Sequence[str], task: str) -> dict[str, Any]:
        """What the encoder takes of some texts, where it runs."""
        device = self.device
        features = self.encoder.preprocess(list(texts), prompt=self.encoder.prompts.get(task), task=task)
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}

    def _encode_dense(self, texts: Sequence[str], task: str, batch_size: int | None) -> np.ndarray:
        texts = _checked(texts)
        size = batch_size or 32
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        out = np.zeros((len(texts), int(self.encoder.transformer.get_embedding_dimension())), dtype=np.float32)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            features = self._features([texts[i] for i in rows], task)
            mask = features["attention_mask"].bool()
            with torch.inference_mode():
                states = self.encoder.token_states(features, task).float()
            mean = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
            out[rows] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        return out

    def __repr__(self) -> str:
        return f"FastLaneModel({self.name!r}, dim={self.dim}, device={str(self.device)!r})"


def native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products run in hardware there, so that they are faster than float32's."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return any(
        bool(getattr(torch.cpu, name, bool)()) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, got one string; wrap it in a list")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {position} is a {type(text).__name__}, not a string: {text!r}")
    return list(texts)


def _scored(row: dict[str, Any]) -> Tensor | slice:
    """Which tokens of a text are scored; all of them as a slice, which takes no work to apply."""
    mask: Tensor = row["attention_mask"].bool()
    if all(mask.tolist()) if mask.device.type == "cpu" else mask.all():  # of so few, a list takes a tenth of the time
        return slice(None)
    if not mask.any():
        mask = mask.clone()
        mask[0] = True
    return mask


def _copied(tensor: Tensor, scored: Tensor | slice, *, alone: bool) -> Tensor:
    """The scored tokens' part of a text's rows; a copy, or it would keep the rest of a batch in memory."""
    if isinstance(scored, Tensor):
        return tensor[scored]
    return tensor if alone else tensor.clone()


def _unit(embeddings: Tensor) -> Tensor:
    """Float32 and L2-normalised; a copy."""
    return torch.nn.functional.normalize(embeddings.float(), dim=-1)


def _after_fork() -> None:
    """Compute with one thread in a forked child.

    The threads of GNU's OpenMP, which torch computes with, do not survive a fork, and the first parallel operation
    in the child would wait for them for ever.
    """
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
