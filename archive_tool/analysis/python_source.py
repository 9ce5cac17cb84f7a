"""Reading Python files by their syntax tree. No code of the user is ever run."""

from __future__ import annotations

import ast
import symtable
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from archive_tool import files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# A call of one of these may make a class that belongs to the calling module.
_CLASS_MAKERS: Final = frozenset(
    {"type", "namedtuple", "NamedTuple", "make_dataclass", "new_class", "Enum", "IntEnum", "TypedDict"}
)
_COMPREHENSIONS: Final = frozenset({"listcomp", "setcomp", "dictcomp", "genexpr"})
_NAME_MAKERS: Final = frozenset({"eval", "exec", "globals", "setattr", "vars"})


class SourceError(Exception):
    """A file is not Python.

    Attributes:
        message: what the parser says.
        line: where, if it says.
        text: the text of that line.
    """

    def __init__(self, message: str, line: int | None, text: str) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.text = text


@dataclass(frozen=True)
class Names:
    """The names that a module binds at its top level, as far as its source shows.

    Attributes:
        bound: every name that a statement at the top level may bind.
        classes: class statements at the top level, also those inside ``if`` or ``try``.
        certain_classes: names that are certainly classes of this module when its import ends.
        dynamic: whether names may appear that no statement shows (``import *``, ``globals()``...).
    """

    bound: frozenset[str]
    classes: tuple[ast.ClassDef, ...]
    certain_classes: tuple[ast.ClassDef, ...]
    dynamic: bool


def parse(path: Path) -> ast.Module:
    """Parse a file.

    Raises:
        SourceError: it is not Python of this interpreter's version.
        OSError: it cannot be read.
    """
    return parse_bytes(files.read_regular(path), str(path))


def parse_bytes(data: bytes, filename: str) -> ast.Module:
    """Parse the content of a file.

    Raises:
        SourceError: as `parse`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "invalid escape sequence" concerns only the author
            return ast.parse(data, filename=filename)
    except SyntaxError as error:
        raise SourceError(error.msg, error.lineno, (error.text or "").strip()) from error
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; too deep
        raise SourceError(str(error) or type(error).__name__, None, "") from error


def names(tree: ast.Module) -> Names:
    """Find the names that a module binds; see `Names`."""
    bound: set[str] = set()
    counts: dict[str, int] = {}
    classes = []
    dynamic = False
    for statement in _top_level(tree.body):
        for name in _bindings(statement):
            bound.add(name)
            counts[name] = counts.get(name, 0) + 1
        if isinstance(statement, ast.ClassDef):
            classes.append(statement)
        dynamic = dynamic or _is_dynamic(statement)
    # A name bound twice may end up as something else, and a decorator may return anything.
    certain = tuple(
        statement
        for statement in tree.body
        if isinstance(statement, ast.ClassDef) and counts[statement.name] == 1 and not statement.decorator_list
    )
    return Names(frozenset(bound), tuple(classes), certain, dynamic)


def imported_packages(tree: ast.Module) -> frozenset[str]:
    """Return the top-level packages that a module's statements import, also those inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return frozenset(found)


def line_of(tree: ast.Module, name: str) -> int | None:
    """Return the line in which a module binds a name last; None if no statement shows it."""
    lines = [statement.lineno for statement in _top_level(tree.body) if name in _bindings(statement)]
    return lines[-1] if lines else None


def binding_count(tree: ast.Module, name: str) -> int:
    """Count the statements at a module's top level that may bind a name."""
    return sum(bound == name for statement in _top_level(tree.body) for bound in _bindings(statement))


def bound_by(statement: ast.stmt) -> set[str]:
    """Return the names that a statement at a module's top level may bind, also by the statements inside it."""
    return {name for inner in _top_level([statement]) for name in _bindings(inner)}


def certain_imports(tree: ast.Module) -> dict[str, int]:
    """Find the modules that a module certainly imports when it is imported itself, with the line.

    Imports in a function, a condition or a ``try`` may be meant to fail, and are left out, as are relative imports.
    """
    found: dict[str, int] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                found.setdefault(alias.name, statement.lineno)
        elif isinstance(statement, ast.ImportFrom) and not statement.level and statement.module:
            found.setdefault(statement.module, statement.lineno)
    found.pop("__future__", None)
    return found


def unguarded_imports(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Yield the imports that are not meant to fail, and whether each surely happens when the module is imported.

    Those in functions and classes count; what stands in a condition, a ``with`` or a ``try`` may be meant to fail.
    """
    todo: list[tuple[ast.stmt, bool]] = [(statement, True) for statement in reversed(tree.body)]
    while todo:
        statement, sure = todo.pop()
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield statement, sure
        elif isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            todo += [(inner, False) for inner in reversed(statement.body)]


def subclasses(tree: ast.Module, base: str) -> list[ast.ClassDef]:
    """Find the classes that a file surely defines as subclasses of one that it imports, given by its full name."""
    imported = _imported(tree)
    return [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(_dotted(one, imported) == base for one in node.bases)
    ]


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return what the names mean that a module imports at its top level."""
    found: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for part in ast.walk(tree):
        # A name that is also something else, anywhere in the file, is not to be trusted.
        if isinstance(part, ast.Name) and isinstance(part.ctx, (ast.Store, ast.Del)):
            found.pop(part.id, None)
        elif isinstance(part, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            found.pop(part.name, None)
        elif isinstance(part, ast.arg):
            found.pop(part.arg, None)
    return found


def _dotted(node: ast.AST, names: Mapping[str, str]) -> str:
    """Return the full name of ``nn.Linear``; empty if it is something else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return ""
    return ".".join([names[node.id], *reversed(parts)])


def _top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run on import: also those inside if, try, with, for, while and match."""
    # Without recursion: each elif is nested in the one before it, and there may be thousands.
    todo = [*body][::-1]
    while todo:
        statement = todo.pop()
        yield statement
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        inside: list[ast.stmt] = []
        for part in ("body", "orelse", "finalbody"):
            inside += getattr(statement, part, ())
        for branch in (*getattr(statement, "handlers", ()), *getattr(statement, "cases", ())):
            inside += branch.body
        todo += reversed(inside)


def _bindings(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
        return
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        for alias in statement.names:
            yield alias.asname or alias.name.split(".")[0]
        return
    for node in _own_expressions(statement):
        # Store covers assignments of every kind, for, with and :=; Del counts as one more change of the name.
        if isinstance(node, ast.Name) and isinstance(node.ctx, (ast.Store, ast.Del)):
            yield node.id


def _own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Walk a statement without the statements inside it, which `_top_level` yields separately."""
    todo: list[ast.AST] = [statement]
    while todo:
        node = todo.pop()
        yield node
        todo.extend(
            child
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case, ast.Lambda))
        )


def _is_dynamic(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.ImportFrom):
        return any(alias.name == "*" for alias in statement.names)
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        # A module's __getattr__ makes names on demand.
        return statement.name == "__getattr__"
    return any(_makes_names(node) for node in _own_expressions(statement))


def _makes_names(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Name):
        return function.id in _CLASS_MAKERS | _NAME_MAKERS
    return isinstance(function, ast.Attribute) and function.attr in _CLASS_MAKERS


def statements_for(tree: ast.Module, text: str, name: str) -> list[str]:
    """Return the text of the top-level statements that a name needs, in their order; empty if nothing binds it.

    They are the statements that bind the name last, those that bind what these use, and so on. A name that a statement
    uses while it runs has the meaning of that moment. A name that its functions use later has its last meaning.
    ``import *`` and ``from __future__`` are always included, the latter first.
    """
    lines = text.splitlines()
    pieces = ["\n".join(lines[_first_line(node) - 1 : node.end_lineno]) for node in tree.body]
    binders: dict[str, list[int]] = {}
    for index, node in enumerate(tree.body):
        for bound in bound_by(node):
            binders.setdefault(bound, []).append(index)
    future = {index for index, node in enumerate(tree.body) if _is_from(node, "__future__")}
    stars = {
        index
        for index, node in enumerate(tree.body)
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    }
    kept: set[int] = set()
    todo = [(name, len(pieces))]
    while todo:
        wanted, end = todo.pop()
        for index in _meaning(binders.get(wanted, []), end, tree):
            if index not in kept:
                kept.add(index)
                now, later = _globals_of(pieces[index])
                todo += [(one, index) for one in now] + [(one, len(pieces)) for one in later]
    return [pieces[index] for index in (*sorted(future), *sorted((kept | stars) - future))] if kept else []


def _is_from(node: ast.stmt, module: str) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == module


def _meaning(binders: list[int], end: int, tree: ast.Module) -> list[int]:
    """Choose the statements that give a name its meaning before another one: back to one that surely rebinds it."""
    found = []
    for index in reversed([index for index in binders if index < end] or binders):
        found.append(index)
        if isinstance(
            tree.body[index],
            (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assign),
        ):
            break
    return found


def _first_line(node: ast.stmt) -> int:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def _globals_of(statement: str) -> tuple[set[str], set[str]]:
    """Return the names that a top-level statement looks up in its module while it runs, and later, in its functions."""
    now: set[str] = set()
    later: set[str] = set()
    tables = [(symtable.symtable(statement, "<statement>", "exec"), now)]
    while tables:
        table, found = tables.pop()
        at_once = table.get_type() != "function" or table.get_name() in _COMPREHENSIONS
        found = found if at_once else later
        tables += [(child, found) for child in table.get_children()]
        at_top = table.get_type() == "module"
        found |= {one.get_name() for one in table.get_symbols() if one.is_referenced() and (at_top or one.is_global())}
    return now, later
