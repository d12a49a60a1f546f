"""Documents longer than the model's window, encoded window by window.

The text is tokenised once, whole. Its tokens are encoded in windows of like length that overlap, each at most half as
long as what the model encodes at once (shorter windows find more and take less time), and between the markers that the
tokenizer and the prompt put around a text. Each token's row comes from the window in which it is farthest from an edge,
so that it has its neighbours on both sides; the markers' rows come from the first window, and from the last. SumMaxSim
does not care which window a row came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastlane_rag.lengths import warn_of_documents
from fastlane_rag.model.encoder import RoutedEncoder
from fastlane_rag.model.spans import untruncated
from fastlane_rag.model.stand_ins import stand_ins

__all__ = ["OVERLAP", "SHARE", "LongText", "Window", "encoded_windows", "long_texts", "token_count", "windows"]

SHARE = 2
"""A window takes one in this many of the tokens that the model encodes at once."""
OVERLAP = 8
"""Two neighbouring windows share one token in this many; docs/tuning.md says what is known of both."""

# Features with one row a token, and those that the windows of a text are averaged over.
_OF_TOKENS = ("token_embeddings", "attention_mask", "routing_scores", "document_scores")
_OF_TEXTS = ("pooled",)
# Tokens that the document router chooses among at once: its work grows with their square.
_STRETCH = 1024


class Window(NamedTuple):
    """One window over the tokens of a text: tokens `start` to `stop` are encoded, `first` to `last` kept."""

    start: int
    stop: int
    first: int
    last: int


def windows(tokens: int, size: int, overlap: int) -> list[Window]:
    """The fewest windows of at most `size` tokens, neighbours sharing at least `overlap`; of like length.

    Every token is kept once, in order, by the window in which it is farthest from an edge. All windows together have
    at most (number of windows - 1) * (overlap + 1) tokens more than the text.

    Args:
        tokens: of the text.
        size: tokens a window, at least 1.
        overlap: below `size`.
    """
    if tokens <= size:
        return [Window(0, tokens, 0, tokens)]
    count = math.ceil((tokens - overlap) / (size - overlap))
    length = math.ceil((tokens + (count - 1) * overlap) / count)
    starts = [i * (tokens - length) // (count - 1) for i in range(count)]
    bounds = [0, *((left + length + right) // 2 for left, right in pairwise(starts)), tokens]
    return [Window(s, s + length, bounds[i], bounds[i + 1]) for i, s in enumerate(starts)]


@dataclass(frozen=True)
class LongText:
    """A text that is encoded by its tokens instead of its characters.

    Attributes:
        ids: (L,) int32, with the markers and the prompt.
        head: tokens of markers and prompt before the text.
        tail: tokens of markers after it.
        cut: tokens of the text that `ids` leaves out.
        windows: over the L - head - tail tokens of the text itself.
    """

    ids: NDArray[np.int32]
    head: int
    tail: int
    cut: int
    windows: list[Window]

    def of_window(self, window: Window) -> NDArray[np.int32]:
        """The token ids of a window between the markers."""
        ids, head = self.ids, self.head
        return np.concatenate([ids[:head], ids[head + window.start : head + window.stop], ids[len(ids) - self.tail :]])


def token_count(encoder: RoutedEncoder, text: str, task: str) -> int:
    """Tokens of a text with the markers and the prompt of a task, however long it is."""
    return len(untruncated(encoder.tokenizer).encode(encoder.prompt_of(task) + text))


def long_texts(encoder: RoutedEncoder, texts: Sequence[str], window: int, most: int | None) -> dict[int, LongText]:
    """Those of some documents that do not fit in one window, or have more tokens than are to be encoded.

    Args:
        encoder: whose tokenizer and document prompt count.
        texts: documents.
        window: tokens the model encodes at once, markers and prompt included; 0 for any number.
        most: tokens to encode of a document, markers and prompt included; the rest is cut. None encodes all.

    Returns:
        Them by their position among the texts.
    """
    limit = min(window or most or 0, most or window)
    if not limit:
        return {}
    first = encoder.transformer
    # A processor that is no plain tokenizer puts more around a text than the tokenizer says.
    plain = getattr(encoder.tokenizer, "is_fast", False) and first.processor is encoder.tokenizer
    if not plain or "message" in first.modality_config:
        _warn_if_cut(encoder, texts, window)
        return {}
    tokenizer, prompt = untruncated(encoder.tokenizer), encoder.prompt_of("document")
    markers = len(tokenizer.encode(prompt))
    if 0 < window <= markers:
        return {}
    found = {}
    for position, text in enumerate(texts):
        # A token of ASCII text has a character at least. One more may be a space that the tokenizer puts in front.
        if text.isascii() and len(text) + markers + 1 <= limit:
            continue
        encoded = tokenizer.encode(prompt + text)
        if len(encoded) > limit:
            found[position] = _long(encoded, len(prompt), window or len(encoded), most)
    return found


def _warn_if_cut(encoder: RoutedEncoder, texts: Sequence[str], window: int) -> None:
    """Tell what a model cuts that has no windows: it puts texts into a chat, or does not say where its tokens are."""
    if window:
        lengths = [len(encoder.tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in texts]
        beyond = [length - window for length in lengths if length > window]
        if beyond:
            warn_of_documents(len(beyond), sum(beyond), window)


def _long(encoded: Any, begin: int, window: int, most: int | None) -> LongText:
    ids, special = np.array(encoded.ids, np.int32), encoded.special_tokens_mask
    head = tail = 0
    while head < len(ids) and (special[head] or encoded.token_to_chars(head)[1] <= begin):
        head += 1
    while tail < len(ids) - head and special[-1 - tail]:
        tail += 1
    tokens = len(ids) - head - tail
    kept = tokens if most is None else min(tokens, max(1, most - head - tail))
    size = max(1, window - head - tail)
    if kept > size:
        size = max(1, window // SHARE - head - tail)
    if kept < tokens:
        ids = np.concatenate([ids[: head + kept], ids[len(ids) - tail :]])
    return LongText(ids, head, tail, tokens - kept, windows(kept, size, size // OVERLAP))


def encoded_windows(
    encoder: RoutedEncoder,
    texts: Sequence[LongText],
    batch_size: int,
    run: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Encode long documents, `batch_size` windows at once, by the encoder or by `run`.

    Yields:
        The position of each document among `texts`, in any order, and its features as the encoder gives them of a text
        in one window: `input_ids` (L,), `token_embeddings` (L, dim), `attention_mask` (L,) bool, and what else the
        modules said of tokens. The document router's budget is spent on the whole document.
    """
    # Texts with windows of like length go together, which leaves little padding.
    order = sorted(range(len(texts)), key=lambda i: -texts[i].windows[0].stop)
    waiting = [(position, window) for position in order for window in texts[position].windows]
    rows: dict[str, Tensor] = {}
    for first in range(0, len(waiting), batch_size):
        batch = waiting[first : first + batch_size]
        features, starts = _batch(encoder, [texts[position].of_window(window) for position, window in batch])
        with torch.inference_mode():
            features = encoder(features, task="document") if run is None else run(features)
        for i, (position, window) in enumerate(batch):
            text = texts[position]
            if window.first == 0:
                rows = {"input_ids": torch.from_numpy(text.ids.astype(np.int64))}
            _keep(rows, features, i, starts[i], text, window)
            if window.last == len(text.ids) - text.head - text.tail:
                yield position, _condensed(rows, encoder.document_router.budget) if run is None else rows
                rows = {}


def _batch(encoder: RoutedEncoder, ids: Sequence[NDArray[np.int32]]) -> tuple[dict[str, Any], list[int]]:
    """What the encoder takes of some windows, padded as its tokenizer pads, and where each of them begins."""
    tokenizer, longest = encoder.tokenizer, max(map(len, ids))
    starts = [longest - len(one) if tokenizer.padding_side == "left" else 0 for one in ids]
    padded = np.full((len(ids), longest), tokenizer.pad_token_id or 0, np.int64)
    mask = np.zeros((len(ids), longest), np.int64)
    for i, (one, start) in enumerate(zip(ids, starts, strict=True)):
        padded[i, start : start + len(one)] = one
        mask[i, start : start + len(one)] = 1
    features = {"input_ids": torch.from_numpy(padded), "attention_mask": torch.from_numpy(mask)}
    if "token_type_ids" in tokenizer.model_input_names:
        features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    device = next(encoder.parameters()).device
    return {name: value.to(device) for name, value in features.items()} | {"modality": "text", "part": True}, starts


def _keep(
    rows: dict[str, Tensor], features: dict[str, Any], i: int, start: int, text: LongText, window: Window
) -> None:
    """Copy what is kept of a window to its place in the document."""
    total = len(text.ids)
    # The first window keeps the markers before the text as well, the last one those behind it.
    first = 0 if window.first == 0 else text.head + window.first
    last = total if window.last == total - text.head - text.tail else text.head + window.last
    source = start - window.start
    for name in (name for name in _OF_TOKENS if name in features):
        value = features[name]
        if name not in rows:
            rows[name] = value.new_empty((total, *value.shape[2:]))
        rows[name][first:last] = value[i, source + first : source + last]
    for name in (name for name in _OF_TEXTS if name in features):
        part = (last - first) / total * features[name][i]
        rows[name] = rows[name] + part if name in rows else part


def _condensed(rows: dict[str, Tensor], budget: float | None) -> dict[str, Tensor]:
    """The document with its budget spent, as `DocumentRouter.condense` does it for a text in one window."""
    rows["attention_mask"] = rows["attention_mask"].bool()
    if budget is None:
        return rows
    scores, stored = rows["routing_scores"], rows["token_embeddings"]
    count = int(torch.isfinite(scores).sum())
    left = min(count, budget) if isinstance(budget, int) else math.ceil(count * budget)
    while True:
        # A long document is thinned stretch by stretch first, until all of it is looked at at once.
        here = torch.isfinite(scores).nonzero()[:, 0]
        stretches = torch.split(here, _STRETCH)
        goal = left if len(stretches) <= 1 else max(left, _STRETCH)
        shares = _shares([len(one) for one in stretches], goal)
        kept = torch.full_like(scores, -torch.inf)
        stored = stored.clone()
        for places, share in zip(stretches, shares, strict=True):
            if share:
                picked, stand_in = stand_ins(stored[places][None], scores[places][None], share)
                stored[places] = stand_in[0].to(stored.dtype)
                kept[places[picked[0]]] = scores[places[picked[0]]]
        scores = kept
        if goal == left:
            break
    rows["token_embeddings"] = stored
    rows["attention_mask"] &= torch.isfinite(scores)
    return rows


def _shares(lengths: Sequence[int], goal: int) -> list[int]:
    """`goal` tokens spread over stretches in proportion to their lengths."""
    ends = np.cumsum([0, *lengths])
    total = max(int(ends[-1]), 1)
    spread = [-(-int(end) * min(goal, total) // total) for end in ends]
    return [after - before for before, after in pairwise(spread)]
