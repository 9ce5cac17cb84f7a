"""What in an archive would not run on this machine, found without running any of it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool.analysis import entry_point as rule
from archive_tool.analysis import python_source, requirements
from archive_tool.errors import ArchiveError
from archive_tool.issues import Kind, Problem
from archive_tool.metadata.names import LSP_HANDLERS
from archive_tool.verification import completeness
from handlers.builtin import TORCHSERVE_HANDLERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.config.effective import Effective
    from archive_tool.metadata.manifest import Manifest
    from archive_tool.reading.archive import Archive

_SOURCE_LIMIT: Final = 2 << 20
#: Bytes of all files together: Python parses a megabyte or two in a second.
_SOURCES_LIMIT: Final = 4 << 20
_TEXT_LIMIT: Final = 1 << 20
_MAX_MODULES: Final = 500
_PYTHON_RUNTIMES: Final = ("python", "python3")


@dataclass(frozen=True)
class EntryPoint:
    """The entry point that TorchServe will call.

    Attributes:
        handler: as in the manifest.
        kind: "built-in", "function" or "class"; "unknown" if only running the handler can tell.
        name: of the function or class, if it is known.
        where: member and line.
    """

    handler: str
    kind: str
    name: str | None = None
    where: str | None = None

    def to_dict(self) -> dict[str, str]:
        """Return what is known as a JSON-ready object."""
        known = {"handler": self.handler, "kind": self.kind, "name": self.name, "where": self.where}
        return {key: value for key, value in known.items() if value is not None}


class Sources:
    """The Python files of an archive, by the names under which they are imported."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._names = {member.name for member in archive.members}
        self.packages = {name.split("/")[0] for name in self._names if name.endswith(".py") and "/" in name}
        self._trees: dict[str, Any] = {}
        self._left = _SOURCES_LIMIT

    def handler_member(self, reference: str) -> str | None:
        """Return the member that a manifest's handler names; None if there is none."""
        path = reference.partition(":")[0].removesuffix(".py").rpartition("/")[2]
        return f"{path}.py" if f"{path}.py" in self._names else None

    def has(self, name: str) -> bool:
        """Return whether there is such a member."""
        return name in self._names

    def files_of(self, module: str) -> list[str]:
        """Return the members that run when a module is imported; empty if the archive has no module of that name."""
        found, parts = [], module.split(".")
        for depth in range(1, len(parts) + 1):
            stem = "/".join(parts[:depth])
            found += [name for name in (f"{stem}/__init__.py", f"{stem}.py") if name in self._names]
        return found

    def is_own(self, module: str) -> bool:
        """Return whether the archive has a module or package of that top-level name."""
        top = module.split(".")[0]
        own = top in self.packages or f"{top}.py" in self._names
        return own or any(name.startswith(f"{top}.") and name.endswith((".so", ".pyd")) for name in self._names)

    def tree(self, name: str) -> Any:
        """Return the syntax tree of a member.

        Raises:
            SourceError: it is not Python here.
            ArchiveError: it cannot be read.
        """
        if name not in self._trees:
            source = self._archive.read(name, min(_SOURCE_LIMIT, self._left))
            self._left -= len(source)
            self._trees[name] = python_source.parse_bytes(source, name)
        return self._trees[name]


def entry_point(archive: Archive, manifest: Manifest) -> EntryPoint | None:
    """Return what TorchServe will call; None if the manifest names no handler."""
    handler = manifest.model.handler
    if not handler:
        return None
    sources = Sources(archive)
    member = sources.handler_member(handler)
    if manifest.runtime not in _PYTHON_RUNTIMES:
        return EntryPoint(handler, "built-in" if handler in LSP_HANDLERS else "unknown")
    if member is None:
        return EntryPoint(handler, "built-in" if handler in TORCHSERVE_HANDLERS else "unknown")
    try:
        tree = sources.tree(member)
    except (python_source.SourceError, ArchiveError):
        return EntryPoint(handler, "unknown", where=member)
    return _entry_of(handler, member, tree)


def _entry_of(handler: str, member: str, tree: Any) -> EntryPoint:
    found = rule.find(tree, handler.partition(":")[2])
    if found.name is None:
        return EntryPoint(handler, "unknown", where=member)
    return EntryPoint(handler, found.kind.value, found.name, f"{member}:{found.line}" if found.line else member)


def find(archive: Archive, manifest: Manifest, config: Effective) -> list[Problem]:
    """List what would keep the archive from running here."""
    lacking = [issue for issue in completeness.issues(archive, manifest) if issue.kind is not Kind.NOTE]
    found = [Problem(issue.message, hint="build the archive again") for issue in lacking]
    found += [*_runtime(manifest), *_requirements(archive, manifest)]
    if manifest.runtime in _PYTHON_RUNTIMES:
        found += _sources(archive, manifest)
    return [*found, *_devices(config)]


def _runtime(manifest: Manifest) -> Iterator[Problem]:
    if manifest.runtime == "LSP":
        yield Problem(
            f"runtime {manifest.runtime} needs TorchServe's C++ backend",
            hint="the PyPI package of TorchServe does not have it",
        )
    if manifest.runtime == "python3" and shutil.which("python3") is None:
        yield Problem("runtime python3 needs a program python3, and there is none on the PATH")
    try:
        record = manifest.record
    except ArchiveError as error:
        yield Problem(f"torchmar's part of the manifest cannot be read: {error.message}")
        return
    if record is None:
        return
    here = ".".join(platform.python_version_tuple()[:2])
    if record.python and record.python != here:
        yield Problem(f"it was built with Python {record.python}, this is {here}", hint="compiled files will not load")
    yield from _frameworks(record.frameworks)


def _frameworks(frameworks: Mapping[str, str]) -> Iterator[Problem]:
    for name, version in frameworks.items():
        here = _version(name)
        if here is None:
            yield Problem(f"{name} {version} is not installed here", hint=f"pip install {name}")
        elif here.split(".")[0] != version.split(".")[0]:
            yield Problem(f"it was built with {name} {version}, this is {here}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None


def _requirements(archive: Archive, manifest: Manifest) -> Iterator[Problem]:
    name = manifest.model.requirements_file
    if not name or not any(member.name == name for member in archive.members):
        return
    try:
        text = archive.read(name, _TEXT_LIMIT).decode("utf-8-sig")
    except (ArchiveError, UnicodeDecodeError):
        yield Problem("the requirements file cannot be read", where=name)
        return
    for line in requirements.parse(text):
        where = f"{name}:{line.number}"
        if line.requirement is None:
            yield Problem(f"{line.text!r} is not a requirement: {line.problem}", where)
        elif problem := _unmet(line.requirement):
            yield Problem(problem, where, f"pip install '{line.text}', or install_py_dep_per_model=true")


def _unmet(requirement: Any) -> str | None:
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return None
    here = _version(requirement.name)
    if here is None:
        return f"{requirement.name} is not installed here"
    if not requirement.specifier.contains(here, prereleases=True):
        return f"{requirement.name} {here} is installed here, {requirement.specifier} is wanted"
    return None


def _sources(archive: Archive, manifest: Manifest) -> Iterator[Problem]:
    """Follow the imports of handler and model file through the archive's own files."""
    sources = Sources(archive)
    handler = manifest.model.handler
    member = sources.handler_member(handler) if handler else None
    todo = [name for name in (member, manifest.model.model_file) if name and sources.has(name)]
    seen: set[str] = set()
    told: set[str] = set()
    while todo and len(seen) < _MAX_MODULES:
        name = todo.pop(0)
        if name in seen:
            continue
        seen.add(name)
        try:
            imports = python_source.certain_imports(sources.tree(name))
        except python_source.SourceError as error:
            where = f"{name}:{error.line}" if error.line else name
            yield Problem(f"it is not Python {platform.python_version()}: {error.message}", where)
            continue
        except ArchiveError:
            continue
        for module, line in imports.items():
            top = module.split(".")[0]
            if sources.is_own(module):
                todo += sources.files_of(module)
            elif top not in told and not _is_importable(top):
                told.add(top)
                hint = "install it, or put its file into the archive (--extra-files)"
                yield Problem(f"no module named {top!r} can be found here", f"{name}:{line}", hint)


def _is_importable(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError, AttributeError):
        return True  # an odd file is loaded under that name, so the name exists


def _devices(config: Effective) -> Iterator[Problem]:
    wanted = config.value("deviceType") == "gpu" or config.value("parallelType") is not None
    numbers = config.value("deviceIds") or []
    if not wanted and not numbers:
        return
    count = gpus()
    if count == 0:
        yield Problem("a GPU is wanted, and there is none here", hint="without one TorchServe runs it on the CPU")
    elif count is not None and numbers and max(numbers) >= count:
        yield Problem(f"GPU {max(numbers)} is wanted, and there are {count} here")


def gpus() -> int | None:
    """Return how many GPUs TorchServe would find; None if that is not known without running its programs."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([item for item in visible.split(",") if item.strip() and item.strip() != "-1"])
    found = Path("/proc/driver/nvidia/gpus")
    if found.is_dir():
        return sum(1 for _ in found.iterdir())
    return None if shutil.which("nvidia-smi") or shutil.which("xpu-smi") or platform.system() == "Darwin" else 0
