"""Changing one setting of a YAML file while the rest stays as it is written, comments too."""

from __future__ import annotations

from typing import Any

import yaml

from archive_tool.config.safe_yaml import NotYamlError, compose, construct, walk


def with_section(text: str, key: str, value: Any) -> str:
    """Return the document with the top-level `key` set to `value`, or without it if `value` is None.

    The lines of other settings stay as they are, unless the document is written in braces.

    Raises:
        NotYamlError: it is not YAML, or not a mapping.
    """
    root = compose(text)
    document = construct(root)
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise NotYamlError("it holds no mapping of settings")
    wanted = {name: one for name, one in document.items() if name != key}
    if value is not None:
        wanted = {**document, key: value}
    if wanted == document:
        return text
    block = "" if value is None else yaml.safe_dump({key: value}, sort_keys=False)
    changed = _by_lines(text, root, key, block)
    try:
        if changed is not None and construct(compose(changed)) == wanted:
            return changed
    except NotYamlError:
        pass
    return yaml.safe_dump(wanted, sort_keys=False) if wanted else ""


def _by_lines(text: str, root: yaml.Node | None, key: str, block: str) -> str | None:
    """Change only the lines of the setting; None if settings are not lines."""
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    if root is None:
        return "".join(lines) + block
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return None
    for name, value in root.value:
        if isinstance(name, yaml.ScalarNode) and name.value == key:
            first, last = name.start_mark.line, _last_line(name, value)
            return "".join(lines[:first]) + block + "".join(lines[last + 1 :])
    last = max(_last_line(name, value) for name, value in root.value)
    # Comments at the end belong to what precedes them; a line that ends the document stays last.
    end = next((index for index in range(last + 1, len(lines)) if lines[index].startswith("...")), len(lines))
    return "".join(lines[:end]) + block + "".join(lines[end:])


def _last_line(name: yaml.Node, value: yaml.Node) -> int:
    """Return the last line of a setting, from its parts: a block's end includes later comments and empty lines."""
    last: int = name.end_mark.line
    for node, _ in walk(value):
        end = node.end_mark
        if isinstance(node, yaml.CollectionNode) and not node.flow_style:
            continue
        last = max(last, end.line if end.column else end.line - 1)
    return last
