"""Splitting text into the words that BM25 counts. STORE_FORMAT.md says the same for readers in other languages.

A text is decomposed (NFKD), case-folded and stripped of marks. Its words are the longest runs of letters and digits,
except that a Han or kana character is a word by itself. A word of letters alone is cut to its first seven letters: this
matches inflected forms as well as a stemmer does (docs/tuning.md, "Constants of writing"), in any language with
inflected endings, and without a library whose version could change the result. Words with digits stay whole.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter

__all__ = ["CUT", "count_words", "number"]

CUT = 7
_ALONE = "\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(f"(?!\\W)[{_ALONE}]|[^\\W_{_ALONE}]+")


def count_words(text: str) -> Counter[str]:
    """How often each word occurs in a text."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
        text = "".join(c for c in decomposed if unicodedata.category(c)[0] != "M")
    return Counter([word[:CUT] if word.isalpha() else word for word in _WORD.findall(text.lower())])


def number(word: str) -> int:
    """A word's number in a segment: its CRC-32. Two words with the same number are counted as one."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))
