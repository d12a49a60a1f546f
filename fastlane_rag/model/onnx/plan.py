"""The weights of a BERT-like encoder, under names that do not depend on whose it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Affine", "Layer", "NotExportableError", "Plan", "digest", "plan_of"]

Floats = NDArray[np.float32]
Affine = tuple[Floats, Floats]
"""A linear layer, (out, in) and (out,), or a layer norm, (width,) and (width,)."""


class NotExportableError(Exception):
    """Why an encoder cannot be written as a graph."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer block: attention, norm, two linear layers around an activation, norm."""

    query: Affine
    key: Affine
    value: Affine
    attended: Affine
    attended_norm: Affine
    wide: Affine
    narrow: Affine
    norm: Affine


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole encoder.

    Attributes:
        words: (vocabulary, width).
        positions: (length, width), the row of the only token type added.
        norm: of the sum of both.
        layers: in their order.
        heads: of attention, in each layer.
        epsilon: of the layer norms.
        activation: "gelu" or "relu".
    """

    words: Floats
    positions: Floats
    norm: Affine
    layers: list[Layer]
    heads: int
    epsilon: float
    activation: str


_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attended": "attention.output.dense",
    "attended_norm": "attention.output.LayerNorm",
    "wide": "intermediate.dense",
    "narrow": "output.dense",
    "norm": "output.LayerNorm",
}
_DISTILBERT = {
    "query": "attention.q_lin",
    "key": "attention.k_lin",
    "value": "attention.v_lin",
    "attended": "attention.out_lin",
    "attended_norm": "sa_layer_norm",
    "wide": "ffn.lin1",
    "narrow": "ffn.lin2",
    "norm": "output_layer_norm",
}
_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert")


def plan_of(backbone: PreTrainedModel) -> Plan:
    """Read an encoder.

    Raises:
        NotExportableError: it is no BERT, RoBERTa, XLM-RoBERTa, CamemBERT or DistilBERT, or has parts that these do
            not have, such as adapters.
    """
    config = backbone.config
    kind = str(config.model_type)
    distilled = kind == "distilbert"
    if not distilled and kind not in _BERT_LIKE:
        raise NotExportableError(f"it is of the kind {kind!r}, not BERT-like")
    activation = config.activation if distilled else config.hidden_act
    if activation not in ("gelu", "relu"):
        raise NotExportableError(f"its activation is {activation!r}")
    if getattr(config, "position_embedding_type", None) not in (None, "absolute"):
        raise NotExportableError(f"its positions are {config.position_embedding_type!r}")
    if getattr(config, "is_decoder", False) or getattr(config, "add_cross_attention", False):
        raise NotExportableError("it decodes")
    weights: dict[str, Floats] = {
        name: value.detach().to("cpu").float().numpy()
        for name, value in backbone.state_dict().items()
        if not name.startswith("pooler.") and not name.startswith("embeddings.position_ids")
    }
    weights.pop("embeddings.token_type_ids", None)

    def take(name: str) -> Floats:
        if name not in weights:
            raise NotExportableError(f"it has no weights {name!r}")
        return weights.pop(name)

    def affine(name: str) -> Affine:
        return take(f"{name}.weight"), take(f"{name}.bias")

    words = take("embeddings.word_embeddings.weight")
    positions: Floats = take("embeddings.position_embeddings.weight")
    if not distilled:
        positions = positions + take("embeddings.token_type_embeddings.weight")[0]
    if "roberta" in kind or kind == "camembert":  # they count positions from the one after padding's
        positions = positions[int(config.pad_token_id) + 1 :].copy()
    prefix, names = ("transformer.layer", _DISTILBERT) if distilled else ("encoder.layer", _BERT)
    norm = affine("embeddings.LayerNorm")
    layers = [
        Layer(**{part: affine(f"{prefix}.{number}.{name}") for part, name in names.items()})
        for number in range(config.num_hidden_layers)
    ]
    if weights:
        raise NotExportableError(f"it has weights of another kind: {', '.join(sorted(weights)[:3])}")
    epsilon = 1e-12 if distilled else float(config.layer_norm_eps)
    return Plan(words, positions, norm, layers, int(config.num_attention_heads), epsilon, activation)


def digest(backbone: PreTrainedModel) -> str:
    """SHA-256 (hex) over the settings and the weights of an encoder in float32."""
    made = hashlib.sha256(json.dumps(backbone.config.to_dict(), sort_keys=True, default=str).encode())
    for name, value in sorted(backbone.state_dict().items()):
        made.update(f"{name}{tuple(value.shape)}".encode())
        made.update(value.detach().to("cpu").float().contiguous().numpy())
    return made.hexdigest()
