"""Tokenizers that several threads may use at once.

A fast tokenizer keeps truncation and padding as its own state, and sets them again whenever a call wants others. One
tokenizer shared by queries and documents of different lengths therefore cuts a document to the length of a query that
another thread encodes, without an error.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from sentence_transformers.base.modules import Transformer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

__all__ = ["TaskTokenizers"]


class TaskTokenizers:
    """One copy of a model's tokenizer for each truncation and padding, so that no call changes them for another.

    A copy is made when it is first needed, in about a tenth of a second. Pickled without the copies.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[Any, ...], _Copy] = {}

    def preprocess(
        self, transformer: Transformer, inputs: Sequence[Any], prompt: str | None, kwargs: dict[str, Any]
    ) -> dict[str, Any] | None:
        """What ``transformer.preprocess`` gives.

        Args:
            transformer: the module; its own tokenizer is not used, so that it stays as it is.
            inputs: texts.
            prompt: put before each text.
            kwargs: further arguments of ``preprocess``.

        Returns:
            The features; None where the tokenizer keeps no state, or the arguments are not known here.
        """
        tokenizer = transformer.processor
        if not (isinstance(tokenizer, PreTrainedTokenizerBase) and tokenizer.is_fast and kwargs.keys() <= _KNOWN):
            return None
        key = (
            id(tokenizer),
            len(tokenizer),
            tokenizer.model_max_length,
            tokenizer.padding_side,
            tokenizer.truncation_side,
            transformer.query_length,
            transformer.document_length,
            repr(transformer.query_expansion),
            repr(transformer.processing_kwargs),
            prompt,
            kwargs.get("task"),
            kwargs.get("max_length"),
        )
        own = self._copies.get(key)
        if own is None:
            if len(self._copies) >= _MOST:
                self._copies.clear()
            own = self._copies.setdefault(key, _Copy(tokenizer, transformer, prompt, kwargs))
        return own.features(transformer, inputs, prompt, kwargs)

    def __reduce__(self) -> tuple[type[TaskTokenizers], tuple[()]]:
        return TaskTokenizers, ()


_KNOWN = {"task", "max_length"}
# A caller who changes lengths or prompts all the time does not fill the memory with copies.
_MOST = 16


class _Copy:
    """One copy of a tokenizer, which is always called alike."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, transformer: Transformer, prompt: str | None, kwargs: dict[str, Any]
    ) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._plain = False
        # The first call sets the state, so it comes before another thread can have the copy.
        known = self.features(transformer, _TEXTS, prompt, kwargs)
        ours = self._directly(_TEXTS)
        self._plain = known.keys() == ours.keys() and all(
            torch.equal(ours[name], value) if isinstance(value, Tensor) else ours[name] == value
            for name, value in known.items()
        )

    def features(
        self, transformer: Transformer, inputs: Sequence[str], prompt: str | None, kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        if self._plain:
            return self._directly(inputs)
        features: dict[str, Any] = _with(transformer, self._tokenizer).preprocess(inputs, prompt=prompt, **kwargs)
        return features

    def _directly(self, inputs: Sequence[str]) -> dict[str, Any]:
        """What most modules' ``preprocess`` comes to, in a third of its time, which a query feels.

        It is taken where it gave the same for some texts.
        """
        encoded = self._tokenizer.backend_tokenizer.encode_batch(list(inputs))
        features: dict[str, Any] = {"input_ids": torch.tensor([one.ids for one in encoded])}
        if "token_type_ids" in self._tokenizer.model_input_names:
            features["token_type_ids"] = torch.tensor([one.type_ids for one in encoded])
        features["attention_mask"] = torch.tensor([one.attention_mask for one in encoded])
        return {**features, "modality": "text"}


_TEXTS = ["a text to try", "", "Try Another; " + "it is too long for any model. " * 2000]


def _with(transformer: Transformer, tokenizer: PreTrainedTokenizerBase) -> Transformer:
    """The module with another tokenizer; weights and settings are shared."""
    twin = copy.copy(transformer)
    twin.processor = tokenizer
    return twin
