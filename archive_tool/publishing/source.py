"""Taking the source of a class or function into an archive: its file, and the user's modules that it imports.

Modules of the standard library and installed packages stay where they are. Nothing is run: imports are read from the
files.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
import sysconfig
from dataclasses import dataclass, field
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool import files
from archive_tool.analysis import python_source
from archive_tool.errors import BuildError
from archive_tool.publishing import session

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Packages of this project: an archive has `handlers` already, and the others do not belong in one.
_OURS: Final = frozenset({"archive_tool", "handlers", "serving"})
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})
_NOTEBOOK: Final = Path("a cell of this session")
_TO_FILE: Final = "write it to a file of its own, import it from there, and give that: source=module.create_net"


class NoSourceError(BuildError):
    """A class or function has no source that can be found, only the compiled code."""


@dataclass(frozen=True)
class Source:
    """The code that creates a model in an archive.

    Attributes:
        module: dotted name of the module that has the class or function.
        name: of that class or function in the module, dotted if it is inside a class.
        files: the user's own modules, by their names in the archive.
        packages: installed packages that the files import, by the name that is imported.
    """

    module: str
    name: str
    files: dict[str, bytes] = field(default_factory=dict)
    packages: frozenset[str] = frozenset()


def take(source: object) -> Source:
    """Find a class or function in its module, and all files that its import needs.

    Raises:
        NoSourceError: it was typed into a session that keeps no source.
        BuildError: it cannot be imported elsewhere, and why.
    """
    name = _check_kind(source)
    module = sys.modules.get(str(getattr(source, "__module__", None)))
    typed = session.source_of(source, name)
    if typed is not None:
        _check_name(source, module, name, _NOTEBOOK)
        tracer = _Tracer(name)
        tracer.add(session.MODULE, typed, _NOTEBOOK)
        return Source(session.MODULE, name, tracer.files, frozenset(tracer.packages))
    file = _file(source, module, name)
    if file is None:  # built into an installed package
        return Source(str(source.__module__), name, packages=frozenset({str(source.__module__).partition(".")[0]}))
    _check_name(source, module, name, file)
    tracer = _Tracer(name)
    dotted = _module_name(module, file)
    if getattr(module, "__name__", None) == "__main__":
        tracer.add(dotted, _slice(file, name), file)
    else:
        tracer.take(dotted)
    return Source(dotted, name, tracer.files, frozenset(tracer.packages))


def _check_kind(source: object) -> str:
    if not (inspect.isclass(source) or inspect.isroutine(source)):
        raise BuildError(
            f"the source is {type(source).__name__}, and neither a class nor a function",
            hint="give a class, or a function without arguments that returns the model: source=create_net",
        )
    name: str = getattr(source, "__qualname__", "")
    if "<lambda>" in name:
        raise BuildError("a lambda cannot be taken along, for it has no name", hint=_TO_FILE)
    if inspect.ismethod(source) and not inspect.isclass(source.__self__):
        raise BuildError(
            f"{name} is a method of an object, which cannot be taken along",
            hint="write a function that makes the model",
        )
    if "<locals>" in name:
        raise BuildError(
            f"{name.replace('.<locals>', '')} is defined inside a function, so nothing can import it",
            hint="move it to the top level of its module",
        )
    return name


def _file(source: Any, module: Any, name: str) -> Path | None:
    """Return the Python file of a class or function; None if it is part of an installed package."""
    origin = getattr(module, "__file__", None)
    if origin and Path(origin).name.endswith(tuple(EXTENSION_SUFFIXES)):
        if _is_installed(Path(origin)):
            return None
        raise BuildError(f"{name} is in a C extension ({origin}), which has no source to take along", hint=_TO_FILE)
    code = getattr(inspect.unwrap(source), "__code__", None)
    path = Path(code.co_filename if code is not None else origin or "<stdin>")
    if origin and not path.is_file() and path.name == Path(origin).name:
        path = Path(origin)  # as the script was called, perhaps from a folder other than the current one
    if module is not None and origin is None and code is None and module.__name__ != "__main__":
        raise BuildError(
            f"{name} is built in, or its module {module.__name__} has no file",
            hint="write a function in a file of your own that calls it",
        )
    if module is None or not path.is_file():
        raise NoSourceError(
            f"{name} was defined in a notebook or an interactive session that keeps no source to take along",
            hint=_TO_FILE,
        )
    return path.resolve()


def _check_name(source: Any, module: Any, name: str, file: Path) -> None:
    """Refuse a name that means something else where it is looked up."""
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or inspect.unwrap(found) is not inspect.unwrap(source):
        raise BuildError(
            f"{module.__name__}.{name} is not the class or function that was given",
            where=str(file),
            hint="give it under the name by which its module has it",
        )


def _module_name(module: Any, file: Path) -> str:
    name: str = module.__name__
    if name != "__main__":
        return name
    spec = getattr(module, "__spec__", None)  # of `python -m package.module`
    if spec is not None and spec.name != "__main__":
        return str(spec.name).removesuffix(".__main__")
    return re.sub(r"\W|^(?=\d)", "_", file.stem)


def _slice(file: Path, name: str) -> bytes:
    """Return the part of a script that defines a name: an import of the whole script would run it again."""
    text = files.read_text(file, encoding="utf-8-sig")
    kept = python_source.statements_for(python_source.parse(file), text, name.partition(".")[0])
    if not kept:
        raise BuildError(
            f"{name} is not in the file as it is now", where=str(file), hint="save the file, and run it again"
        )
    return ("\n\n".join(kept) + "\n").encode()


class _Tracer:
    """A collector of modules, by their imports."""

    def __init__(self, source: str) -> None:
        self.files: dict[str, bytes] = {}
        self.packages: set[str] = set()
        self._source = source
        self._seen: set[str] = set()

    def take(self, name: str) -> None:
        """Collect a module, its parent packages, and all that they import; an installed one is only noted."""
        root = name.partition(".")[0]
        if name in self._seen or root in sys.stdlib_module_names or _is_ours(root):
            return
        self._seen.add(name)
        if "." in name:
            self.take(name.rpartition(".")[0])
        origin = _origin(name)
        if origin is None:
            return  # not found, as an import in a `try` may be; or a namespace, whose modules are collected by name
        if _is_installed(origin):
            self.packages.add(root)
        elif origin.suffix == ".py":
            self.add(name, files.read_regular(origin), origin)
        else:
            raise BuildError(
                f"{self._source} imports {name}, which is compiled ({origin.name}) and runs on this system only",
                where=str(origin),
                hint="install it as a package where the server runs",
            )

    def add(self, name: str, content: bytes, origin: Path) -> None:
        """Add a module's content, and all that it imports."""
        is_package = origin.name == "__init__.py"
        path = name.replace(".", "/")
        self.files[f"{path}/__init__.py" if is_package else f"{path}.py"] = content
        try:
            tree = python_source.parse_bytes(content, str(origin))
        except python_source.SourceError as error:
            raise BuildError(f"{origin} is not Python: {error.message}", where=f"{origin}:{error.line}") from error
        package = name if is_package else name.rpartition(".")[0]
        for statement in _imports(tree):
            if isinstance(statement, ast.Import):
                for alias in statement.names:
                    self.take(alias.name)
                continue
            base = self._base(statement, package, origin)
            self.take(base)
            for alias in statement.names:
                if _origin(f"{base}.{alias.name}") is not None:
                    self.take(f"{base}.{alias.name}")

    def _base(self, statement: ast.ImportFrom, package: str, origin: Path) -> str:
        relative = "." * statement.level + (statement.module or "")
        try:
            return importlib.util.resolve_name(relative, package)
        except ImportError as error:
            raise BuildError(
                f"the import from {relative!r} is relative, and there is no package around it",
                where=f"{origin}:{statement.lineno}",
                hint="run it as part of its package: python -m package.module",
            ) from error


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield the import statements, also those in functions, but not those for type checkers only."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            todo += node.orelse
        else:
            todo += ast.iter_child_nodes(node)


def _origin(name: str) -> Path | None:
    """Find the file of a module without importing it, if its parent packages are imported already."""
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, AttributeError, ValueError):  # importing a parent package may raise anything
            return None
    origin = spec.origin if spec is not None and spec.has_location else None
    return Path(origin) if origin else None


def _is_ours(root: str) -> bool:
    """Return whether a package is this project's, and not a user's of the same name."""
    origin = _origin(root) if root in _OURS else None
    return origin is not None and origin.parent.parent == Path(__file__).resolve().parents[2]


def _is_installed(path: Path) -> bool:
    if _INSTALLED & set(path.parts):
        return True
    places = {sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(place) for place in places if place)
