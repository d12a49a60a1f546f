"""A view of which tokens of a query were routed, for notebooks and terminals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from fastlane_rag.rendering.html import route_html
from fastlane_rag.rendering.terminal import route_table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["Route", "Routes"]

_NO_ROUTER = "no router: the model has none that was trained, so rare tokens come first. Run fastlane train-router"


@dataclass(frozen=True, slots=True)
class Route:
    """Which tokens of a query were routed.

    Attributes:
        tokens: the Lq token strings.
        scores: (Lq,) float32 router scores; ``-inf`` where a token may not be routed.
        selected: positions of the routed tokens, best first.
        spans: (start, end) of each token in the text; (0, 0) for tokens that are not in it, such as [CLS].
        trained: whether a trained router chose; without one, tokens are ranked by how rare they are.
    """

    tokens: list[str]
    scores: np.ndarray = field(compare=False)
    selected: list[int]
    spans: list[tuple[int, int]]
    trained: bool = True

    def _repr_html_(self) -> str:
        return route_html(self.tokens, self.scores.tolist(), self.selected, note="" if self.trained else _NO_ROUTER)

    def __rich__(self) -> Table:
        return route_table(self.tokens, self.scores.tolist(), self.selected, note="" if self.trained else _NO_ROUTER)


class Routes(list[Route]):
    """The routes of some queries, a list that shows itself, one below the other."""

    def _repr_html_(self) -> str:
        return "".join(one._repr_html_() for one in self)

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(*self)
