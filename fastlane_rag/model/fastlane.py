"""FastLaneModel: the routed late-interaction encoder of the public API."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Module
from torch import Tensor

from fastlane_rag.errors import InvalidInputError, ModelError, StorageError
from fastlane_rag.lengths import (
    check_batch_size,
    check_max_document_tokens,
    check_texts,
    kind,
    plain,
    warn_of_documents,
    warn_of_queries,
)
from fastlane_rag.model.batches import encoded_in_batches
from fastlane_rag.model.default import default_model_path
from fastlane_rag.model.encoder import RoutedEncoder
from fastlane_rag.model.folder import (
    check_complete,
    check_model_folder,
    check_vocabulary,
    is_folder,
    model_folder,
)
from fastlane_rag.model.hub import hub_model
from fastlane_rag.model.images import encoded_images
from fastlane_rag.model.onnx.backend import Backend, Dtype, check_choice, onnx_states
from fastlane_rag.model.quiet import without_bars
from fastlane_rag.model.route import Route, Routes
from fastlane_rag.model.routed_query import LazyRouting, RoutedQuery, Selection
from fastlane_rag.model.router import CONTEXT_MOST, TokenRouter
from fastlane_rag.model.spans import token_spans
from fastlane_rag.model.windows import LongText, encoded_windows, long_texts, token_count
from fastlane_rag.progress import encoded
from fastlane_rag.scoring.threads import follow_quota
from fastlane_rag.types import whole_number

__all__ = ["CONTEXT_MOST", "FastLaneModel"]
_BLOCK = 8192  # rows of a text that are normalised at once
# Features of single tokens that the query router adds.
_OF_ROUTER = ("routing_states", "routing_scores", "routing_attended", "routing_norms", "routing_weights")


class FastLaneModel:
    """A late-interaction encoder with token routers.

    Wraps a sentence-transformers ``MultiVectorEncoder``, which is :attr:`encoder`: use it for training and for
    everything else that sentence-transformers offers. Encoding is thread-safe.

    Args:
        encoder: any ``MultiVectorEncoder``; routers are added where it has none.
        name: the model's name in messages and reports.
    """

    def __init__(self, encoder: MultiVectorEncoder, *, name: str | None = None) -> None:
        follow_quota()
        self.encoder = RoutedEncoder.wrap(encoder)
        self.encoder.eval()
        self.name = name or self.encoder.model_card_data.base_model or type(encoder).__name__
        self._max_document_tokens: int | None = None
        self._truncate_dim: int | None = None
        self._unbounded: FastLaneModel | None = None

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
        max_document_tokens: int | None = None,
        truncate_dim: int | None = None,
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
            document_budget: tokens to keep per document (see :class:`DocumentRouter`); None leaves it as saved. Of
                these options a loaded ``MultiVectorEncoder`` takes this one and those below, a ``FastLaneModel`` those
                below.
            max_document_tokens: tokens to encode of a document, see :meth:`bounded`; None encodes all.
            truncate_dim: dimensions to keep of a token embedding, see :meth:`truncated`; None keeps all.
            **options: passed to ``MultiVectorEncoder`` (``revision``, ``token``, ``prompts``, ...).

        Raises:
            ModelError: the model cannot be opened; the message says why.
            InvalidInputError: options are given with a model that is loaded already, `max_document_tokens` is no whole
                number from 1, or `truncate_dim` none up to the size of the model's embeddings.
        """
        check_choice(backend, dtype)
        if isinstance(model, FastLaneModel | MultiVectorEncoder):
            asked = {"device": device, "trust_remote_code": trust_remote_code or None, **options}
            asked["dtype"] = None if dtype == "auto" or backend == "onnx" else dtype
            _refuse_options(model, asked, backend, document_budget)
        if isinstance(model, FastLaneModel):
            return model._narrowed(max_document_tokens, truncate_dim)
        if not isinstance(model, MultiVectorEncoder | str | os.PathLike | None):
            raise InvalidInputError(
                f"model must be a directory, a hub id, an encoder or None, not {type(model).__name__} {model!r}"
            )
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
                name = plain(os.fsdecode(model))
                found = model_folder(Path(name))
                path = str(found) if is_folder(found) else hub_model(name, options)
            device = _device_name(device)
            local = is_folder(Path(path))
            try:
                if local:
                    check_model_folder(Path(path))
                with without_bars():
                    encoder = RoutedEncoder(path, device=device, trust_remote_code=trust_remote_code, **options)
                if local:
                    check_complete(Path(path), _stored_weights(encoder))
                check_vocabulary(name, encoder.tokenizer)
            except ModelError:
                raise
            except Exception as error:  # of any kind: what libraries make of a damaged file
                raise ModelError(
                    f"cannot open the model {name!r}: {error or type(error).__name__}. Give a directory that holds a "
                    "sentence-transformers, PyLate, Stanford ColBERT or Hugging Face encoder, or a hub id (which "
                    "needs a network the first time)."
                ) from error
            opened = cls(encoder, name=name)
            opened._set_backend(folder, backend, dtype)
        if document_budget is not None:
            opened.encoder.document_router.budget = document_budget
        return opened._narrowed(max_document_tokens, truncate_dim)

    def bounded(self, max_document_tokens: int | None) -> FastLaneModel:
        """The same model, its weights shared, that encodes at most so many tokens of a document; None: all.

        The tokenizer's markers count. What is beyond cannot be found; a warning says how much that is.

        Raises:
            InvalidInputError: no whole number from 1.
        """
        other = self._twin()
        other._max_document_tokens = check_max_document_tokens(max_document_tokens)
        return other

    def truncated(self, truncate_dim: int | None) -> FastLaneModel:
        """The same model, its weights shared, that keeps the first dimensions of each token embedding; None: all.

        Rows are L2-normalised again. A model trained for it (Matryoshka) loses little; another one loses what its last
        dimensions say. :meth:`save` writes the whole model.

        Raises:
            InvalidInputError: no whole number from 1 to the size of the model's embeddings.
        """
        full = int(self.encoder.get_embedding_dimension() or 0)
        kept = None if truncate_dim is None else whole_number(truncate_dim)
        if truncate_dim is not None and (kept is None or not 1 <= kept <= full):
            raise InvalidInputError(
                f"truncate_dim must be a whole number from 1 to {full}, the dimensions of a token embedding of "
                f"{self.name!r}, not {truncate_dim!r}"
            )
        other = self._twin()
        other._truncate_dim = None if kept == full else kept
        for name in ("dim", "fingerprint"):
            other.__dict__.pop(name, None)
        return other

    def _twin(self) -> FastLaneModel:
        other = copy.copy(self)
        other._unbounded = self  # whoever else shares the weights finds it while they are in use
        return other

    def _narrowed(self, max_document_tokens: int | None, truncate_dim: int | None) -> FastLaneModel:
        """The model with what is given of these options."""
        model = self if max_document_tokens is None else self.bounded(max_document_tokens)
        return model if truncate_dim is None else model.truncated(truncate_dim)

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
                module.float()  # routers compute few numbers, so float32 costs nothing

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
        return self._truncate_dim or int(self.encoder.get_embedding_dimension() or 0)

    @property
    def truncate_dim(self) -> int | None:
        """Dimensions that are kept of a token embedding; None: all."""
        return self._truncate_dim

    @cached_property
    def _vocabulary(self) -> list[str]:
        """All tokens, in id order. Asking the tokenizer for the tokens of each query takes ten times as long."""
        tokenizer = self.encoder.tokenizer
        tokens: list[str] = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        return tokens

    @property
    def max_query_length(self) -> int:
        """The most tokens of a query; longer queries are cut, with a warning."""
        return int(getattr(self.encoder.transformer, "query_length", None) or self.encoder.max_seq_length or 0)

    @property
    def max_document_length(self) -> int:
        """Tokens of a document that are encoded at once; longer documents are encoded window by window."""
        return int(getattr(self.encoder.transformer, "document_length", None) or self.encoder.max_seq_length or 0)

    @property
    def max_document_tokens(self) -> int | None:
        """Tokens that are encoded of a document, the tokenizer's markers included; None: all."""
        return self._max_document_tokens

    @property
    def document_budget(self) -> float | None:
        """Tokens to keep of each document; below 1, the share of its tokens; None keeps all."""
        budget: float | None = self.encoder.document_router.budget
        return budget

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that decides an embedding: weights, lengths, prompts, words, dimensions kept.

        The routers are left out, because they choose among embeddings and change none: a retrained router still fits an
        existing index. The number format is left out as well.
        """
        digest = hashlib.sha256()
        for module in self.encoder:
            if isinstance(module, TokenRouter):
                continue
            config = module.get_config_dict() if isinstance(module, Module) else {}
            config |= {name: _by_text(value) for name, value in config.items() if isinstance(value, dict)}
            digest.update(json.dumps([type(module).__name__, config], sort_keys=True, default=str).encode())
            for key, value in sorted(module.state_dict().items()):
                digest.update(f"{key}{tuple(value.shape)}".encode())
                digest.update(value.detach().to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
        vocabulary = sorted(self.encoder.tokenizer.get_vocab().items())
        digest.update(json.dumps([self.encoder.prompts, vocabulary], sort_keys=True).encode())
        prompts = [self.encoder.prompt_of(task) for task in ("query", "document")]
        if prompts != [self.encoder.prompts.get(task) or "" for task in ("query", "document")]:
            digest.update(json.dumps(prompts).encode())
        if self._truncate_dim is not None:
            digest.update(f"truncate_dim={self._truncate_dim}".encode())
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

        Ld is at least 1: a document whose tokens are all skipped (only punctuation, for example) keeps its first token.
        A document longer than :attr:`max_document_length` is encoded in overlapping windows of half that length, each
        token once. One warning counts what :attr:`max_document_tokens` cuts.
        """
        rows = self._encode(texts, "document", batch_size, show_progress)
        # Taken from the end, so that of long documents both forms are never in memory together.
        found = []
        while rows:
            found.append(_scored_rows(rows.pop(), self._truncate_dim))
        return found[::-1]

    @property
    def takes_images(self) -> bool:
        """Whether documents may be images, as for ColPali-like models."""
        return bool(self.encoder.supports("image"))

    def encode_images(self, images: Sequence[Any], *, batch_size: int | None = None) -> list[Tensor]:
        """Token embeddings of images: a list of (L, dim) float32 tensors, L2-normalised, on :attr:`device`.

        Args:
            images: paths, bytes of image files, `data:image/...;base64,` texts, or images of Pillow.
            batch_size: images encoded at once; None for 4, on CUDA 16.

        Raises:
            InvalidInputError: the model takes no images, or one of them cannot be read.
            MissingExtraError: Pillow is not installed.
        """
        return [_scored_rows(row, self._truncate_dim) for row in self._encode_images(images, batch_size)]

    def _encode_images(self, images: Sequence[Any], batch_size: int | None = None) -> Iterator[dict[str, Any]]:
        if not self.takes_images:
            raise InvalidInputError(
                f"the model {self.name!r} takes {' and '.join(map(str, self.encoder.modalities))}, not images: open "
                "one that takes them, such as a ColPali checkpoint"
            )
        if isinstance(images, str | bytes | os.PathLike) or not isinstance(images, Sequence):
            raise InvalidInputError(f"images must be a list, not {type(images).__name__}; put a single one into [ ]")
        size = check_batch_size(batch_size) or (4 if self.device.type == "cpu" else 16)
        return encoded_images(self.encoder, images, size)

    def encode_routed(
        self, texts: Sequence[str], *, batch_size: int | None = None, show_progress: bool | None = None
    ) -> list[RoutedQuery]:
        """Encode queries in one forward pass: embeddings, router scores and token strings."""
        texts, queries = check_texts(texts), []
        rows, router = self._encode(texts, "query", batch_size, show_progress), self.encoder.query_router
        self._warn_of_cut(texts)
        for row in rows:
            scored = _scored(row)
            part = partial(_copied, scored=scored, alone=len(rows) == 1)
            ids = part(row["input_ids"])
            numbers = ids.tolist()
            tokens = [self._vocabulary[i] for i in numbers]
            full = _unit(row["token_embeddings"][scored])
            embeddings = _unit(full[:, : self._truncate_dim]) if self._truncate_dim else full
            known = {name: part(row[name]) for name in _OF_ROUTER if name in row}
            if "routing_pooled" in row:
                known["routing_pooled"] = row["routing_pooled"].clone()
            later = LazyRouting(router, ids, full, known, self._truncate_dim)
            context = later.views if router.context is not None else None
            weights = later.weights if router.token_weights is not None else None
            waits = "routing_states" in known
            scores, routable = (later.scores, router.routable(numbers)) if waits else (later.scores(), None)
            queries.append(RoutedQuery(embeddings, scores, tokens, context, weights, later.norms, routable=routable))
        return queries

    def route(self, texts: str | Sequence[str], k: Selection = "auto") -> Routes:
        """Show which tokens of each query are routed, and the router scores of all tokens.

        Args:
            texts: queries, or one of them.
            k: as in :meth:`RoutedQuery.select`.

        Returns:
            A list of one :class:`Route` a query, which notebooks and ``rich.print`` display.
        """
        texts = check_texts([texts] if isinstance(texts, str) else texts)
        tokenizer, prompt = self.encoder.tokenizer, self.encoder.prompt_of("query")
        routes = Routes()
        trained = self.encoder.query_router.trained
        for text, query in zip(texts, self.encode_routed(texts), strict=True):
            ids = tokenizer.convert_tokens_to_ids(query.tokens)
            spans = [span or (0, 0) for span in token_spans(tokenizer, prompt, text, ids, whole_words=False)]
            routes.append(Route(query.tokens, query.scores.cpu().numpy(), query.select(k).tolist(), spans, trained))
        return routes

    def encode_dense_queries(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Single-vector baseline: (N, h) float32, L2-normalised means of the token states before projection."""
        return self._encode_dense(texts, "query", batch_size)

    def encode_dense_documents(self, texts: Sequence[str], *, batch_size: int | None = None) -> np.ndarray:
        """Single-vector baseline for documents; see :meth:`encode_dense_queries`."""
        return self._encode_dense(texts, "document", batch_size)

    def save(self, path: str | Path) -> None:
        """Write a model directory (safetensors, JSON, tokenizer) that :meth:`from_pretrained` opens.

        Raises:
            InvalidInputError: `path` is no path.
            StorageError: it cannot be written.
        """
        if not isinstance(path, str | os.PathLike):
            raise InvalidInputError(f"path must be that of a directory, a str or a Path, not {kind(path)}")
        try:
            with without_bars():
                self.encoder.save(plain(os.fsdecode(path)))
        except Exception as error:  # of any kind: what libraries make of a full disk
            raise StorageError(
                f"cannot save the model {self.name!r}: {error}. Give a directory that can be written, with room for it"
            ) from error

    def _encode(
        self, texts: Sequence[str], task: str, batch_size: int | None, show_progress: bool | None
    ) -> list[dict[str, Any]]:
        texts = check_texts(texts)
        size = check_batch_size(batch_size) or (32 if self.device.type == "cpu" else 128)
        if not texts:
            return []
        rows: dict[int, dict[str, Any]] = {}
        long = self._long_texts(texts) if task == "document" else {}
        if long:
            places = list(long)
            for i, row in encoded_windows(self.encoder, list(long.values()), size):
                rows[places[i]] = row
                encoded(1)
        short = [i for i in range(len(texts)) if i not in long]
        if short:
            fitting = self._encode_fitting([texts[i] for i in short], task, size, show_progress)
            rows.update(zip(short, fitting, strict=True))
        return [rows.pop(i) for i in range(len(texts))]

    def _long_texts(self, texts: Sequence[str]) -> dict[int, LongText]:
        """The documents that take more than one window, by position, and a warning if any of them is cut."""
        long = long_texts(self.encoder, texts, self.max_document_length, self.max_document_tokens)
        cut = [one.cut for one in long.values() if one.cut]
        if cut:
            warn_of_documents(len(cut), sum(cut), self.max_document_tokens or 0)
        return long

    def _warn_of_cut(self, queries: Sequence[str]) -> None:
        most, expansion = self.max_query_length, self.encoder.transformer.query_expansion
        if expansion is not None:
            most = expansion["length"] if expansion["strategy"] == "fixed" else max(most, expansion["length"])
        # Queries so short are not counted: no tokenizer makes so many tokens of a character.
        suspects = [text for text in queries if most and len(text) > most // 32]
        beyond = [count - most for text in suspects if (count := token_count(self.encoder, text, "query")) > most]
        if beyond:
            warn_of_queries(len(beyond), sum(beyond), most)

    def _encode_fitting(
        self, texts: list[str], task: str, size: int, show_progress: bool | None
    ) -> list[dict[str, Any]]:
        """The encoder's rows of texts that fit in its window, or are cut there."""
        if len(texts) <= size:
            rows = self._one_pass(texts, task)
            encoded(len(texts))
            return rows
        return encoded_in_batches(self.encoder, texts, task, size, bool(show_progress))

    def _one_pass(self, texts: Sequence[str], task: str) -> list[dict[str, Any]]:
        """The forward pass of `MultiVectorEncoder.encode` for one batch.

        `encode` also walks over all modules, which for one query takes as long as the search.
        """
        if self.encoder.training:
            self.encoder.eval()
        with torch.inference_mode():
            features = self._features(texts, task)
            # Run the router of a single query on demand: a query with no more tokens than are routed needs none.
            features["routing_later"] = task == "query" and len(texts) == 1 and self.device.type == "cpu"
            features = self.encoder(features, task=task)
        batched = {
            name for name, value in features.items() if isinstance(value, Tensor) and value.shape[:1] == (len(texts),)
        }
        return [{name: features[name][i] for name in batched} for i in range(len(texts))]

    def _features(self, texts: Sequence[str], task: str) -> dict[str, Any]:
        """The encoder's input for some texts, on its device."""
        device = self.device
        features = self.encoder.preprocess(list(texts), prompt=self.encoder.prompt_of(task), task=task)
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in features.items()}

    def _encode_dense(self, texts: Sequence[str], task: str, batch_size: int | None) -> np.ndarray:
        texts = check_texts(texts)
        size = check_batch_size(batch_size) or 32
        long = self._long_texts(texts) if task == "document" else {}
        order = sorted((i for i in range(len(texts)) if i not in long), key=lambda i: -len(texts[i]))
        out = np.zeros((len(texts), int(self.encoder.transformer.get_embedding_dimension())), dtype=np.float32)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            features = self._features([texts[i] for i in rows], task)
            mean = self._mean_states(features, task=task)["pooled"]
            out[rows] = torch.nn.functional.normalize(mean, dim=-1).cpu().numpy()
        places = list(long)
        for i, row in encoded_windows(self.encoder, list(long.values()), size, partial(self._mean_states, task=task)):
            out[places[i]] = torch.nn.functional.normalize(row["pooled"], dim=-1).cpu().numpy()
        return out

    @torch.inference_mode()
    def _mean_states(self, features: dict[str, Any], *, task: str) -> dict[str, Tensor]:
        mask = features["attention_mask"].bool()
        states = self.encoder.token_states(features, task).float()
        return {"pooled": (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)}

    def __repr__(self) -> str:
        return f"FastLaneModel({self.name!r}, dim={self.dim}, device={str(self.device)!r})"


def _refuse_options(
    model: FastLaneModel | MultiVectorEncoder, asked: dict[str, Any], backend: str, document_budget: float | None
) -> None:
    """Refuse options that a loaded model cannot take any more."""
    if isinstance(model, FastLaneModel):
        asked["backend"] = None if backend == "auto" else backend
        asked["document_budget"] = None if document_budget == model.document_budget else document_budget
    if ignored := [name for name, value in asked.items() if value is not None]:
        raise InvalidInputError(
            f"{', '.join(ignored)}: no option of a model that is loaded already, such as this {type(model).__name__}; "
            "give them with its folder or name"
        )


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware, which makes it faster than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    return any(
        bool(getattr(torch.cpu, name, bool)()) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )


def _device_name(device: Any) -> str | None:
    """The device as sentence-transformers takes it.

    Raises:
        InvalidInputError: torch knows no such device.
    """
    if device is None:
        return None
    try:
        return str(torch.device(device))
    except (RuntimeError, TypeError) as error:
        raise InvalidInputError(f"device must be 'cpu', 'cuda', 'cuda:1', 'mps' or None, not {device!r}") from error


def _by_text(value: dict[Any, Any]) -> dict[str, Any]:
    """A mapping with keys that JSON takes; those of a Router are pairs."""
    return {str(key): one for key, one in value.items()}


def _stored_weights(encoder: RoutedEncoder) -> set[str]:
    """Names of the backbone's weights that a file of it holds."""
    tied = getattr(encoder.backbone, "all_tied_weights_keys", None) or {}
    return set(encoder.backbone.state_dict()) - set(tied)


def _scored(row: dict[str, Any]) -> Tensor | slice:
    """Which tokens of a text are scored: a mask, or for all of them a slice, which costs nothing to apply."""
    mask: Tensor = row["attention_mask"].bool()
    if all(mask.tolist()) if mask.device.type == "cpu" else mask.all():  # a list takes a tenth of the time for so few
        return slice(None)
    if not mask.any():
        mask = mask.clone()
        mask[0] = True
    return mask


def _scored_rows(row: dict[str, Any], dim: int | None) -> Tensor:
    """The rows of the tokens that are scored, (Ld, dim) float32, L2-normalised; of a long text in bounded memory."""
    scored = _scored(row)
    rows: Tensor = row["token_embeddings"][:, :dim]
    if len(rows) <= _BLOCK or isinstance(scored, slice):
        return _unit(rows[scored])
    found = rows.new_empty((int(scored.sum()), rows.shape[1]), dtype=torch.float32)
    end = 0
    for some, kept in zip(torch.split(rows, _BLOCK), torch.split(scored, _BLOCK), strict=True):
        begin, end = end, end + int(kept.sum())
        found[begin:end] = _unit(some[kept])
    return found


def _copied(tensor: Tensor, scored: Tensor | slice, *, alone: bool) -> Tensor:
    """The rows of a text's scored tokens, copied so that they do not keep the whole batch in memory."""
    if isinstance(scored, Tensor):
        return tensor[scored]
    return tensor if alone else tensor.clone()


def _unit(embeddings: Tensor) -> Tensor:
    """Float32 and L2-normalised; a copy."""
    return torch.nn.functional.normalize(embeddings.float(), dim=-1)


def _after_fork() -> None:
    """Make torch use one thread in a forked child.

    The threads of GNU's OpenMP, which torch uses, do not survive a fork. The first parallel operation in the child
    would wait for them for ever.
    """
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
