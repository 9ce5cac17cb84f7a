"""The section ``optimize:`` of model-config.yaml, for a faster model: `handlers.optimization.settings` reads it.

What is an error there is one here; a test compares them. This package cannot ask the other one, which imports torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from archive_tool.config.entries import ConfigProblem, Entry, own_section, shown, unknown_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import yaml

SECTION: Final = "optimize"
DTYPES: Final = ("float32", "float16", "bfloat16")
MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
#: Key to what it may be.
KEYS: Final = {
    "dtype": f"one of {', '.join(DTYPES)}",
    "channels_last": "true or false",
    "compile": "true, false, the name of a backend, or a mapping of settings",
    "freezing": "true or false",
    "cuda_graphs": "true or false",
    "tolerance": "a number from 0.0000001 to 1",
}
COMPILE_KEYS: Final = {
    "backend": "the name of a backend",
    "mode": f"one of {', '.join(MODES)}",
    "dynamic": "true or false",
}
_INDUCTOR: Final = "inductor"
_LEAST_TOLERANCE: Final = 1e-7


def check(root: yaml.MappingNode, entries: dict[str, Entry]) -> Iterator[ConfigProblem]:
    """Check the section, and what else in the document bears on it."""
    section = entries.get(SECTION)
    if section is not None and (section.value is None or section.value is False):
        return
    settings, problems = own_section(root, entries, SECTION, "dtype: bfloat16")
    yield from problems
    for key, entry in settings.items():
        if key not in KEYS:
            yield unknown_key(SECTION, key, entry, KEYS)
        elif not _fits(key, entry.value):
            yield _wrong(f"{SECTION}.{key}", entry, KEYS[key], entry.value)
        elif key == "compile" and isinstance(entry.value, dict):
            yield from _check_compile(entry)
    yield from _check_together(settings, entries)


def _check_compile(entry: Entry) -> Iterator[ConfigProblem]:
    for key, value in entry.value.items():
        if key not in COMPILE_KEYS:
            yield unknown_key(
                f"{SECTION}.compile", shown(key) if not isinstance(key, str) else key, entry, COMPILE_KEYS
            )
        elif value is not None and not _fits(f"compile.{key}", value):
            yield _wrong(f"{SECTION}.compile.{key}", entry, COMPILE_KEYS[key], value)


def _wrong(name: str, entry: Entry, expected: str, value: Any) -> ConfigProblem:
    message = f"{name}: expected {expected}, got {shown(value)}"
    quoted = isinstance(value, str) and value.lower() in ("true", "false") and "true or false" in expected
    hint = f"write {value.lower()} without quotes" if quoted else f"write {expected}"
    return ConfigProblem("error", name, entry.line, message, hint)


def _fits(key: str, value: Any) -> bool:
    if key in ("dtype", "compile.mode"):
        return isinstance(value, str) and value in (DTYPES if key == "dtype" else MODES)
    if key == "compile":
        return isinstance(value, bool | dict) or (isinstance(value, str) and bool(value))
    if key == "compile.backend":
        return isinstance(value, str) and bool(value)
    if key == "tolerance":
        if value is None:
            return True
        return isinstance(value, int | float) and not isinstance(value, bool) and _LEAST_TOLERANCE <= value <= 1
    return isinstance(value, bool)


def _check_together(settings: Mapping[str, Entry], entries: Mapping[str, Entry]) -> Iterator[ConfigProblem]:
    """Check what depends on each other; a value of a wrong kind has been told already."""
    compiled = settings.get("compile")
    if compiled is None or compiled.value is False:
        if "cuda_graphs" in settings and settings["cuda_graphs"].value is True:
            message = f"{SECTION}.cuda_graphs needs {SECTION}.compile"
            yield _problem("error", "cuda_graphs", settings["cuda_graphs"], message, "write compile: true beside it")
        return
    if _asks(entries.get("pt2")):
        message = f"{SECTION}.compile and pt2 both ask for torch.compile"
        yield _problem("error", "compile", compiled, message, "remove one of them")
    if "startupTimeout" not in entries:
        message = f"{SECTION}.compile compiles before a worker is ready, and startupTimeout is 120 s if nothing is said"
        yield _problem("warning", "compile", compiled, message, "write a line such as startupTimeout: 600")
    backend, mode = _compiler(compiled.value)
    if backend == _INDUCTOR:
        return
    given = [key for key in ("freezing", "cuda_graphs") if key in settings and settings[key].value is True]
    for key in given + (["compile.mode"] if mode is not None else []):
        message = f"{SECTION}.{key} is for the backend {_INDUCTOR}, and the backend is {shown(backend)}"
        yield _problem("error", key, settings.get(key, compiled), message, f"remove it, or write {_INDUCTOR}")


def _problem(severity: Any, key: str, entry: Entry, message: str, hint: str) -> ConfigProblem:
    return ConfigProblem(severity, f"{SECTION}.{key}", entry.line, message, hint)


def _compiler(value: Any) -> tuple[Any, Any]:
    """The backend and the mode that are asked for."""
    if isinstance(value, dict):
        return value.get("backend") or _INDUCTOR, value.get("mode")
    return (value if isinstance(value, str) else _INDUCTOR), None


def _asks(pt2: Entry | None) -> bool:
    """Whether ``pt2`` asks for torch.compile, in a form that `handlers.optimization.torch_compile` takes."""
    value = None if pt2 is None else pt2.value
    if isinstance(value, dict) and "compile" in value:
        value = value["compile"]
        return bool(value.get("enable", True)) if isinstance(value, dict) else value is True
    if isinstance(value, dict):
        return "export" not in value
    return isinstance(value, str)
