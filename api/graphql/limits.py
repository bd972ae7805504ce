"""What a document may cost. Depth, aliases and tokens are limited by strawberry; the cost is ours.

The cost of a field is 1, times the lengths of the lists around it: `first`, `limit` or `depth`, as the document or a
variable has it, or the default. A list without such an argument counts as `LIST_LENGTH`.
"""

from collections.abc import Mapping
from typing import Any

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)
from strawberry.extensions import SchemaExtension

LENGTHS = frozenset({"first", "limit", "depth"})
"""Arguments that say how long a list is."""

LISTS: Mapping[str, int] = {
    "orders": 50,
    "fills": 50,
    "historyOrders": 50,
    "historyTrades": 50,
    "trades": 50,
    "book": 20,
    "candles": 500,
    "cards": 4,
    "tickers": 4,
}
"""Fields with many values, and how many there are without an argument."""

LENGTH_MAX = 1_000
TOO_COSTLY = "query_too_costly"


class CostLimiter(SchemaExtension):
    """Refuses an operation whose cost is above a bound, before any resolver runs."""

    def __init__(self, cost_max: int) -> None:
        self._cost_max = cost_max

    def on_validate(self) -> Any:
        """Looks at the cost before the document is validated; errors from here stop the operation."""
        context = self.execution_context
        definitions = context.graphql_document.definitions if context.graphql_document else ()
        fragments = {each.name.value: each for each in definitions if isinstance(each, FragmentDefinitionNode)}
        for operation in definitions:
            if not isinstance(operation, OperationDefinitionNode):
                continue
            counted = _Cost(fragments, context.variables or {}, self._cost_max)
            if counted.of(operation.selection_set, 1, frozenset(), frozenset()) > self._cost_max:
                text = f"the query costs more than {self._cost_max}: ask for fewer items or fields"
                context.pre_execution_errors = [GraphQLError(text, [operation], extensions={"code": TOO_COSTLY})]
                break
        yield


class _Cost:
    def __init__(
        self, fragments: Mapping[str, FragmentDefinitionNode], variables: Mapping[str, Any], cost_max: int
    ) -> None:
        self._fragments = fragments
        self._variables = variables
        self._cost_max = cost_max
        self._counted = 0

    def of(self, selections: SelectionSetNode | None, times: int, spread: frozenset[str], lists: frozenset[str]) -> int:
        """The cost so far, with that of a selection within `lists` of `times` items in all, and within these fragments.

        It stops counting above the bound, so that a document of nested fragments costs no more than its bound here.
        """
        for selection in selections.selections if selections else ():
            if self._counted > self._cost_max:
                break
            if isinstance(selection, FieldNode):
                self._counted += times
                name = selection.name.value
                length = self._length(selection, is_counted=name in lists)
                self.of(selection.selection_set, times * length, spread, lists | {name})
            elif isinstance(selection, InlineFragmentNode):
                self._counted += 1
                self.of(selection.selection_set, times, spread, lists)
            elif isinstance(selection, FragmentSpreadNode):
                self._counted += 1
                name = selection.name.value
                if name in self._fragments and name not in spread:
                    self.of(self._fragments[name].selection_set, times, spread | {name}, lists)
        return self._counted

    def _length(self, field: FieldNode, *, is_counted: bool) -> int:
        """How many items a field has. A list within the one of the same name is its content, which is counted."""
        for argument in field.arguments or ():
            if argument.name.value not in LENGTHS:
                continue
            value: Any = None
            if isinstance(argument.value, IntValueNode):
                value = int(argument.value.value)
            elif isinstance(argument.value, VariableNode):
                value = self._variables.get(argument.value.name.value)
            if isinstance(value, int):
                return min(max(1, value), LENGTH_MAX)
        return 1 if is_counted else LISTS.get(field.name.value, 1)
