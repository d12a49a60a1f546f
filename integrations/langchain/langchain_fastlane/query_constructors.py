"""Self-query: translates the structured query of a language model to the index's filter language."""

from typing import Any

from langchain_core.structured_query import Comparator, Comparison, Operation, Operator, StructuredQuery, Visitor


class FastLaneTranslator(Visitor):
    """Translates structured queries to filters: `SelfQueryRetriever(..., structured_query_translator=...)`.

    It does not support `like`, so the language model is told not to use it. Dates become ISO 8601 strings, which sort
    as dates if the metadata has dates in the same form.
    """

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
        return {comparison.attribute: {f"${name}": _plain(comparison.value)}}

    def visit_structured_query(self, structured_query: StructuredQuery) -> tuple[str, dict[str, Any]]:
        """The query text and the search arguments."""
        if structured_query.filter is None:
            return structured_query.query, {}
        return structured_query.query, {"filter": structured_query.filter.accept(self)}


def _plain(value: Any) -> Any:
    """The plain value; the query language has dates as `{"type": "date", "date": "2024-05-01"}`."""
    if isinstance(value, dict) and value.get("type") in ("date", "datetime"):
        return value[value["type"]]
    return value
