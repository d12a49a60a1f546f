"""The search options as fields of a pydantic model, for adapters whose base classes are pydantic's."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model

from fastlane_rag.search.options import SearchOptions
from fastlane_rag.search.policy import SearchPolicy
from fastlane_rag.storage.filters import Filter
from fastlane_rag.types import Fusion, Lane, RouteK

__all__ = ["SearchFields"]


def _model() -> type[BaseModel]:
    hints = get_type_hints(SearchOptions)
    options = [one for one in fields(SearchOptions) if one.name != "k"]
    given: dict[str, Any] = {}
    for one in options:
        check = BeforeValidator(partial(_checked, one.metadata["check"], one.name))
        given[one.name] = Annotated[hints[one.name], check], Field(one.default, description=one.metadata["help"])
    return create_model("SearchFields", __config__=ConfigDict(arbitrary_types_allowed=True), **given)


def _checked(check: Any, name: str, value: Any) -> Any:
    return check(value, name)


if TYPE_CHECKING:

    class SearchFields(BaseModel):
        """What type checkers see of the model below. A test holds it against `SearchOptions`."""

        filter: Filter | None = None
        route_k: RouteK | None = None
        refine: bool = True
        weighted: bool = True
        lane: Lane | None = None
        nprobe: int | None = None
        depth: int | None = None
        hybrid: bool | float = False
        fusion: Fusion = "relative"
        score_threshold: float | None = None
        policy: SearchPolicy | None = None

else:
    SearchFields = _model()
    SearchFields.__doc__ = """One field for each option of `SearchOptions` but `k`, checked in the same way."""
