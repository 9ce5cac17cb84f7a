"""The texts of a saved program that torch evaluates: computed sizes, and conditions on the inputs.

torch passes the first to `sympy.sympify` and the second to `exec`, and either runs whatever it gets. So only the
grammar of what torch's own printers write is accepted (torch/utils/_sympy/functions.py and printers.py).
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Characters of an expression: those of convolutional networks with dynamic sizes have a few thousand.
MAX_EXPRESSION: Final = 1 << 16

# One line of plain characters. Those that sympy or a later Python could read otherwise than `ast` does are not among
# them.
_TOKEN: Final = re.compile(
    r" *(?:[A-Za-z_]\w*|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?![\w.])|'[^'\"\\\n]*'"
    r"|//|\*\*|<<|>>|[<>=!]=|[-+*/%<>=&|~^(),.\[\]]) *",
    re.ASCII,
)
#: Names that torch gives its symbols: s77, u0, zuf1.
_SYMBOL: Final = re.compile(r"[a-z]{1,8}[0-9]{1,9}")
_ATTRIBUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_CONSTANTS: Final = frozenset({"true", "false", "oo", "int_oo", "nan", "zoo"})
#: What srepr and str of sympy write of torch's expressions; torch's own are in torch.utils._sympy.functions.
_SHAPE_CALLS: Final = frozenset(
    {"Abs", "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "Equality", "ExprCondPair", "Float", "FloatPow"}
    | {"FloatTrueDiv", "FloorDiv", "FloorToInt", "Ge", "GreaterThan", "Gt", "Identity", "IntTrueDiv", "Integer"}
    | {"IsNonOverlappingAndDenseIndicator", "LShift", "Le", "LessThan", "Lt", "Max", "Min", "Mod", "ModularIndexing"}
    | {"Mul", "Ne", "Not", "Or", "Piecewise", "Pow", "PowByNatural", "PythonMod", "RShift", "Rational", "RoundDecimal"}
    | {"RoundToInt", "StrictGreaterThan", "StrictLessThan", "Symbol", "ToFloat", "TruncToFloat", "TruncToInt"}
    | {"Tuple", "Unequality", "Where", "ceiling", "floor", "sqrt"}
)
_OPAQUE: Final = re.compile(r"(?:OpaqueUnaryFn|BitwiseFn)_[a-z0-9_]+")
_ASSUMPTIONS: Final = frozenset(
    {"commutative", "complex", "even", "extended_nonnegative", "extended_positive", "extended_real", "finite"}
    | {"infinite", "integer", "negative", "nonnegative", "nonpositive", "nonzero", "odd", "positive", "precision"}
    | {"prec", "dps", "rational", "real", "zero", "evaluate"}
)
#: Functions of a condition, and methods of an input there.
_GUARD_CALLS: Final = frozenset(
    {"IsNonOverlappingAndDenseIndicator", "abs", "bool", "cast_symbool_to_symint_guardless", "float", "int", "max"}
    | {"min", "round"}
)
_MODULE_CALLS: Final = re.compile(r"math\.[a-z][a-z0-9_]*|torch\._?sym_[a-z0-9_]+")
_MODULE_CONSTANTS: Final = frozenset({"math.inf", "math.nan", "math.pi", "math.e"})
_METHODS: Final = frozenset({"dim", "item", "numel", "size", "storage_offset", "stride"})
_OPERATORS: Final = (ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.operator, ast.unaryop, ast.cmpop, ast.boolop)
_UNUSUAL: Final = (ast.MatMult, ast.In, ast.NotIn, ast.Is, ast.IsNot)


def is_size(text: str) -> bool:
    """Return whether a text is a size, number or condition over symbols as torch prints one, and nothing else."""
    return _reads(text, _of_size)


def is_guard(text: str) -> bool:
    """Return whether a text is a condition on a program's inputs as torch prints one, and nothing else."""
    return _reads(text, _of_guard)


def _reads(text: str, parts: Callable[[ast.AST], list[ast.AST] | None]) -> bool:
    """Return whether every node of the text is known; `parts` returns the nodes below one to check, or None."""
    if len(text) > MAX_EXPRESSION or not _is_plain(text):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nodes: list[ast.AST] = [ast.parse(text, mode="eval").body]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    while nodes:
        below = parts(nodes.pop())
        if below is None:
            return False
        nodes += below
    return True


def _is_plain(text: str) -> bool:
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            return False
        position = token.end()
    return position > 0


def _of_size(node: ast.AST) -> list[ast.AST] | None:
    if isinstance(node, ast.Call):
        called = node.func.id if isinstance(node.func, ast.Name) else ""
        if called not in _SHAPE_CALLS and not _OPAQUE.fullmatch(called):
            return None
        if any(keyword.arg not in _ASSUMPTIONS for keyword in node.keywords):
            return None
        below = [*node.args, *(keyword.value for keyword in node.keywords)]
        # Texts are names of symbols and digits of numbers, and occur nowhere else.
        texts = [one for one in below if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if any(called not in ("Symbol", "Float") or not _is_symbol_or_number(str(one.value)) for one in texts):
            return None
        return [one for one in below if one not in texts]
    if isinstance(node, ast.Name):
        return [] if node.id in _CONSTANTS or _SYMBOL.fullmatch(node.id) else None
    if isinstance(node, ast.Tuple):
        return list(node.elts)
    return _of_both(node)


def _of_guard(node: ast.AST) -> list[ast.AST] | None:
    if isinstance(node, ast.Call):
        if node.keywords:
            return None
        if isinstance(node.func, ast.Name):
            return list(node.args) if node.func.id in _GUARD_CALLS else None
        if not isinstance(node.func, ast.Attribute):
            return None
        if _MODULE_CALLS.fullmatch(_dotted(node.func)):
            return list(node.args)
        return [node.func.value, *node.args] if node.func.attr in _METHODS else None
    if isinstance(node, ast.Attribute):
        if _dotted(node) in _MODULE_CONSTANTS:
            return []
        return [node.value] if _ATTRIBUTE.fullmatch(node.attr) else None
    if isinstance(node, ast.Subscript):
        key = node.slice.operand if isinstance(node.slice, ast.UnaryOp) else node.slice
        return [node.value] if isinstance(key, ast.Constant) and isinstance(key.value, (str, int)) else None
    if isinstance(node, ast.Name):  # the inputs
        return [] if node.id == "L" else None
    if isinstance(node, ast.IfExp):
        return [node.test, node.body, node.orelse]
    return _of_both(node)


def _of_both(node: ast.AST) -> list[ast.AST] | None:
    if isinstance(node, ast.Constant):
        return [] if isinstance(node.value, (int, float)) else None
    if isinstance(node, _OPERATORS) and not isinstance(node, _UNUSUAL):
        return list(ast.iter_child_nodes(node))
    return None


def _is_symbol_or_number(text: str) -> bool:
    return bool(_SYMBOL.fullmatch(text) or re.fullmatch(r"-?\d+(\.\d*)?(e[-+]?\d+)?|-?inf|nan", text, re.ASCII))


def _dotted(node: ast.Attribute) -> str:
    return f"{node.value.id}.{node.attr}" if isinstance(node.value, ast.Name) else ""
