"""The section ``optimize:`` of model-config.yaml, checked by the rules of its reader in the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from archive_tool.config.entries import ConfigProblem, Entry, own_section, shown, unknown_key
from handlers.optimization.settings import COMPILE_KEYS, KEYS, SECTION, conflicts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import yaml

    from handlers.optimization.settings import Setting


def check(root: yaml.MappingNode, entries: dict[str, Entry]) -> Iterator[ConfigProblem]:
    """Check the section, and the parts of the document that affect it."""
    section = entries.get(SECTION)
    if section is not None and (section.value is None or section.value is False):
        return
    settings, problems = own_section(root, entries, SECTION, "dtype: bfloat16")
    yield from problems
    yield from _check_keys(settings, KEYS, SECTION)
    compiled = settings.get("compile")
    if compiled is not None and isinstance(compiled.value, dict):
        below = {
            key if isinstance(key, str) else shown(key): Entry(value, compiled.line)
            for key, value in compiled.value.items()
        }
        yield from _check_keys(below, COMPILE_KEYS, f"{SECTION}.compile")
    if compiled is not None and compiled.value is not False and "startupTimeout" not in entries:
        name = f"{SECTION}.compile"
        message = f"{name} compiles before a worker is ready, and startupTimeout is 120 s if nothing is said"
        yield ConfigProblem("warning", name, compiled.line, message, "write a line such as startupTimeout: 600")
    pt2 = entries.get("pt2")
    values = {key: entry.value for key, entry in settings.items()}
    for key, message, hint in conflicts(values, None if pt2 is None else pt2.value):
        line = settings[key.partition(".")[0]].line
        yield ConfigProblem("error", f"{SECTION}.{key}", line, message, hint)


def _check_keys(settings: Mapping[str, Entry], keys: Mapping[str, Setting], name: str) -> Iterator[ConfigProblem]:
    for key, entry in settings.items():
        if key not in keys:
            yield unknown_key(name, key, entry, keys)
        elif not keys[key].fits(entry.value):
            yield _wrong(f"{name}.{key}", entry, keys[key].expected)


def _wrong(name: str, entry: Entry, expected: str) -> ConfigProblem:
    value: Any = entry.value
    quoted = isinstance(value, str) and value.lower() in ("true", "false") and "true or false" in expected
    hint = f"write {value.lower()} without quotes" if quoted else f"write {expected}"
    return ConfigProblem("error", name, entry.line, f"{name}: expected {expected}, got {shown(value)}", hint)
