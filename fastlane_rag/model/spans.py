"""Character spans of an encoding's tokens in the text."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["token_spans", "untruncated"]

# Allowance for tokens that an encoder inserts: a marker or two, [CLS], [SEP].
_EXTRA = 16

_copies: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def token_spans(
    tokenizer: Any, prompt: str, text: str, ids: list[int], *, whole_words: bool = True
) -> list[tuple[int, int] | None]:
    """The (start, end) in `text`, in characters, of each token or of the word that it belongs to.

    Args:
        tokenizer: a fast tokenizer of the transformers library.
        prompt: the text that the encoder puts before `text`.
        text: the text.
        ids: the encoder's tokens of prompt and text. It may have inserted markers, appended masks and cut the end.
        whole_words: False gives the span of the token itself, even if it is a piece of a word.

    Returns:
        One span per token; None for a token that is not in the text.
    """
    encoded = untruncated(tokenizer).encode(prompt + text)
    words = _words(encoded, len(prompt), prompt + text, whole_words=whole_words)
    places: list[tuple[int, int] | None] = [None] * len(ids)
    own, special = encoded.ids, encoded.special_tokens_mask
    same = next((i for i, (a, b) in enumerate(zip(ids, own, strict=False)) if a != b), min(len(ids), len(own)))
    for i in range(same):
        places[i] = None if special[i] else words[i]
    # Comparing takes the square of what differs, so what begins alike is left out.
    matcher = SequenceMatcher(None, ids[same:], own[same : len(ids) + _EXTRA], autojunk=False)
    for block in matcher.get_matching_blocks():
        for i in range(block.size):
            if not special[same + block.b + i]:
                places[same + block.a + i] = words[same + block.b + i]
    return places


def _words(encoded: Any, begin: int, text: str, *, whole_words: bool) -> list[tuple[int, int] | None]:
    """The span of each token or its word, counted from `begin`; None for a token before that, and for white space."""
    whole: dict[int, tuple[int, int]] = {}
    for word, (start, end) in zip(encoded.word_ids, encoded.offsets, strict=True):
        if word is not None:
            known = whole.get(word, (start, end))
            whole[word] = min(known[0], start), max(known[1], end)
    spans: list[tuple[int, int] | None] = []
    for word, own in zip(encoded.word_ids, encoded.offsets, strict=True):
        start, end = whole.get(word, own) if whole_words else own
        # Byte-level tokenizers count the space before a word as part of it.
        start += len(text[start:end]) - len(text[start:end].lstrip())
        end -= len(text[start:end]) - len(text[start:end].rstrip())
        spans.append((start - begin, end - begin) if begin <= start < end else None)
    return spans


def untruncated(tokenizer: Any) -> Any:
    """A copy of the tokenizer's core without truncation; the model's own may be encoding in another thread."""
    copy = _copies.get(tokenizer)
    if copy is None:
        from tokenizers import Tokenizer

        copy = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        copy.no_truncation()
        copy.no_padding()
        _copies[tokenizer] = copy
    return copy
