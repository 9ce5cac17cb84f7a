"""Reading untrusted YAML: its cost is bounded, and no tag makes an object of a program.

An alias is the same object again, which costs little. Merge keys (``<<``) copy the settings of the mappings that they
name, so a page of text could fill the memory. PyYAML's time grows with the square of the depth, and of some numbers'
digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

#: A file of settings is a page of text; PyYAML takes half a second for this many bytes of one text or comment.
MAX_BYTES: Final = 256 << 10
#: Keys, values, aliases, begins and ends of lists and mappings; PyYAML takes a second for this many.
MAX_EVENTS: Final = 10_000
#: Nested lists and mappings: SnakeYAML, with which Java reads a config file, takes no more.
MAX_DEPTH: Final = 50
#: Characters of a number; a longer one is not a setting.
MAX_NUMBER: Final = 100
#: Characters of a path of keys.
_MAX_PATH: Final = 200
#: Settings that all merge keys of a document may copy; an honest one has some dozens.
MAX_MERGED: Final = 10_000
TAG: Final = "tag:yaml.org,2002:"
MERGE: Final = TAG + "merge"
_SCALARS: Final = ("null", "bool", "int", "float", "str", "binary", "timestamp", "merge", "value")
#: Tags of plain values; any other asks a reader to make an object of a program, such as ``!!java.net.URL``.
PLAIN_TAGS: Final = frozenset(TAG + name for name in (*_SCALARS, "seq", "map", "omap", "pairs", "set"))
# PyYAML fails in many ways on a value that does not have the form of its tag, such as !!int "".
_ERRORS: Final = (yaml.YAMLError, ValueError, RecursionError, TypeError, LookupError, AttributeError)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which stops where a document costs more than any honest one."""

    def __init__(self, text: bytes | str) -> None:
        self._events = 0
        self._depth = 0
        super().__init__(text)

    def fetch_flow_collection_start(self, kind: type[yaml.Token]) -> None:
        """Scan a bracket: the scanner reads far ahead of the events, and checks all open brackets for each token."""
        if self.flow_level > MAX_DEPTH:
            raise NotYamlError(f"it has more than {MAX_DEPTH} parts within each other", self.line + 1)
        super().fetch_flow_collection_start(kind)  # type: ignore[no-untyped-call, unused-ignore]

    def get_event(self) -> yaml.Event:
        """Return the next event; the composition of nodes calls this, too."""
        event: yaml.Event = super().get_event()  # type: ignore[no-untyped-call, unused-ignore]
        self._events += 1
        if isinstance(event, yaml.CollectionStartEvent):
            self._depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            self._depth -= 1
        if self._events > MAX_EVENTS or self._depth > MAX_DEPTH:
            limit = f"{MAX_EVENTS} parts" if self._events > MAX_EVENTS else f"{MAX_DEPTH} parts within each other"
            raise NotYamlError(f"it has more than {limit}", event.start_mark.line + 1 if event.start_mark else None)
        return event


class NotYamlError(ValueError):
    """A document that is not YAML, or costs too much to read.

    Attributes:
        reason: what is wrong.
        line: counted from 1, if known.
    """

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(f"not YAML: {reason}")
        self.reason = reason
        self.line = line


def compose(text: bytes | str) -> yaml.Node | None:
    """Read a document as nodes, which know their lines; None for an empty one.

    Raises:
        NotYamlError: it is not YAML, or is larger or deeper than the bounds of this module.
    """
    _check_size(text)
    try:
        return yaml.compose(text, Loader=_Loader)
    except NotYamlError:
        raise
    except _ERRORS as error:
        raise _not_yaml(error) from error


def _check_size(text: bytes | str) -> None:
    if len(text) > MAX_BYTES:
        raise NotYamlError(f"it has more than {MAX_BYTES} bytes")


def construct(root: yaml.Node | None) -> Any:
    """Make the values of a document; None for an empty one.

    Raises:
        NotYamlError: a value does not have the form of its tag, a tag is not plain, or merge keys copy too much.
    """
    if root is None:
        return None
    try:
        _check_merges(root)
        _check_numbers(root)
        return yaml.SafeLoader("").construct_document(root)
    except NotYamlError:
        raise
    except _ERRORS as error:
        raise _not_yaml(error) from error


def _not_yaml(error: Exception) -> NotYamlError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or str(error).split("\n")[0] or type(error).__name__
    return NotYamlError(reason, mark.line + 1 if mark else None)


def _check_merges(root: yaml.Node) -> None:
    """Count what PyYAML will copy: for each merge key all settings of each mapping that it names."""
    sizes: dict[int, int] = {}
    copied = 0

    def size(node: yaml.MappingNode) -> int:
        nonlocal copied
        if id(node) in sizes:
            return sizes[id(node)]
        sizes[id(node)] = MAX_MERGED + 1  # until it is known: one that merges itself has no end
        settings = 0
        for key, value in node.value:
            if key.tag != MERGE:
                settings += 1
                continue
            parts = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for part in parts:
                more = size(part) if isinstance(part, yaml.MappingNode) else 0
                settings += more
                copied += more
                if copied > MAX_MERGED:
                    raise NotYamlError("its merge keys make too many settings", line_of(key))
        sizes[id(node)] = settings
        return settings

    for node, _ in walk(root):
        if isinstance(node, yaml.MappingNode):
            size(node)


def _check_numbers(root: yaml.Node) -> None:
    """Refuse numbers of thousands of digits, also sexagesimal ones such as 1:30:00."""
    for node, _ in walk(root):
        if node.tag in (TAG + "int", TAG + "float") and len(str(node.value)) > MAX_NUMBER:
            raise NotYamlError(f"a number has more than {MAX_NUMBER} characters", line_of(node))


def walk(root: yaml.Node, *, keys: bool = True) -> Iterator[tuple[yaml.Node, str]]:
    """Yield each node once, since aliases may multiply without end, from top to bottom, with the path of keys to it.

    ``keys`` says whether the keys of mappings are included.
    """
    todo: list[tuple[yaml.Node, str]] = [(root, "")]
    seen: set[int] = set()
    while todo:
        node, path = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node, path
        if isinstance(node, yaml.MappingNode):
            for key, value in reversed(node.value):
                todo.append((value, join(path, key)))
                if keys:
                    todo.append((key, path))
        elif isinstance(node, yaml.SequenceNode):
            todo += [(item, path) for item in reversed(node.value)]


def line_of(node: yaml.Node) -> int:
    """Return the line at which a node begins, counted from 1."""
    line: int = node.start_mark.line
    return line + 1


def foreign_tags(text: bytes | str) -> list[tuple[int, str]]:
    """Find each tag that asks a reader to make an object of a program: its line, counted from 1, and the tag.

    SnakeYAML, with which Java reads a config file, made such objects up to version 1.33. In a document that breaks off,
    the part before is checked: another reader may read on. `compose` reports a document that is too large.
    """
    found = []
    try:
        _check_size(text)
        for event in yaml.parse(text, Loader=_Loader):
            tag = getattr(event, "tag", None)
            if tag is not None and tag != "!" and tag not in PLAIN_TAGS:
                mark = event.start_mark
                found.append((mark.line + 1 if mark else 0, tag))
    except _ERRORS:
        pass
    return found


def texts(root: yaml.Node | None) -> list[tuple[str, str]]:
    """Return each scalar of a document, as it is written, with the path of keys to it."""
    if root is None:
        return []
    return sorted((path, str(node.value)) for node, path in walk(root, keys=False) if isinstance(node, yaml.ScalarNode))


def is_mapping(root: yaml.Node | None) -> bool:
    """Return whether a document holds settings."""
    return isinstance(root, yaml.MappingNode)


def join(path: str, key: yaml.Node) -> str:
    """Extend a path of keys, such as ``torchrun.nnodes``."""
    name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
    # Long keys within long keys: the paths would take more than all the rest.
    return (f"{path}.{name}" if path else name)[:_MAX_PATH]
