"""The files of an archive, and the member that each becomes.

The rules are torch-model-archiver's (contract: model file, serialized file and handler go to the root under their base
names; a directory among the extra files is merged into the root). It silently lets a later file overwrite an earlier
one of the same name. Here two different files for one name are an error.
"""

from __future__ import annotations

import filecmp
import glob
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from archive_tool import files
from archive_tool.metadata.manifest import Model, new_manifest
from archive_tool.metadata.names import (
    MANIFEST_NAME,
    collisions,
    fold,
    is_skipped_directory,
    name_problem,
)
from archive_tool.writing.plan import Member, Plan
from handlers.builtin import BUILT_IN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.building.inputs import Inputs
    from archive_tool.building.report import Report


def plan(inputs: Inputs, seconds: int, report: Report) -> Plan:
    """Find every file of an archive; problems go to the report.

    Reads directories, and the contents of two files only if they have the same name in the archive. Nothing is written.
    """
    members: dict[str, Path | bytes] = {}
    for name, source in _sources(inputs, report):
        _add(members, name, source, report)
    for problem in collisions(sorted(members)):
        report.error(f"two members cannot stand side by side: {problem}")
    manifest = new_manifest(_model(inputs), runtime=inputs.runtime, seconds=seconds)
    return Plan.of((Member(name, source) for name, source in members.items()), manifest, seconds)


def _model(inputs: Inputs) -> Model:
    def base(path: Path | None) -> str | None:
        return path.name if path else None

    return Model(
        model_name=inputs.model_name,
        serialized_file=base(inputs.serialized_file),
        handler=Path(inputs.handler).name,
        model_file=base(inputs.model_file),
        model_version=inputs.version or None,
        requirements_file=base(inputs.requirements_file),
        config_file=base(inputs.config_file),
    )


def _sources(inputs: Inputs, report: Report) -> Iterator[tuple[str, Path | bytes]]:
    named: list[tuple[str, Path | None]] = [
        ("--model-file", inputs.model_file),
        ("--serialized-file", inputs.serialized_file),
        ("--handler", inputs.handler_file),
        ("--requirements-file", inputs.requirements_file),
        ("--config-file", inputs.config_file),
    ]
    for option, path in named:
        hint = _path_of_module(inputs) or _similar_handler(inputs) if option == "--handler" else None
        if path is not None and check_file(path, option, report, hint):
            yield path.name, path
    if inputs.sdk_handler:
        yield f"{inputs.handler}.py", sdk_handler_source(inputs.sdk_handler)
    for item in inputs.extra_files:
        yield from _extra(item, inputs.folders_from, report)


def sdk_handler_source(name: str) -> bytes:
    """Return the source of the handler file for an archive that uses a handler of the SDK as it is.

    TorchServe wants exactly one class that is defined in the file itself.
    """
    return (
        f'"""The handler of this archive: {name} of the package `handlers`, as it is."""\n\n'
        f"from handlers import {name}\n\n\n"
        f"class Handler({name}):\n"
        f'    """Nothing is changed."""\n'
    ).encode()


def check_file(path: Path, option: str, report: Report, hint: str | None = None) -> bool:
    """Return whether a path is a readable file; report it if not.

    Args:
        path: the file.
        option: that names the file.
        report: takes the problem.
        hint: what may have been meant if there is no such file; by default a file of a similar name.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            report.error(f"the link {path} leads nowhere", where=option)
        else:
            report.error(f"the file {path} does not exist", where=option, hint=hint or _similar(path))
        return False
    except (OSError, ValueError) as error:
        report.error(f"cannot look at {path}: {_reason(error)}", where=option)
        return False
    if stat.S_ISDIR(mode):
        report.error(f"{path} is a directory, a file is needed", where=option)
    elif not stat.S_ISREG(mode):
        report.error(f"{path} is not a regular file", where=option)
    elif not os.access(path, os.R_OK):
        report.error(f"the file {path} cannot be read: permission denied", where=option)
    else:
        return True
    return False


def _path_of_module(inputs: Inputs) -> str | None:
    """Suggest what a dotted name may have meant: ``package.module`` or ``package.module:function``."""
    name, colon, function = inputs.handler.partition(":")
    parts = name.split(".")
    if not inputs.uses_python or len(parts) < 2 or parts[-1] == "py" or not all(part.isidentifier() for part in parts):
        return None
    whole, without_class = Path(*parts).with_suffix(".py"), Path(*parts[:-1]).with_suffix(".py")
    path = without_class if without_class.is_file() and not whole.is_file() else whole
    return f"a handler is given by its path, not by a module's name: --handler {path}{colon}{function}"


def _similar_handler(inputs: Inputs) -> str | None:
    """Suggest what a word may have meant that is neither a file here nor a built-in handler."""
    import difflib

    name = inputs.handler
    if not inputs.uses_python or not name.isidentifier():
        return None
    if similar := _similar(Path(f"{name}.py")):
        return similar
    known = sorted(one for one in BUILT_IN if not one.startswith("pretrained_"))  # those come with their folders
    close = [one for one in known if name.casefold() in one] or difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else f"name a file, or one of {', '.join(known)}"


def _similar(path: Path) -> str | None:
    import difflib

    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return None if path.parent.is_dir() else f"the folder {path.parent} does not exist either"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"did you mean {path.parent / close[0]}?" if close else None


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def _extra(item: str, folders_from: Path | None, report: Report) -> Iterator[tuple[str, Path]]:
    option = "--extra-files"
    source, target = split_target(item)
    if target is not None and not target.strip():
        report.error(f"{item!r} names no place in the archive", where=option, hint="write FILE=PLACE, or FILE alone")
        return
    several = False
    if os.path.lexists(source):
        found = [source]
    elif _is_wildcard(source):
        several = True
        found = sorted(glob.glob(source))  # noqa: PTH207 - Path.glob takes no absolute pattern, and sees dotfiles
        if not found:
            report.warning(f"no file matches {source!r}", where=option)
    else:
        found = [source]  # check_file reports a missing one
    for entry in map(Path, found):
        is_folder = entry.is_dir()
        if not is_folder and not check_file(entry, option, report):
            continue
        name = _place(entry, target, is_folder=is_folder, several=several, folders_from=folders_from)
        if name is None:
            report.error(
                f"{entry} is not below {folders_from}, so it has no folders to keep",
                where=option,
                hint=f"say where it goes: {entry}=PLACE",
            )
        elif is_folder:
            yield from _walk(entry, f"{name}/" if name else "", (os.path.realpath(entry),), report)
        else:
            yield name, entry


def split_target(item: str) -> tuple[str, str | None]:
    """Split ``FILE`` or ``FILE=PLACE``; a file with ``=`` in its name is found, too."""
    if os.path.lexists(item):
        return item, None
    places = [index for index, char in enumerate(item) if char == "="]
    sources = [index for index in places if os.path.lexists(item[:index])]
    if not places:
        return item, None
    at = (sources or places)[0]
    return item[:at], item[at + 1 :]


def _is_wildcard(text: str) -> bool:
    return any(char in text for char in "*?") or ("[" in text and "]" in text)


def _place(entry: Path, target: str | None, *, is_folder: bool, several: bool, folders_from: Path | None) -> str | None:
    """Return an extra file's name in the archive, or the prefix of the names below a folder; None if there is none."""
    if target is not None:
        into = several or target.endswith("/") or target.strip() == "."
        name = "/".join(part for part in target.strip().split("/") if part not in ("", "."))
        return f"{name}/{entry.name}".lstrip("/") if into and not (is_folder and not several) else name
    if folders_from is None:
        return "" if is_folder else entry.name
    # Not resolve(): a link keeps the folder that it is in, not that of its target.
    relative = Path(os.path.relpath(os.path.abspath(entry), os.path.abspath(folders_from)))  # noqa: PTH100
    if relative.parts[:1] == (os.pardir,):
        return None
    return "" if relative == Path() else relative.as_posix()


def _walk(folder: Path, prefix: str, above: tuple[str, ...], report: Report) -> Iterator[tuple[str, Path]]:
    """Yield the files below a directory; linked directories are followed, as torch-model-archiver copies them."""
    option = "--extra-files"
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        report.error(f"cannot list {folder}: {_reason(error)}", where=option)
        return
    for entry in entries:
        path = folder / entry.name
        name = prefix + entry.name
        if not entry.is_dir():
            if check_file(path, option, report):
                yield name, path
            continue
        if is_skipped_directory(entry.name):
            continue
        real = os.path.realpath(path)
        # Only a link back to an enclosing folder makes a loop; two links to one folder are two copies.
        if real in above:
            report.error(f"the link {path} leads back to {real}: a loop", where=option)
        else:
            yield from _walk(path, f"{name}/", (*above, real), report)


def _add(members: dict[str, Path | bytes], name: str, source: Path | bytes, report: Report) -> None:
    shown = name if isinstance(source, bytes) else str(source)
    if problem := name_problem(name):
        report.error(f"the file name {name!r} {problem}", where=shown, hint="rename the file")
    elif fold(name) == fold(MANIFEST_NAME):
        report.error(
            f"{shown} would take the place of the archive's own manifest",
            hint="leave MAR-INF out of the extra files; the manifest is written anew",
        )
    elif name not in members:
        members[name] = source
    elif not _same(members[name], source):
        before = members[name]
        first = "the one that torchmar writes" if isinstance(before, bytes) else str(before)
        report.error(
            f"two different files would become the member {name!r}: {first} and {shown}",
            hint="rename one of them, or put it into a folder below a directory given to --extra-files",
        )


def _same(one: Path | bytes, other: Path | bytes) -> bool:
    try:
        if isinstance(one, bytes) or isinstance(other, bytes):
            first, second = (part if isinstance(part, bytes) else files.read_regular(part) for part in (one, other))
            return first == second
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
