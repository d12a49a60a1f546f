"""Preparing an encoder for training: a fitted projection, a measured prior, frozen layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers.base.modules import Dense, Normalize
from torch import Tensor, nn

from fastlane_rag.errors import ModelError
from fastlane_rag.model.encoder import RoutedEncoder

__all__ = ["add_context", "add_projection", "corpus_idf", "fitted_axes", "freeze"]


def add_projection(encoder: RoutedEncoder, projection: Tensor) -> None:
    """Put a linear projection before the normalisation.

    Args:
        encoder: must have no projection.
        projection: (dim, width of the token states), such as from :func:`fitted_axes`.

    Raises:
        ModelError: the encoder has a projection already, or the widths differ.
    """
    dim, width = projection.shape
    if width != encoder.transformer.get_embedding_dimension():
        raise ModelError(f"the projection takes token states of width {width}, the encoder's are of another")
    if any(isinstance(m, Dense) for m in encoder):
        raise ModelError("the encoder has a projection already; train it as it is with dim: null")
    dense = Dense(
        width,
        dim,
        bias=False,
        activation_function=nn.Identity(),
        init_weight=projection,
        module_input_name="token_embeddings",
    ).to(encoder.device)
    position = next((i for i, m in enumerate(encoder) if isinstance(m, Normalize)), len(encoder))
    encoder.insert(position, dense)


@torch.no_grad()
def fitted_axes(encoder: RoutedEncoder, dim: int, texts: Sequence[str], *, batch_size: int = 32) -> Tensor:
    """A projection that keeps the cosines of tokens as well as possible: (dim, width).

    The rows are the leading principal axes of the unit-length token states of ``texts``: the linear map with the least
    squared error. They are uncentred, because MaxSim compares cosines.

    Raises:
        ModelError: ``dim`` exceeds the encoder's width.
    """
    width = int(encoder.transformer.get_embedding_dimension())
    if dim > width:
        raise ModelError(f"cannot project token states of width {width} to {dim}; choose dim <= {width}")
    moment = torch.zeros(width, width, dtype=torch.float64)
    encoder.eval()
    for start in range(0, len(texts), batch_size):
        features = encoder.preprocess(list(texts[start : start + batch_size]), task="document")
        features = {k: v.to(encoder.device) if isinstance(v, Tensor) else v for k, v in features.items()}
        mask = features["attention_mask"].bool()
        states = nn.functional.normalize(encoder.transformer(features)["token_embeddings"][mask].float(), dim=-1)
        moment += (states.T @ states).double().cpu()
    axes: Tensor = torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :dim].T.float().contiguous()
    return axes


def add_context(encoder: RoutedEncoder, rank: int) -> None:
    """Add contextual views of ``rank`` to the query router; a router that has views of this rank keeps them.

    Raises:
        ModelError: the router has a context of another rank.
    """
    router = encoder.query_router
    if router.context is None:
        router.give_context(int(encoder.get_embedding_dimension() or 0), rank)
    elif router.context_rank != rank:
        raise ModelError(
            f"routing.context is {rank}, but the model's query router has a context of rank {router.context_rank}; "
            f"say {router.context_rank}, or 0 to train it as it is"
        )


def corpus_idf(encoder: RoutedEncoder, texts: Sequence[str], *, batch_size: int = 1000) -> Tensor:
    """Inverse document frequency of every token id, ``log((N + 1) / (df + 1))`` in nats: (vocabulary,) float32."""
    tokenizer = encoder.tokenizer
    counts = torch.zeros(len(tokenizer), dtype=torch.float64)
    for start in range(0, len(texts), batch_size):
        for ids in tokenizer(list(texts[start : start + batch_size]), truncation=True)["input_ids"]:
            counts[torch.tensor(sorted(set(ids)), dtype=torch.long)] += 1
    return torch.log((len(texts) + 1) / (counts + 1)).float()


def freeze(encoder: RoutedEncoder, *, layers: int, embeddings: bool) -> None:
    """Freeze the lowest ``layers`` of the transformer, and its embedding table where ``embeddings`` is true.

    Raises:
        ModelError: the transformer has no list of layers, or a shorter one.
    """
    base = encoder.backbone
    if embeddings:
        getattr(base, "embeddings", base.get_input_embeddings()).requires_grad_(False)
    if not layers:
        return
    stack = next((m for m in base.modules() if isinstance(m, nn.ModuleList) and len(m) > 1), None)
    if stack is None or layers > len(stack):
        found = 0 if stack is None else len(stack)
        raise ModelError(f"freeze_layers={layers}, but the transformer shows {found} layers")
    for layer in list(stack)[:layers]:
        layer.requires_grad_(False)
