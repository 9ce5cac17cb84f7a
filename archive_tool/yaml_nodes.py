"""What a YAML document holds that is no plain setting, told without making an object of anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = ("null", "bool", "int", "float", "str", "binary", "timestamp", "merge", "value")
#: Tags of plain values; any other asks a reader to make an object of a program, such as ``!!java.net.URL``.
PLAIN_TAGS: Final = frozenset(TAG + name for name in (*_SCALARS, "seq", "map", "omap", "pairs", "set"))
_ERRORS: Final = (yaml.YAMLError, ValueError, RecursionError)


def foreign_tags(text: bytes | str) -> list[tuple[int, str]]:
    """Find each tag that asks a reader to make an object of a program: its line, counted from 1, and the tag.

    SnakeYAML, with which Java reads a config file, did that up to version 1.33. Of a document that breaks off, what
    precedes is looked at: another reader may read on.
    """
    found = []
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            tag = getattr(event, "tag", None)
            if tag is not None and tag != "!" and tag not in PLAIN_TAGS:
                mark = event.start_mark
                found.append((mark.line + 1 if mark else 0, tag))
    except _ERRORS:
        pass
    return found


def texts(text: bytes | str) -> list[tuple[str, str]]:
    """Give each single value of the document, as it is written, with the path of keys that leads to it.

    Raises:
        ValueError: the document is no YAML.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except _ERRORS as error:
        reason = getattr(error, "problem", None) or str(error).split("\n")[0] or type(error).__name__
        raise ValueError(f"not YAML: {reason}") from error
    return sorted(_texts(root)) if root is not None else []


def _texts(root: yaml.Node) -> Iterator[tuple[str, str]]:
    todo: list[tuple[yaml.Node, str]] = [(root, "")]
    seen: set[int] = set()  # aliases may multiply without end
    while todo:
        node, path = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield path, str(node.value)
        elif isinstance(node, yaml.MappingNode):
            todo += [(value, join(path, key)) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            todo += [(item, path) for item in node.value]


def join(path: str, key: yaml.Node) -> str:
    """Lengthen a path of keys, such as ``torchrun.nnodes``."""
    name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
    return f"{path}.{name}" if path else name
