"""Finding imports that certainly fail when a worker loads the archive. No code of the user is run.

A worker looks for modules in the archive's folder first, before the standard library and installed packages, and
imports the handler and the model file as modules of their own, outside of any package.
"""

from __future__ import annotations

import ast
import sys
from typing import TYPE_CHECKING, Final

from archive_tool.analysis import python_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from archive_tool.building.looked import Looked
    from archive_tool.building.report import Report
    from archive_tool.writing.plan import Member

#: What every worker imports before it loads a model, TorchServe's too, and a name that it cannot do without; a test
#: starts one beside a module that lacks it.
NEEDED: Final = {
    "argparse": "ArgumentParser",
    "ast": "NodeVisitor",
    "bisect": "bisect",
    "collections": "OrderedDict",
    "contextlib": "contextmanager",
    "copy": "deepcopy",
    "dataclasses": "dataclass",
    "datetime": "timedelta",
    "enum": "Enum",
    "functools": "wraps",
    "heapq": "heappush",
    "importlib": "import_module",
    "inspect": "signature",
    "json": "JSONEncoder",
    "keyword": "iskeyword",
    "logging": "getLogger",
    "operator": "attrgetter",
    "pathlib": "Path",
    "pickle": "Pickler",
    "platform": "system",
    "queue": "Queue",
    "random": "Random",
    "re": "compile",
    "reprlib": "recursive_repr",
    "signal": "SIGINT",
    "socket": "socket",
    "string": "Template",
    "struct": "unpack",
    "subprocess": "PIPE",
    "threading": "RLock",
    "token": "EXACT_TOKEN_TYPES",
    "types": "MappingProxyType",
    "typing": "Any",
    "warnings": "warn",
    "weakref": "WeakValueDictionary",
}
#: Modules that are part of the interpreter, or that it has loaded before it looks into an archive's folder.
_NEVER_FOUND: Final = frozenset(
    {
        "_collections_abc",
        "abc",
        "atexit",
        "builtins",
        "codecs",
        "errno",
        "faulthandler",
        "gc",
        "genericpath",
        "io",
        "itertools",
        "marshal",
        "ntpath",
        "os",
        "posix",
        "posixpath",
        "pwd",
        "runpy",
        "site",
        "stat",
        "sys",
        "time",
        "zipimport",
    }
)


def check(looked: Looked, report: Report) -> None:
    """Report modules that hide others, and imports that cannot work."""
    inputs = looked.inputs
    modules = _Modules(looked)
    handler = inputs.handler_file.stem if inputs.handler_file else ""
    for name in modules.top_level():
        _check_hidden(name, modules, report, is_handler=name == handler)
    for name in _reached(modules, looked):
        for line, text in modules.failing(name):
            _report(name, line, text, modules, report)
    if inputs.model_file and not looked.loads_state_dicts:
        for line, text in modules.failing(inputs.model_file.stem):
            report.warning(
                f"`{text}` fails in a model file that is imported by its name: there is no package around it",
                where=f"{inputs.model_file}:{line}",
                hint=_absolute(text),
            )


class _Modules:
    """The Python modules of an archive, by the names that they are imported by."""

    def __init__(self, looked: Looked) -> None:
        self._members: dict[str, Member] = {}
        self._contents = looked.contents
        for member in looked.plan.members:
            path = member.name.removesuffix(".py")
            if path == member.name or "." in path:
                continue
            name = path.removesuffix("/__init__").replace("/", ".")
            # A package hides a module of its name.
            if name not in self._members or path.endswith("/__init__"):
                self._members[name] = member

    def top_level(self) -> list[str]:
        return [name for name in self._members if "." not in name]

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def is_package(self, name: str) -> bool:
        return self._members[name].name.endswith("/__init__.py")

    def source(self, name: str) -> Path | bytes:
        return self._members[name].source

    def shown(self, name: str) -> str:
        return self._members[name].shown

    def tree(self, name: str) -> ast.Module | None:
        """Return a module's syntax tree; None if it is not Python here, which is reported where it matters."""
        return self._contents.tree_or_none(self._members[name].source)

    def around(self, name: str) -> str:
        """Return the package that a module's relative imports start from; empty if there is none."""
        return name if self.is_package(name) else name.rpartition(".")[0]

    def failing(self, name: str) -> Iterator[tuple[int, str]]:
        """Yield line and text of each import that certainly fails when a module is imported."""
        tree = self.tree(name) if name in self else None
        if tree is None or "__package__" in python_source.names(tree).bound:
            return
        depth = len([part for part in self.around(name).split(".") if part])
        bound: set[str] = set()
        for statement in tree.body:
            relative = isinstance(statement, ast.ImportFrom) and statement.level > depth
            if relative or (not self.is_package(name) and _imports_itself(statement, name, bound)):
                yield statement.lineno, ast.unparse(statement)
            bound |= python_source.bound_by(statement)


def _imports_itself(statement: ast.stmt, name: str, bound: set[str]) -> bool:
    """Return whether a module asks itself, by its own name, for what it does not have yet, or is no package for."""
    if isinstance(statement, ast.Import):
        return any(alias.name.startswith(f"{name}.") for alias in statement.names)
    if not isinstance(statement, ast.ImportFrom) or statement.level:
        return False
    lacking = {alias.name for alias in statement.names} - bound - {"*"}
    return (statement.module or "").startswith(f"{name}.") or (statement.module == name and bool(lacking))


def _check_hidden(name: str, modules: _Modules, report: Report, *, is_handler: bool) -> None:
    where = modules.shown(name)
    hint = "rename the file"
    taken = "the file takes the place of"
    if name not in sys.stdlib_module_names:
        return
    if name in _NEVER_FOUND:
        note = report.error if is_handler else report.warning
        note(
            f"`import {name}` always gives Python's own module, so this file is never imported", where=where, hint=hint
        )
    elif name in NEEDED and _lacks(modules.tree(name), NEEDED[name]):
        report.error(
            f"{taken} the standard library's module {name}, which every worker imports and needs "
            f"{name}.{NEEDED[name]} of",
            where=where,
            hint=hint,
        )
    else:
        report.warning(
            f"{taken} the standard library's module {name} for all that a worker imports",
            where=where,
            hint=hint,
        )


def _lacks(tree: ast.Module | None, name: str) -> bool:
    if tree is None:
        return True
    names = python_source.names(tree)
    return not names.dynamic and name not in names.bound


def certain_sources(looked: Looked) -> frozenset[Path | bytes]:
    """Return the sources of the modules that a worker certainly imports."""
    modules = _Modules(looked)
    return frozenset(modules.source(name) for name in _reached(modules, looked))


def _reached(modules: _Modules, looked: Looked) -> Iterator[str]:
    """Follow the imports that certainly happen, from the handler and the model file on."""
    inputs = looked.inputs
    first = [inputs.handler_file, inputs.model_file if looked.loads_state_dicts else None]
    todo = sorted({path.stem for path in first if path is not None and path.stem in modules})
    seen = set(todo)
    while todo:
        name = todo.pop(0)
        yield name
        # What comes after an import that fails is not reached.
        for found in [] if any(modules.failing(name)) else _imported(name, modules):
            parts = found.split(".")
            for depth in range(1, len(parts) + 1):
                module = ".".join(parts[:depth])
                if module in modules and module not in seen and parts[0] not in sys.stdlib_module_names:
                    seen.add(module)
                    todo.append(module)


def _imported(name: str, modules: _Modules) -> Iterator[str]:
    tree = modules.tree(name)
    if tree is None:
        return
    yield from python_source.certain_imports(tree)
    around = modules.around(name).split(".")
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.level:
            base = around[: len(around) - statement.level + 1]
            yield ".".join([*base, statement.module] if statement.module else base)


def _report(name: str, line: int, text: str, modules: _Modules, report: Report) -> None:
    where = f"{modules.shown(name)}:{line}"
    around = modules.around(name)
    if not text.startswith("from ."):
        report.error(
            f"`{text}` in a file of that name imports the file itself, which does not have it yet",
            where=where,
            hint="rename the file, so that it does not hide what it imports",
        )
    elif around:
        report.error(
            f"`{text}` leads out of the package {around}, which lies at the root of the archive",
            where=where,
            hint="put the package around it into the archive: --extra-files FOLDER=PLACE",
        )
    else:
        report.error(
            f"`{text}` cannot work: {name} is imported by its name alone, and there is no package around it",
            where=where,
            hint=_absolute(text),
        )


def _absolute(text: str) -> str:
    _, _, rest = text.partition("from ")
    module, _, names = rest.lstrip(".").partition("import ")
    absolute = f"from {module.strip()} import {names}" if module.strip() else f"import {names}"
    return f"write `{absolute}`, and give the file that it names with --extra-files"
