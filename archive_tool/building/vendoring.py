"""The copy of the handler SDK in an archive whose code imports it.

So the archive runs on any TorchServe 0.12, where nothing of torchmar is installed. The package `handlers` is built for
this: it imports the standard library and torch only. What the archive's code imports from it must be in that copy: a
worker finds no other.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Final

from archive_tool.analysis import python_source
from archive_tool.building import import_checks
from archive_tool.errors import BuildError
from archive_tool.metadata.names import fold
from archive_tool.writing.plan import Member, with_members

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.building.looked import Contents, Looked
    from archive_tool.building.report import Report
    from archive_tool.writing.plan import Plan

PACKAGE: Final = "handlers"
_HINT: Final = "install torchmar anew, or leave the copy out with --no-vendor-sdk"


def vendor(looked: Looked, report: Report, *, sdk_root: Path | None = None) -> Plan:
    """Return the plan with the SDK's files in it, if some Python file of the plan imports `handlers`.

    Args:
        looked: inputs, and the archive so far; only a Python runtime needs the SDK.
        report: told if the SDK is needed and cannot be found, if the user's own files take the package's name, or if
            something is imported from the SDK that is not there.
        sdk_root: the package's folder; None to look for the installed one.
    """
    plan = looked.plan
    importer = looked.sdk_importer if looked.inputs.uses_python else None
    if importer is None:
        return plan
    own = next((member for member in plan.members if _takes_name(member.name)), None)
    if own is not None:
        report.warning(
            f"the archive holds your own {own.name}, so no copy of the handler SDK is added; "
            f"{importer} will import yours",
            hint="rename it if the SDK is meant; give --no-vendor-sdk if it is not",
        )
        return plan
    try:
        root = sdk_root if sdk_root is not None else find_sdk()
    except BuildError as error:
        report.error(error.message, where=importer, hint=error.hint)
        return plan
    members = sdk_members(root)
    _check_imports(looked, members, report)
    return with_members(plan, members)


def _takes_name(name: str) -> bool:
    key = fold(name)
    return key == f"{PACKAGE}.py" or key.startswith(f"{PACKAGE}/")


def find_sdk() -> Path:
    """Find the folder of the installed package `handlers` without importing it, for that would import torch.

    Raises:
        BuildError: there is none, or another package of this name hides it.
    """
    # Ours is typed and lies beside this package; a folder `handlers` of the user may come first on sys.path.
    beside = Path(__file__).resolve().parents[2] / PACKAGE
    if (beside / "py.typed").is_file():
        return beside
    from importlib.util import find_spec

    spec = find_spec(PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise BuildError("the handler SDK (package `handlers`) is imported but not installed here", hint=_HINT)
    root = Path(next(iter(locations)))
    if not (root / "py.typed").is_file():
        raise BuildError(f"the package `handlers` in {root} is not the handler SDK of torchmar", hint=_HINT)
    return root


def sdk_members(root: Path) -> list[Member]:
    """List the SDK's files as members below ``handlers/``."""
    paths = [path for path in root.rglob("*") if path.suffix == ".py" or path.name == "py.typed"]
    return [
        Member(f"{PACKAGE}/{path.relative_to(root).as_posix()}", path)
        for path in sorted(paths)
        if "__pycache__" not in path.parts and path.is_file()
    ]


def _check_imports(looked: Looked, members: list[Member], report: Report) -> None:
    """Report imports of what the SDK does not have; as an error where the import certainly happens."""
    sdk = _Sdk(members, looked.contents)
    certain = import_checks.certain_sources(looked)
    for member in looked.plan.members:
        if not member.name.endswith(".py") or PACKAGE not in looked.contents.packages(member.source):
            continue
        tree = looked.contents.tree_or_none(member.source)
        for statement, sure in python_source.unguarded_imports(tree) if tree else ():
            lacking = list(sdk.lacking(statement))
            if not lacking:
                continue
            sure = sure and member.source in certain
            (report.error if sure else report.warning)(
                f"`{ast.unparse(statement)}` fails{'' if sure else ' if it is reached'}: "
                f"the handler SDK has no {' and no '.join(lacking)}",
                where=f"{member.shown}:{statement.lineno}",
                hint=f"write `from {PACKAGE} import {sdk.instead_of(statement, lacking) or '...'}`: the names there "
                f"stay, while modules may move; give --no-vendor-sdk if another package {PACKAGE} is meant",
            )


class _Sdk:
    """The modules of the SDK and what they bind, by their dotted names."""

    def __init__(self, members: list[Member], contents: Contents) -> None:
        self._contents = contents
        self._sources: dict[str, Path | bytes | None] = {}
        for member in members:
            path = member.name.removesuffix(".py")
            if path != member.name:
                parts = path.removesuffix("/__init__").split("/")
                for depth in range(1, len(parts)):
                    self._sources.setdefault(".".join(parts[:depth]), None)
                self._sources[".".join(parts)] = member.source

    def lacking(self, statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
        """Yield the dotted names, of modules or in them, that a statement asks for in vain."""
        if isinstance(statement, ast.Import):
            modules = [alias.name for alias in statement.names if alias.name.startswith(f"{PACKAGE}.")]
            yield from (module for module in modules if module not in self._sources)
            return
        module = statement.module or ""
        if statement.level or module.partition(".")[0] != PACKAGE:
            return
        if module not in self._sources:
            yield module
            return
        for alias in statement.names:
            if f"{module}.{alias.name}" not in self._sources and not self._may_bind(module, alias.name):
                yield f"{module}.{alias.name}"

    def _may_bind(self, module: str, name: str) -> bool:
        if name == "*" or name.startswith("__"):
            return True
        tree = self._contents.tree_or_none(self._sources[module])
        if tree is None:
            return False
        names = python_source.names(tree)
        # The package itself makes its names on demand, of those that it shows to type checkers.
        return name in names.bound or (names.dynamic and module != PACKAGE)

    def instead_of(self, statement: ast.Import | ast.ImportFrom, lacking: list[str]) -> str:
        """Return the package's own names that a statement wants, or that its missing modules were named after."""
        tree = self._contents.tree_or_none(self._sources.get(PACKAGE))
        known = python_source.names(tree).bound if tree else frozenset()
        wanted = [alias.name for alias in statement.names if alias.name in known]
        modules = {name.rpartition(".")[2].replace("_", "") for name in lacking}
        return ", ".join(wanted or sorted(name for name in known if name.lower() in modules))
