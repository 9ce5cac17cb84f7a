"""Whether an archive is complete: what certainly cannot be served is found before a server is started.

A problem is reported only if it is certain: TorchServe allows archives without a manifest, and has handlers of its own.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from archive_tool.issues import Issue, Kind
from archive_tool.metadata.names import LSP_HANDLERS, MANIFEST_NAME, RUNTIMES, name_problem
from archive_tool.weights.formats import LFS_MAX_BYTES, LFS_PREFIX
from handlers.builtin import TORCHSERVE_HANDLERS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from archive_tool.metadata.manifest import Manifest
    from archive_tool.reading.archive import Archive

_WORKFLOW: Final = "WAR-INF/MANIFEST.json"
#: What Python imports as a module of a name, besides packages; compiled modules have more before their suffix.
_SOURCES: Final = (".py", ".pyc", "/__init__.py", "/__init__.pyc")
_LIBRARIES: Final = (".so", ".dylib", ".pyd")


def without_manifest(archive: Archive) -> Iterator[Issue]:
    """Report an archive without a manifest."""
    names = [member.name for member in archive.members]
    if not names:
        yield Issue(Kind.UNREADABLE, "the archive is empty")
    elif _WORKFLOW in names:
        yield Issue(Kind.UNREADABLE, "it is a workflow (.war), and no archive of a model; nothing of it is checked")
    elif (other := _elsewhere(names)) is not None:
        message = f"the manifest is {other!r}, where TorchServe does not look: it must be {MANIFEST_NAME!r}"
        yield Issue(Kind.UNREADABLE, message, other)
    else:
        yield Issue(Kind.NOTE, "there is no manifest, which TorchServe allows")


def _elsewhere(names: list[str]) -> str | None:
    """Find a misplaced manifest: in a folder of its own, or in a tar that lacks the outer folder."""
    wanted = MANIFEST_NAME.casefold()
    for name in names:
        folded = name.casefold()
        if folded in (wanted, wanted.rpartition("/")[2]) or folded.endswith(f"/{wanted}"):
            return name
    return None


def issues(archive: Archive, manifest: Manifest) -> Iterator[Issue]:
    """Find what a manifest names and the archive lacks. `rules` reports paths that lead elsewhere."""
    sizes = {member.name: member.size for member in archive.members}
    if manifest.runtime not in RUNTIMES:
        message = f"the manifest's runtime {manifest.runtime!r} is none that TorchServe has: {', '.join(RUNTIMES)}"
        yield Issue(Kind.UNREADABLE, message, MANIFEST_NAME)
    for key, name in manifest.model.files.items():
        if name_problem(name):
            continue
        # A user's handler may take a whole folder for the model.
        if name not in sizes and not (key == "serializedFile" and _is_folder(name, sizes)):
            yield Issue(Kind.UNREADABLE, f"the manifest's {key} {name!r} is not in the archive", MANIFEST_NAME)
        elif key == "serializedFile" and sizes.get(name) == 0:
            yield Issue(Kind.UNREADABLE, f"the manifest's {key} {name!r} is empty", name)
    yield from _handler(manifest, sizes)


def _is_folder(name: str, names: Collection[str]) -> bool:
    return any(one.startswith(f"{name}/") for one in names)


def _handler(manifest: Manifest, names: Collection[str]) -> Iterator[Issue]:
    handler = manifest.model.handler
    if not handler:
        message = "the manifest names no handler: who registers the model must"
        yield Issue(Kind.NOTE, message, MANIFEST_NAME)
        return
    if name_problem(handler.partition(":")[0]):
        return
    if manifest.runtime == "LSP":
        library = handler.partition(":")[0]
        if handler not in LSP_HANDLERS and not any(f"{library}{suffix}" in names for suffix in _LIBRARIES):
            message = f"there is no library for the handler {handler!r}, and no built-in one has that name"
            yield Issue(Kind.UNREADABLE, message, MANIFEST_NAME)
        return
    folder, module = module_of(handler)
    if module in TORCHSERVE_HANDLERS or _has_module(module, names) or (folder and _has_module(module, names, folder)):
        return
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names:
        message = f"the handler {handler!r} is Python's own module {top}, and none of the archive"
        yield Issue(Kind.UNSAFE, message, MANIFEST_NAME)
    elif top != module and not _is_folder(top, names):
        message = f"the handler {handler!r} is of the package {top!r}, which must be installed where it is served"
        yield Issue(Kind.NOTE, message, MANIFEST_NAME)
    else:
        message = f"there is no file for the handler {handler!r}, and no built-in handler has that name"
        yield Issue(Kind.UNREADABLE, message, MANIFEST_NAME)


def module_of(handler: str) -> tuple[str, str]:
    """Return the module of a manifest's handler, and the folder that may hold it besides the archive's root.

    TorchServe imports the last part of the path. Its folder is searched only if a function is named, too.
    """
    path, colon, _ = handler.partition(":")
    folder, _, module = path.removesuffix(".py").rpartition("/")
    return (folder if colon else ""), module


def _has_module(module: str, names: Collection[str], folder: str = "") -> bool:
    path = f"{folder}/" * bool(folder) + module.replace(".", "/")
    if any(f"{path}{suffix}" in names for suffix in _SOURCES):
        return True
    return any(name.startswith(f"{path}.") and name.endswith(_LIBRARIES) for name in names)


def content_issues(manifest: Manifest | None, name: str, size: int, head: bytes) -> Iterator[Issue]:
    """Report a member that stands for another file, by its first bytes.

    Args:
        manifest: of the archive; None if it has none that can be read.
        name, size: of the member.
        head: its first bytes, at least as many as a pointer of Git LFS begins with.
    """
    if size > LFS_MAX_BYTES or not head.startswith(LFS_PREFIX):
        return
    named = manifest is not None and name in manifest.model.files.values()
    message = f"{name!r} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`, and build again"
    yield Issue(Kind.UNREADABLE if named else Kind.NOTE, message, name)
