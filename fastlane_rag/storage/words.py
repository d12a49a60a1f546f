"""Words: what the lexical lane compares. STORE_FORMAT.md says the same for readers in other languages.

A text is decomposed (NFKD), case-folded and rid of marks. Its words are the longest runs of letters and
digits, except that a Han or kana character is a word by itself. Of a word of letters alone the first seven count:
that finds inflected forms as well as Snowball's English stemmer does (BM25's nDCG@10 on dev queries of squad_dev,
scifact and fairytaleqa: .885, .676 and .620; stemmed .889, .664 and .611; whole words .875, .656 and .609), in any
language with inflected endings, and needs neither a library nor a version of one. Codes with digits stay whole.
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
    """What a segment files a word under: its CRC-32. Two words of one number are one word to the lane."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))
