"""Caches the token states of a frozen transformer, whose computation takes most of the time of training routers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor

__all__ = ["remembered_states"]

_MOST_BYTES = 1 << 30


@contextmanager
def remembered_states(transformer: Transformer, most_bytes: int = _MOST_BYTES) -> Iterator[None]:
    """Make a transformer keep the token states of the texts it has seen.

    Args:
        transformer: must be frozen, without dropout. On other devices than the CPU nothing is kept.
        most_bytes: the most bytes of states to keep; once full, other texts are computed each time.
    """
    if transformer.auto_model.device.type != "cpu":
        yield
        return
    known: dict[bytes, Tensor] = {}
    held = 0
    compute = transformer.forward

    @torch.no_grad()
    def forward(features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        nonlocal held
        ids, mask = features["input_ids"], features["attention_mask"].bool()
        task = str(kwargs.get("task", features.get("task"))).encode()  # some transformers have adapters by task
        keys = [task + row[kept].numpy().tobytes() for row, kept in zip(ids, mask, strict=True)]
        states: dict[bytes, Tensor] = {key: known[key] for key in keys if key in known}
        new = {key: row for row, key in enumerate(keys) if key not in states}
        if new:
            rows = list(new.values())
            some = {n: v[rows] if isinstance(v, Tensor) and len(v) == len(ids) else v for n, v in features.items()}
            made = compute(some, **kwargs)["token_embeddings"]
            for key, row, of_text in zip(new, rows, made, strict=True):
                states[key] = of_text[mask[row]].clone()
                size = states[key].nbytes
                if held + size <= most_bytes:
                    known[key] = states[key]
                    held += size
        first = states[keys[0]]
        out = first.new_zeros(*ids.shape, first.shape[1])
        for row, key in enumerate(keys):
            out[row, mask[row]] = states[key]
        features["token_embeddings"] = out
        return features

    setattr(transformer, "forward", forward)  # noqa: B010  (mypy: a method)
    try:
        yield
    finally:
        del transformer.forward
