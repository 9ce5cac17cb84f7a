"""The common parts of the checks of model-config.yaml: a problem, and settings with their lines."""

from __future__ import annotations

import difflib
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml

from archive_tool.config.safe_yaml import line_of

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["error", "warning"]

_INT_MAX: Final = 2**31 - 1  # a larger number is a Long in Java, and ignored


@dataclass(frozen=True)
class ConfigProblem:
    """A problem in a model-config file.

    Attributes:
        severity: "error" if Java aborts or ignores the setting, or our worker will not load the model; else "warning".
        key: path of keys, such as ``torchrun.nnodes``; empty for the document.
        line: counted from 1, if known.
        message: what is wrong; it names the key.
        hint: what to do.
    """

    severity: Severity
    key: str
    line: int | None
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Entry:
    """The value of a setting, and the line of its key."""

    value: Any
    line: int


def entries_of(node: yaml.Node, document: Any) -> dict[str, Entry]:
    """Map the text keys of a mapping to their values and lines."""
    if not isinstance(node, yaml.MappingNode) or not isinstance(document, dict):
        return {}
    lines = {key.value: line_of(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    return {key: Entry(value, lines.get(key, line_of(node))) for key, value in document.items() if isinstance(key, str)}


def section_of(root: yaml.MappingNode, entries: dict[str, Entry], name: str) -> yaml.MappingNode | None:
    """Return the mapping of a section's settings; None if there is none."""
    entry = entries.get(name)
    if entry is None or not isinstance(entry.value, dict):
        return None
    # If a key is there twice, the last one wins.
    return next((value for key, value in reversed(root.value) if key.value == name), root)


def own_section(
    root: yaml.MappingNode, entries: dict[str, Entry], name: str, example: str
) -> tuple[dict[str, Entry], list[ConfigProblem]]:
    """Return the settings of one of torchmar's sections, and the problems of the section as such.

    Args:
        root, entries: of the document.
        name: of the section.
        example: a line of it.
    """
    section = entries.get(name)
    if section is None:
        meant = [key for key in entries if near_miss(key, {name: "map"}, cutoff=0.85)]
        return {}, [
            ConfigProblem(
                "warning",
                key,
                entries[key].line,
                f"{key} is no section that torchmar knows; it will be ignored",
                f"did you mean {name}?",
            )
            for key in meant
        ]
    node = section_of(root, entries, name)
    if node is None:
        message = f"{name}: expected a mapping of settings, got {shown(section.value)}"
        return {}, [ConfigProblem("error", name, section.line, message, f"write an indented line such as {example}")]
    settings = entries_of(node, section.value)
    for key in section.value:
        if not isinstance(key, str):
            settings[shown(key)] = Entry(section.value[key], section.line)
    return settings, []


def unknown_key(section: str, key: str, entry: Entry, known: Iterable[str]) -> ConfigProblem:
    """Make the problem of a key that our section does not have."""
    known = dict.fromkeys(known, "")
    # It is an error in any case, so a guess may be bolder than for the keys of TorchServe.
    meant = near_miss(key, known, cutoff=0.6)
    hint = f"did you mean {section}.{meant}?" if meant else f"the settings are {', '.join(known)}"
    whose = "the backend" if section == "backend" else section
    return ConfigProblem("error", f"{section}.{key}", entry.line, f"{section}.{key} is no setting of {whose}", hint)


def near_miss(key: str, schema: dict[str, str], cutoff: float = 0.88) -> str | None:
    """Find the key that was probably meant."""
    folded = {_squeeze(name): name for name in schema}
    close = difflib.get_close_matches(_squeeze(key), folded, n=1, cutoff=cutoff)
    return folded[close[0]] if close else None


def _squeeze(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")


def is_int(value: Any) -> bool:
    """Return whether Java takes a value for an Integer."""
    return isinstance(value, int) and not isinstance(value, bool) and -_INT_MAX - 1 <= value <= _INT_MAX


def shown(value: Any) -> str:
    """Format a value for a message, as in YAML and in a few words."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    try:
        return reprlib.repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        return "a number out of all bounds" if isinstance(value, int) else f"a {type(value).__name__}"
