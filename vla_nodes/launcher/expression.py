"""Values of `$(eval ...)`: arithmetic, comparisons and the functions of `math`, nothing else."""

from __future__ import annotations

import ast
import math
import operator
from typing import Any


class ExpressionError(Exception):
    """An expression is not Python, uses what is not allowed, or has no value."""


_OPERATORS: dict[type, Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda left, right: left in right,
    ast.NotIn: lambda left, right: left not in right,
}
_MATH = {name: value for name, value in vars(math).items() if not name.startswith("_")}
_BUILTINS = {
    function.__name__: function
    for function in (abs, bool, float, int, len, max, min, round, str, sum)
}
_STRING_METHODS = {"endswith", "lower", "replace", "split", "startswith", "strip", "upper"}


def evaluate_expression(text: str) -> Any:
    """Return the value of a Python expression over constants, operators and `math`.

    Text methods such as `lower` and `split`, indexing, `x if c else y` and the usual built-in
    functions on numbers are allowed; names, attributes and calls beyond those are not. Raises
    `ExpressionError`.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except ExpressionError:
        raise
    except SyntaxError as error:
        raise ExpressionError(f"'{text}' is not a Python expression: {error.msg}") from error
    except Exception as error:
        raise ExpressionError(f"'{text}' has no value: {error}") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_value(item) for item in node.elts]
        return items if isinstance(node, ast.List) else tuple(items)
    if isinstance(node, ast.Name):
        return _named(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BoolOp):
        return _boolean(node)
    if isinstance(node, ast.Compare):
        return _comparison(node)
    if isinstance(node, ast.IfExp):
        return _value(node.body if _value(node.test) else node.orelse)
    if isinstance(node, ast.Subscript):
        return _value(node.value)[_value(node.slice)]
    if isinstance(node, ast.Attribute):
        return _attribute(node)
    if isinstance(node, ast.Call) and not node.keywords:
        return _value(node.func)(*[_value(argument) for argument in node.args])
    raise ExpressionError(f"'{ast.unparse(node)}' is not allowed in an expression")


def _named(name: str) -> Any:
    if name in _MATH:
        return _MATH[name]
    if name in _BUILTINS:
        return _BUILTINS[name]
    raise ExpressionError(f"'{name}' is not known in an expression (text must be quoted)")


def _boolean(node: ast.BoolOp) -> Any:
    decided_by = isinstance(node.op, ast.Or)
    value: Any = None
    for operand in node.values:
        value = _value(operand)
        if bool(value) == decided_by:
            break
    return value


def _comparison(node: ast.Compare) -> bool:
    left = _value(node.left)
    for operation, right_node in zip(node.ops, node.comparators, strict=True):
        right = _value(right_node)
        if not _OPERATORS[type(operation)](left, right):
            return False
        left = right
    return True


def _attribute(node: ast.Attribute) -> Any:
    if isinstance(node.value, ast.Name) and node.value.id == "math" and node.attr in _MATH:
        return _MATH[node.attr]
    owner = _value(node.value)
    if isinstance(owner, str) and node.attr in _STRING_METHODS:
        return getattr(owner, node.attr)
    raise ExpressionError(f"'{ast.unparse(node)}' is not allowed in an expression")
