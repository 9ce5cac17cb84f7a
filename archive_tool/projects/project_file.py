"""A project file, ``torchmar.yaml``: the description of a repository's archive, in one place.

Its keys are the options of ``torchmar build``. Paths are relative to the file, wherever the command is run.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from archive_tool import files
from archive_tool.building.files import split_target
from archive_tool.building.options import BuildOptions
from archive_tool.building.report import Report
from archive_tool.config.safe_yaml import TAG, NotYamlError, compose
from archive_tool.errors import BuildError
from archive_tool.metadata.names import LSP_HANDLERS, RUNTIMES, SUFFIXES
from handlers.builtin import BUILT_IN, STOCK_HANDLERS

if TYPE_CHECKING:
    from collections.abc import Callable

NAME: Final = "torchmar.yaml"
#: Key to kind of value; "handler", "files" and "samples" are lists or texts with paths in them. Only the command line
#: uses ``check``.
KEYS: Final[dict[str, str]] = {
    **{one.name.replace("_", "-"): one.metadata["kind"] for one in fields(BuildOptions) if one.metadata},
    "check": "flag",
}
_CHOICES: Final = {"runtime": RUNTIMES, "format": tuple(SUFFIXES)}
_NULL: Final = TAG + "null"
_BOOL: Final = TAG + "bool"


def read(path: Path) -> dict[str, Any]:
    """Read a project file, or the one in a folder; return the arguments of `archive_tool.build` that it sets.

    They may include ``check``, which only the command line uses.

    Raises:
        BuildError: it cannot be read, or has an unknown option; all mistakes are reported at once.
    """
    file = path / NAME if path.is_dir() else path
    root = _compose(file)
    report = Report()
    folder = file.parent
    options: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in root.value:
        name = str(key.value).replace("_", "-") if isinstance(key, yaml.ScalarNode) else ""
        where = f"{file}:{key.start_mark.line + 1}"
        if name not in KEYS:
            meant = difflib.get_close_matches(name, KEYS, n=1, cutoff=0.6)
            hint = f"did you mean {meant[0]}?" if meant else f"the options are {', '.join(KEYS)}"
            report.error(f"{key.value if name else 'a list'!r} is no option of torchmar build", where=where, hint=hint)
        elif name in lines:
            report.error(f"{name} is set twice, first in line {lines[name]}", where=where, hint="remove one of them")
        else:
            lines[name] = key.start_mark.line + 1
            try:
                options[name.replace("-", "_")] = _READERS[KEYS[name]](value, KEYS[name], folder)
            except ValueError as error:
                place = f"{file}:{value.start_mark.line + 1}"
                report.error(f"{name}: expected {error}, got {_shown(value)}", where=place)
    report.raise_errors()
    if options.get("keep_folders"):
        options["keep_folders"] = folder  # relative to the file, not to where the command is run
    return options


def _compose(file: Path) -> yaml.MappingNode:
    try:
        text = files.read_regular(file)
    except OSError as error:
        raise BuildError(
            f"cannot read the project file {file}: {error.strerror}", where="--from", hint="torchmar init writes one"
        ) from error
    try:
        root = compose(text)
    except NotYamlError as error:
        where = f"{file}:{error.line}" if error.line else str(file)
        raise BuildError(f"the project file is {error}", where=where) from error
    if not isinstance(root, yaml.MappingNode):
        raise BuildError(
            "the project file holds no settings", where=str(file), hint="write lines such as handler: h.py"
        )
    return root


def _text(node: yaml.Node, kind: str, folder: Path) -> str:  # noqa: ARG001
    # The text as it is written: version: 1.10 is not a number that ends in .1.
    if not isinstance(node, yaml.ScalarNode) or node.tag == _NULL:
        raise ValueError("a text")
    return str(node.value)


def _flag(node: yaml.Node, kind: str, folder: Path) -> bool:  # noqa: ARG001
    if not isinstance(node, yaml.ScalarNode) or node.tag != _BOOL:
        raise ValueError("true or false")
    return bool(yaml.SafeLoader("").construct_yaml_bool(node))


def _choice(node: yaml.Node, kind: str, folder: Path) -> str:
    text = _text(node, kind, folder)
    if text not in _CHOICES[kind]:
        raise ValueError(f"one of {', '.join(_CHOICES[kind])}")
    return text


def _path(node: yaml.Node, kind: str, folder: Path) -> str:
    return _join(folder, _text(node, kind, folder))


def _handler(node: yaml.Node, kind: str, folder: Path) -> str:
    text = _text(node, kind, folder)
    own = (folder / f"{text}.py").exists()
    if text in STOCK_HANDLERS | LSP_HANDLERS or (text in BUILT_IN and not own):
        return text
    return _join(folder, text)


def _files(node: yaml.Node, kind: str, folder: Path) -> list[str]:
    found = []
    for item in _items(node, kind, folder):
        # Split at "=" where the file is; the folder before it may have one, too.
        relative, target = item, None
        if not os.path.lexists(folder / item) and "=" in item:
            relative, target = split_target(item)
        joined = _join(folder, relative)
        found.append(joined if target is None else f"{joined}={target}")
    return found


def _samples(node: yaml.Node, kind: str, folder: Path) -> list[str]:
    found = []
    for item in _items(node, kind, folder):
        file, equals, expected = item.partition("=")
        if equals and (folder / expected).is_file():
            expected = _join(folder, expected)
        found.append(f"{_join(folder, file)}{equals}{expected}")
    return found


def _items(node: yaml.Node, kind: str, folder: Path) -> list[str]:
    if isinstance(node, yaml.SequenceNode):
        return [_text(item, kind, folder) for item in node.value]
    return [part.strip() for part in _text(node, kind, folder).split(",") if part.strip()]


def _join(folder: Path, text: str) -> str:
    # Not by pathlib, which drops the trailing slash.
    return os.path.join(folder, text) if folder != Path() and text else text  # noqa: PTH118


_READERS: Final[dict[str, Callable[[yaml.Node, str, Path], Any]]] = {
    "text": _text,
    "flag": _flag,
    "path": _path,
    "handler": _handler,
    "files": _files,
    "samples": _samples,
    "runtime": _choice,
    "format": _choice,
}


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return "nothing" if node.tag == _NULL else repr(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
