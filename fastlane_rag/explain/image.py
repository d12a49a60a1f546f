"""The evidence for a score of an image, as a map of its patches.

This module imports torch only when it explains something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastlane_rag.errors import InvalidInputError
from fastlane_rag.explain.evidence import Explanation, query_evidence
from fastlane_rag.explain.terminal import image_view
from fastlane_rag.explain.web import image_html

if TYPE_CHECKING:
    from PIL.Image import Image
    from rich.console import RenderableType

    from fastlane_rag.explain.matches import TokenMatch
    from fastlane_rag.model import FastLaneModel
    from fastlane_rag.types import RouteK

__all__ = ["ImageExplanation", "explain_image"]

_PREVIEW = 900  # pixels of the longer side of what a notebook shows


@dataclass(frozen=True)
class ImageExplanation(Explanation):
    """Which tokens of a query were routed, and which patches of an image each is similar to.

    Notebooks display the map over the image. `text` is what is stored beside the image, and `spans` is empty.

    Attributes:
        image: the image, of Pillow, in RGB.
        similarities: (query tokens, rows, columns) float32, dot products of query tokens and patches, from -1 to 1; NaN
            for a patch that is not stored, under a document budget.
    """

    image: Image = field(repr=False, compare=False)
    similarities: NDArray[np.float32] = field(repr=False, compare=False)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.similarities.shape[1], self.similarities.shape[2]

    @property
    def heat(self) -> NDArray[np.float32]:
        """(rows, columns) float32: the mean similarity of a patch to the query's tokens, each by its share.

        The share is that of the router's attention, so that markers and padding of the query count nothing.
        """
        shares = np.array([match.share for match in self.tokens], np.float32)
        return np.tensordot(shares, self.similarities, axes=1).astype(np.float32)

    def heat_map(self, token: int | None = None, *, alpha: float = 0.5) -> Image:
        """The map over the image, of Pillow, in RGB; `heat_map().save("page.png")` writes it.

        Args:
            token: position of one query token among `tokens`; None for `heat`. Maps of single tokens share one scale.
            alpha: how much of the image is covered, from 0 to 1.

        Raises:
            InvalidInputError: the query has no such token, or `alpha` is no number from 0 to 1.
        """
        if token is not None and (isinstance(token, bool) or token not in range(len(self.tokens))):
            raise InvalidInputError(f"token must be None or from 0 to {len(self.tokens) - 1}, not {token!r}")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 <= alpha <= 1:
            raise InvalidInputError(f"alpha must be a number from 0 to 1, not {alpha!r}")
        import torch
        from sentence_transformers.multi_vector_encoder.interpretability import render_similarity_map_on_image

        shown = self.heat if token is None else self.similarities[token]
        scale = self.heat if token is None else self.similarities
        low, high = (float(np.nanmin(scale)), float(np.nanmax(scale))) if np.isfinite(scale).any() else (0.0, 1.0)
        drawn = render_similarity_map_on_image(
            self.image, torch.from_numpy(np.nan_to_num(shown, nan=low)), alpha=alpha, normalization_range=(low, high)
        )
        return drawn.convert("RGB")

    def _repr_html_(self) -> str:
        drawn = self.heat_map()
        drawn.thumbnail((_PREVIEW, _PREVIEW))
        return image_html(drawn, self.tokens)

    def __rich__(self) -> RenderableType:
        return image_view(self.text, self.image.size, self.grid, self.heat, self.tokens)


def explain_image(
    model: FastLaneModel,
    query: str,
    image: Any,
    text: str = "",
    *,
    route_k: RouteK | None = "auto",
    weighted: bool = True,
) -> ImageExplanation:
    """Explain the score of an image for a query. Encodes both.

    Args:
        model: takes images, and its processor says into which patches it cuts them.
        query: the query.
        image: as `FastLaneModel.encode_images` takes it.
        text: what is stored beside the image.
        route_k: as in `explain`.
        weighted: as in `explain`.

    Raises:
        InvalidInputError: the model takes no images, or this one cannot be read.
        ModelError: the model cannot say where in a text or in an image its tokens are.
    """
    import torch

    from fastlane_rag.model.images import open_image, patch_grid, patch_positions
    from fastlane_rag.scoring import token_maxima

    opened = open_image(image)
    made = query_evidence(model, query, route_k=None if route_k == "all" else route_k, weighted=weighted)
    with torch.inference_mode():
        (row,) = model._encode_images([opened])
        kept = torch.nonzero(row["attention_mask"])[:, 0].tolist() or [0]
        rows = torch.nn.functional.normalize(row["token_embeddings"][kept, : model.truncate_dim].float(), dim=-1)
        values, best = token_maxima(made.rows, rows, torch.tensor([0, len(rows)], device=rows.device))
    height, width = patch_grid(model.encoder, opened.size)
    ids = row["input_ids"] if "input_ids" in row else torch.empty(0)
    places = {p: i for i, p in enumerate(patch_positions(model.encoder, ids, height * width))}
    names = model.encoder.tokenizer.convert_ids_to_tokens(ids.tolist())
    similarities = np.full((len(made.rows), height * width), np.nan, np.float32)
    stored = [(i, places[p]) for i, p in enumerate(kept) if p in places]
    if stored:
        similarities[:, [patch for _, patch in stored]] = (
            (made.rows @ rows[[i for i, _ in stored]].T).cpu().numpy().astype(np.float32)
        )
    matches: list[TokenMatch] = []
    for i, (value, at) in enumerate(zip(values[0].tolist(), best[0].tolist(), strict=True)):
        patch = places.get(kept[at])
        where = None if patch is None else divmod(patch, width)
        matched = names[kept[at]] if where is None else f"patch {where[0]}, {where[1]}"
        matches.append(made.match(i, None, matched, value, where))
    return ImageExplanation(query, text, tuple(matches), opened, similarities.reshape(-1, height, width))
