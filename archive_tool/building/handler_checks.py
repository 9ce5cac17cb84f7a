"""Finding entry points that TorchServe certainly cannot call. No code of the user is run."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Final

from archive_tool.analysis import entry_point, python_source
from archive_tool.analysis.entry_point import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from archive_tool.building.looked import Contents, Looked
    from archive_tool.building.report import Report

_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)

#: Classes whose ``__init__`` takes no arguments, from the packages that handlers extend.
_BASES: Final = ("handlers", "ts")
_ASYNC_HINT: Final = (
    "write `def`, or set `asyncCommunication: true`, `parallelType: custom` and `batchSize: 1` in the config file"
)


def parse(path: Path, what: str, contents: Contents, report: Report) -> ast.Module | None:
    """Return a file's syntax tree; None, with an error in the report, if it has none."""
    try:
        return contents.tree(path)
    except python_source.SourceError as problem:
        where = f"{path}:{problem.line}" if problem.line else str(path)
        text = f": {problem.text}" if problem.text else ""
        report.error(f"the {what} is not Python: {problem.message}{text}", where=where)
    except OSError as error:
        report.error(f"the {what} cannot be read: {error.strerror}", where=str(path))
    return None


def check(looked: Looked, report: Report) -> None:
    """Check that TorchServe finds an entry point in the handler that it can call; see `entry_point`."""
    path, function = looked.inputs.handler_file, looked.inputs.handler_function
    if path is None:
        return
    if "." in path.stem:
        report.error(
            f"the handler {path.name} cannot be imported: a dot in a module's name separates packages",
            where=str(path),
            hint="rename it to " + path.stem.replace(".", "_") + ".py",
        )
    tree = parse(path, "handler", looked.contents, report)
    if tree is None:
        return
    found = entry_point.find(tree, function)
    names, wanted = found.names, found.function
    if found.kind is Kind.FUNCTION:
        _check_named(path, tree, wanted, looked, report)
    elif found.kind is Kind.NOTHING:
        report.error(
            f"the handler has neither a function {wanted!r} nor a class",
            where=str(path),
            hint=f"define {wanted}(data, context), or one class with initialize(context) and handle(data, context)",
        )
    elif found.kind is Kind.SEVERAL_CLASSES:
        listed = ", ".join(node.name for node in names.certain_classes)
        report.error(
            f"the handler defines {len(names.certain_classes)} classes ({listed}) and no function {wanted!r}; "
            "TorchServe accepts exactly one class",
            where=str(path),
            hint="move the others to a module given with --extra-files, or name a function: --handler "
            f"{path.name}:function",
        )
    else:
        if function is not None and not names.dynamic:
            report.warning(f"the handler has no function {function!r}; TorchServe will use its class", where=str(path))
        _check_class(path, names, looked, report)


def _check_named(path: Path, tree: ast.Module, name: str, looked: Looked, report: Report) -> None:
    """Report a function, or a class, that certainly cannot be called with data and context."""
    found = [node for node in tree.body if isinstance(node, (*_FUNCTIONS, ast.ClassDef)) and node.name == name]
    # A name bound twice may end up as something else, and a decorator may return anything.
    if len(found) != 1 or found[0].decorator_list or python_source.binding_count(tree, name) != 1:
        return
    (node,) = found
    where = f"{path}:{node.lineno}"
    if isinstance(node, ast.ClassDef):
        if _refuses_two_arguments(node, tree):
            report.error(
                f"{name} is a class, and TorchServe would call it as a function, with data and context",
                where=where,
                hint=f"name the file alone, and the class in it is found: --handler {path.name}",
            )
        return
    if not _can_call(node.args, 2):
        report.error(
            f"the function {name} of the handler cannot be called with the two arguments that TorchServe gives it",
            where=where,
            hint=f"define {name}(data, context)",
        )
    elif isinstance(node, ast.AsyncFunctionDef) and not _is_asynchronous(looked):
        _report_async(f"the function {name} of the handler", where, report)


def _can_call(arguments: ast.arguments, count: int) -> bool:
    most = len(arguments.posonlyargs) + len(arguments.args)
    least = most - len(arguments.defaults)
    needs_keyword = any(default is None for default in arguments.kw_defaults)
    return not needs_keyword and least <= count and (most >= count or arguments.vararg is not None)


def _refuses_two_arguments(node: ast.ClassDef, tree: ast.Module) -> bool:
    """Return whether a call of a class with two arguments certainly fails."""
    if node.keywords or not _is_plain(node):
        return False
    own = {part.name: part for part in node.body if isinstance(part, _FUNCTIONS)}
    if "__new__" in own:
        return False
    if "__init__" in own:
        return not own["__init__"].decorator_list and not _can_call(own["__init__"].args, 3)
    if not node.bases:
        return True
    known = {
        alias.asname or alias.name
        for statement in tree.body
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").split(".")[0] in _BASES
        for alias in statement.names
    }
    return all(isinstance(base, ast.Name) and base.id in known for base in node.bases)


def _check_class(path: Path, names: python_source.Names, looked: Looked, report: Report) -> None:
    """Report a class whose methods certainly cannot be called, or that certainly lacks one of them."""
    if len(names.classes) != 1 or names.classes != names.certain_classes:
        return
    (node,) = names.classes
    if not _is_plain(node):
        return
    _check_methods(path, node, looked, report)
    inside = {getattr(statement, "name", None) for statement in node.body}
    if node.bases or node.keywords or inside & {"__init__", "__getattr__"}:
        return
    wanted = (("handle", "data, context"), ("initialize", "context"))
    missing = [(method, arguments) for method, arguments in wanted if method not in inside]
    if missing:
        method, arguments = missing[0]
        report.error(
            f"the class {node.name} of the handler has no method {method}",
            where=f"{path}:{node.lineno}",
            hint=f"add {method}(self, {arguments}), or derive the class from a handler",
        )


def _check_methods(path: Path, node: ast.ClassDef, looked: Looked, report: Report) -> None:
    """Report coroutines that nothing awaits."""
    if node.keywords or _is_asynchronous(looked):
        return
    methods = [part for part in node.body if isinstance(part, _FUNCTIONS)]
    for part in methods:
        last = [one for one in methods if one.name == part.name][-1] is part
        if isinstance(part, ast.AsyncFunctionDef) and last and not part.decorator_list:
            where = f"{path}:{part.lineno}"
            if part.name == "handle":
                _report_async(f"the method handle of {node.name}", where, report)
            elif part.name == "initialize":
                report.warning(
                    f"the method initialize of {node.name} is a coroutine function, which nothing awaits, so it will "
                    "not run",
                    where=where,
                    hint=_ASYNC_HINT,
                )


def _report_async(what: str, where: str, report: Report) -> None:
    report.error(
        f"{what} is a coroutine function (async def), and without asyncCommunication nothing awaits it: every request "
        "fails",
        where=where,
        hint=_ASYNC_HINT,
    )


def _is_asynchronous(looked: Looked) -> bool:
    """Return whether the config file asks for TorchServe's asynchronous mode; True if it cannot be read.

    An unreadable file is reported elsewhere.
    """
    if looked.inputs.config_file is None:
        return False
    config = looked.config
    return config is None or not config.document or bool(config.value("asyncCommunication"))


def _is_plain(node: ast.ClassDef) -> bool:
    """Return whether a class body has only methods and a docstring, so that nothing else sets attributes."""
    return all(hasattr(statement, "name") or _says_nothing(statement) for statement in node.body)


def _says_nothing(statement: ast.stmt) -> bool:
    docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return docstring or isinstance(statement, ast.Pass)
