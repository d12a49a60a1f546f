"""Self-query: translates the structured query of a language model to the index's filter language."""

from datetime import datetime
from typing import Any

from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery, Visitor

from fastlane_rag.storage.filters import Filter, all_of


class FastLaneTranslator(Visitor):
    """Translates structured queries to filters: `SelfQueryRetriever(..., structured_query_translator=...)`.

    `like` is SQL's, with % and _, and case matters. Dates compare as instants with dates in the metadata; `contain` and
    `like` take them as ISO 8601 texts.

    Args:
        filter: what every document must pass besides. `SelfQueryRetriever` puts the language model's filter in
            place of the one in its `search_kwargs`, so a filter that keeps tenants apart belongs here.
    """

    def __init__(self, filter: Filter | None = None) -> None:
        self.filter = filter

    allowed_operators = (Operator.AND, Operator.OR, Operator.NOT)
    allowed_comparators = (
        Comparator.EQ,
        Comparator.NE,
        Comparator.GT,
        Comparator.GTE,
        Comparator.LT,
        Comparator.LTE,
        Comparator.CONTAIN,
        Comparator.IN,
        Comparator.NIN,
        Comparator.LIKE,
    )

    def visit_operation(self, operation: Operation) -> dict[str, Any]:
        """`{"$and": [...]}` and `{"$or": [...]}`; `not` negates the conjunction of its arguments."""
        self._validate_func(operation.operator)
        arguments = [argument.accept(self) for argument in operation.arguments]
        if operation.operator == Operator.NOT:
            return {"$not": arguments[0] if len(arguments) == 1 else {"$and": arguments}}
        return {f"${operation.operator.value}": arguments}

    def visit_comparison(self, comparison: Comparison) -> dict[str, Any]:
        """`{attribute: {"$gte": value}}`, and so on."""
        self._validate_func(comparison.comparator)
        name = "contains" if comparison.comparator == Comparator.CONTAIN else comparison.comparator.value
        of_text = comparison.comparator in (Comparator.CONTAIN, Comparator.LIKE)
        return {comparison.attribute: {f"${name}": _plain(comparison.value, of_text)}}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """The query text and the search arguments."""
        asked = None if structured_query.filter is None else structured_query.filter.accept(self)
        found = all_of(self.filter, asked)
        return structured_query.query, {} if found is None else {"filter": found}


def _plain(value: Any, of_text: bool) -> Any:
    """The plain value; the query language has dates as `{"type": "date", "date": "2024-05-01"}`."""
    if isinstance(value, list | tuple):
        return [_plain(one, of_text) for one in value]
    if not isinstance(value, dict) or value.get("type") not in ("date", "datetime"):
        return value
    text = value[value["type"]]
    try:
        return text if of_text else datetime.fromisoformat(text)
    except ValueError:  # LangChain lets a date of another form pass, with a warning
        return text
