"""Many texts through an encoder, texts of like length together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from fastlane_rag.progress import encoded

if TYPE_CHECKING:
    from fastlane_rag.model.encoder import RoutedEncoder

__all__ = ["encoded_in_batches"]

# Texts tokenised at once, which the tokenizer shares among threads, and then sorted by their tokens.
_TOKENISED = 1024


def encoded_in_batches(
    encoder: RoutedEncoder, texts: list[str], task: str, size: int, show_progress: bool
) -> list[dict[str, Any]]:
    """What ``encoder.encode`` gives for each text with ``output_value=None``, with less padding.

    Args:
        encoder: whose prompts count.
        texts: to encode.
        task: "query" or "document".
        size: texts of a batch.
        show_progress: show a bar on stderr.
    """
    rows: list[dict[str, Any]] = [{} for _ in texts]
    device = next(encoder.parameters()).device
    encoder.eval()
    prompt = encoder.prompt_of(task)
    with tqdm(total=len(texts), desc="Encoding", disable=not show_progress) as bar, torch.inference_mode():
        for start in range(0, len(texts), _TOKENISED):
            some = texts[start : start + _TOKENISED]
            features = encoder.preprocess(some, prompt=prompt, task=task)
            needed = _needed(features)
            if needed is None or len(needed) != len(some):  # several texts in one row, or no text at all
                encode = encoder.encode_query if task == "query" else encoder.encode_document
                rows[start : start + len(some)] = encode(some, batch_size=size, output_value=None)  # type: ignore[assignment]
                bar.update(len(some))
                encoded(len(some))
                continue
            order = needed.sum(1).argsort(descending=True, stable=True)
            for picked in torch.split(order, size):
                columns = needed[picked].any(0).nonzero()[:, 0]
                here = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(None)
                batch = {name: _part(value, needed.shape, picked, here) for name, value in features.items()}
                batch = {name: _moved(v, device) if isinstance(v, Tensor) else v for name, v in batch.items()}
                made = encoder(batch, task=task)
                own = {
                    name: value
                    for name, value in made.items()
                    if isinstance(value, Tensor) and value.shape[:1] == (len(picked),)
                }
                for row, position in enumerate(picked.tolist()):
                    rows[start + position] = {name: value[row] for name, value in own.items()}
                bar.update(len(picked))
                encoded(len(picked))
    return rows


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. From pinned memory a copy to CUDA waits for nothing: the next texts are tokenised."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _needed(features: dict[str, Any]) -> Tensor | None:
    """(B, L) bool, the tokens that are no padding; None where there are none."""
    mask, expansion = features.get("attention_mask"), features.get("query_expansion_positions")
    if mask is None or mask.ndim != 2:
        return None
    needed: Tensor = mask.bool() if expansion is None else mask.bool() | expansion.bool()
    return needed


def _part(value: Any, shape: tuple[int, ...], rows: Tensor, columns: slice) -> Any:
    """These rows and columns of what has one number a token; what has not is passed on."""
    if not isinstance(value, Tensor) or value.shape[:1] != shape[:1]:
        return value
    return value[rows][:, columns] if value.shape == shape else value[rows]
