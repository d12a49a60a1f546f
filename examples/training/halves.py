"""A BERT-like transformer in two halves: the lower layers run once over all texts, the upper ones as often as needed.

What stays frozen gives the same states at every step, so training and judging read them from files.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from fastlane_rag.training.projection import States
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel

BATCH_TOKENS, BATCH_TEXTS = 6144, 48


def between(base: Path, other: Path, share: float, frozen: int) -> Any:
    """The transformer of ``base`` with ``share`` of the way to ``other``; the lowest layers are the base's."""
    model = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    far = AutoModel.from_pretrained(other, dtype=torch.float32).state_dict()
    kept = ("embeddings", "pooler", *(f"encoder.layer.{i}." for i in range(frozen)))
    near = model.state_dict()
    mixed = {
        name: value if name.startswith(kept) or not value.is_floating_point() else value.lerp(far[name], share)
        for name, value in near.items()
    }
    model.load_state_dict(mixed)
    return model


def run_layers(model: Any, states: Tensor, mask: Tensor, first: int, last: int | None = None) -> Tensor:
    """States (B, L, h) after some layers; mask (B, L) bool."""
    low = torch.finfo(states.dtype).min
    bias = torch.zeros(mask.shape, dtype=states.dtype).masked_fill(~mask, low)[:, None, None, :]
    for layer in model.encoder.layer[first:last]:
        states = layer(states, bias)
    return states


@torch.inference_mode()
def lower(model: Any, ids: Sequence[Sequence[int]], layers: int) -> States:
    """States after the embeddings and the lowest layers."""
    lengths = torch.tensor([len(i) for i in ids])
    offsets = F.pad(lengths.cumsum(0), (1, 0))
    rows = torch.empty(int(offsets[-1]), model.config.hidden_size, dtype=torch.float16)
    for part in _batches(lengths.tolist()):
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(ids[i]) for i in part], batch_first=True)
        mask = torch.arange(tokens.shape[1]) < lengths[part, None]
        states = model.embeddings(input_ids=tokens, token_type_ids=torch.zeros_like(tokens))
        _keep(rows, offsets, part, run_layers(model, states, mask, 0, layers))
    return States(rows, torch.tensor([t for i in ids for t in i]), offsets)


@torch.inference_mode()
def upper(model: Any, low: States, layers: int) -> States:
    """The transformer's own states, from those after its lowest ``layers``."""
    dtype, rows = next(model.parameters()).dtype, torch.empty_like(low.rows)
    for part in _batches(low.offsets.diff().tolist()):
        states, mask = low.padded(part)
        _keep(rows, low.offsets, part, run_layers(model, states.to(dtype), mask, layers))
    return States(rows, low.ids, low.offsets)


def _keep(rows: Tensor, offsets: Tensor, part: Sequence[int], states: Tensor) -> None:
    for i, of_text in zip(part, states.half(), strict=True):
        start, end = int(offsets[i]), int(offsets[i + 1])
        rows[start:end] = of_text[: end - start]


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    while order:
        size = min(BATCH_TEXTS, max(1, BATCH_TOKENS // lengths[order[min(BATCH_TEXTS, len(order)) - 1]]))
        yield order[:size]
        order = order[size:]
