"""The schema of model-config.yaml, as far as TorchServe's Java frontend reads it.

Java logs a line and goes on when a value has a wrong type, so the setting is silently not in effect; here that is an
error. The names and types are those of ModelConfig.java (TorchServe 0.12.0). Other keys belong to the handler or to our
own worker (``handler:``, ``backend:``) and are not looked at.
"""

from __future__ import annotations

import difflib
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

Severity = Literal["error", "warning"]

#: Key to kind: "count" is an integer that Java takes from 1, "amount" one from 0.
JAVA_KEYS: Final = {
    "minWorkers": "amount",
    "maxWorkers": "amount",
    "batchSize": "count",
    "maxBatchDelay": "amount",
    "responseTimeout": "count",
    "startupTimeout": "count",
    "deviceType": "device",
    "deviceIds": "ids",
    "parallelType": "parallel",
    "parallelLevel": "count",
    "torchrun": "map",
    "maxRetryTimeoutInSec": "count",
    "clientTimeoutInMills": "amount",
    "jobQueueSize": "count",
    "useJobTicket": "bool",
    "continuousBatching": "bool",
    "sequenceBatching": "bool",
    "asyncCommunication": "bool",
    "useVenv": "bool",
    "sequenceMaxIdleMSec": "amount",
    "sequenceTimeoutMSec": "amount",
    "maxSequenceJobQueueSize": "count",
    "maxNumSequence": "count",
}
TORCHRUN_KEYS: Final = {
    "nnodes": "count",
    "nproc-per-node": "count",
    "node-rank": "amount",
    "max-restarts": "count",
    "monitor-interval": "count",
    "rdzv-backend": "text",
    "rdzv-endpoint": "text",
    "rdzv-conf": "text",
    "OMP_NUMBER_THREADS": "count",
}
_CHOICES: Final = {"device": ("cpu", "gpu"), "parallel": ("pp", "tp", "pptp", "custom")}
_WORDS: Final = {
    "count": "an integer from 1",
    "amount": "an integer from 0",
    "device": "cpu or gpu",
    "parallel": "pp, tp, pptp or custom",
    "ids": "a list of integers",
    "map": "a mapping",
    "bool": "true or false",
    "text": "text",
}
_INT_MAX: Final = 2**31 - 1  # a larger number is a Long in Java, and ignored
_TAG: Final = "tag:yaml.org,2002:"
_SCALARS: Final = ("null", "bool", "int", "float", "str", "binary", "timestamp", "merge", "value")
_PLAIN_TAGS: Final = frozenset(_TAG + name for name in (*_SCALARS, "seq", "map", "omap", "pairs", "set"))


@dataclass(frozen=True)
class ConfigProblem:
    """One thing that is wrong in a model-config file.

    Attributes:
        severity: "error" if Java aborts or ignores the setting, else "warning".
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
class _Entry:
    value: Any
    line: int


def validate(text: bytes | str) -> list[ConfigProblem]:
    """Check a document; an empty list says that Java will take each setting as it is written."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return [_not_yaml(error)]
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == _TAG + "null"):
        hint = "leave --config-file out, or write a setting such as minWorkers: 1"
        message = "the config file is empty: TorchServe fails to register the model and may not even start"
        return [ConfigProblem("error", "", None, message, hint)]
    if not isinstance(root, yaml.MappingNode):
        message = "the config file holds no mapping of settings"
        return [ConfigProblem("error", "", _line(root), message, "write lines such as minWorkers: 1")]
    problems = list(_check_nodes(root))
    if any(not problem.key for problem in problems):
        return problems  # tags that cannot be read: there are no values to look at
    try:
        loader = yaml.SafeLoader("")
        document = loader.construct_document(root)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        return [*problems, _not_yaml(error)]
    entries = _entries(root, document)
    problems += _check_section(entries, JAVA_KEYS, "")
    problems += _check_torchrun(root, entries)
    problems += _check_together(entries)
    return sorted(problems, key=lambda problem: problem.line or 0)


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line
    return line + 1


def _not_yaml(error: Exception) -> ConfigProblem:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    reason = getattr(error, "problem", None) or str(error).split("\n")[0] or type(error).__name__
    line = mark.line + 1 if mark else None
    return ConfigProblem("error", "", line, f"the config file is not YAML that TorchServe can read: {reason}")


def _check_nodes(root: yaml.Node) -> Iterator[ConfigProblem]:
    """Look for tags and duplicate keys everywhere; each node once, for aliases may multiply without end."""
    todo: list[tuple[yaml.Node, str]] = [(root, "")]
    seen: set[int] = set()
    while todo:
        node, path = todo.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if node.tag not in _PLAIN_TAGS:
            message = f"the tag {node.tag!r} makes an object of a program; plain settings are needed"
            yield ConfigProblem("error", "", _line(node), message, "write plain values only")
        if isinstance(node, yaml.MappingNode):
            yield from _check_duplicates(node, path)
            todo += [(value, _join(path, key)) for key, value in node.value]
            todo += [(key, path) for key, _ in node.value]
        elif isinstance(node, yaml.SequenceNode):
            todo += [(item, path) for item in node.value]


def _join(path: str, key: yaml.Node) -> str:
    name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
    return f"{path}.{name}" if path else name


def _check_duplicates(node: yaml.MappingNode, path: str) -> Iterator[ConfigProblem]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _TAG + "merge":
            continue
        name = _join(path, key)
        if (first := lines.get(key.value)) is not None:
            message = f"{name} is set twice, first in line {first}; the last one wins"
            yield ConfigProblem("error", name, _line(key), message, "remove one of them")
        lines.setdefault(key.value, _line(key))
        if not path and key.tag != _TAG + "str":
            message = f"the key {key.value} is no text; Java fails on it"
            yield ConfigProblem("error", name, _line(key), message, f'write "{key.value}":')


def _entries(node: yaml.Node, document: Any) -> dict[str, _Entry]:
    """Map the text keys of a mapping to their values and lines."""
    if not isinstance(node, yaml.MappingNode) or not isinstance(document, dict):
        return {}
    lines = {key.value: _line(key) for key, _ in node.value if isinstance(key, yaml.ScalarNode)}
    return {key: _Entry(value, lines.get(key, _line(node))) for key, value in document.items() if isinstance(key, str)}


def _check_section(entries: dict[str, _Entry], schema: dict[str, str], prefix: str) -> Iterator[ConfigProblem]:
    for key, entry in entries.items():
        name = prefix + key
        kind = schema.get(key)
        if kind is None:
            if meant := _near_miss(key, schema):
                message = f"{name} is no setting of TorchServe, which will ignore it"
                yield ConfigProblem("warning", name, entry.line, message, f"did you mean {prefix}{meant}?")
        elif not _fits(kind, entry.value):
            message = f"{name}: expected {_WORDS[kind]}, got {_shown(entry.value)}; TorchServe would ignore it"
            yield ConfigProblem("error", name, entry.line, message, _type_hint(kind, entry.value))


def _near_miss(key: str, schema: dict[str, str]) -> str | None:
    folded = {_squeeze(name): name for name in schema}
    close = difflib.get_close_matches(_squeeze(key), folded, n=1, cutoff=0.88)
    return folded[close[0]] if close else None


def _squeeze(key: str) -> str:
    return key.lower().replace("_", "").replace("-", "")


def _fits(kind: str, value: Any) -> bool:
    if kind in ("count", "amount"):
        return _is_int(value) and value >= (1 if kind == "count" else 0)
    if kind in _CHOICES:
        return isinstance(value, str) and value.lower() in _CHOICES[kind]
    if kind == "ids":
        return isinstance(value, list) and all(map(_is_int, value))
    return isinstance(value, {"map": dict, "bool": bool, "text": str}[kind])


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT_MAX - 1 <= value <= _INT_MAX


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return reprlib.repr(value)


def _type_hint(kind: str, value: Any) -> str | None:
    if kind in ("count", "amount") and isinstance(value, str) and value.strip().isdigit():
        return f"write {value.strip()} without quotes"
    if kind == "bool" and isinstance(value, str) and value.lower() in ("true", "false"):
        return f"write {value.lower()} without quotes"
    return None


def _check_torchrun(root: yaml.MappingNode, entries: dict[str, _Entry]) -> Iterator[ConfigProblem]:
    entry = entries.get("torchrun")
    if entry is None or not isinstance(entry.value, dict):
        return
    node = next((value for key, value in root.value if key.value == "torchrun"), root)
    yield from _check_section(_entries(node, entry.value), TORCHRUN_KEYS, "torchrun.")


def _check_together(entries: dict[str, _Entry]) -> Iterator[ConfigProblem]:
    """Check settings that depend on each other; a value of a wrong type has been told already."""
    numbers = {key: entry.value for key, entry in entries.items() if _is_int(entry.value)}
    on = {key for key, entry in entries.items() if entry.value is True}

    def problem(severity: Severity, key: str, message: str, hint: str) -> ConfigProblem:
        return ConfigProblem(severity, key, entries[key].line, message, hint)

    if "asyncCommunication" in on:
        if numbers.get("batchSize", 0) > 1:
            message = "asyncCommunication loses requests when batchSize is more than 1"
            yield problem("error", "asyncCommunication", message, "set batchSize: 1")
        for other in sorted(on & {"continuousBatching", "sequenceBatching"}):
            message = f"asyncCommunication and {other} exclude each other"
            yield problem("error", "asyncCommunication", message, "remove one of them")
    if "sequenceBatching" in on and numbers.get("sequenceMaxIdleMSec", 0) < 1:
        message = "sequenceBatching needs sequenceMaxIdleMSec above 0, or its sequences never end"
        yield problem("error", "sequenceBatching", message, "add a line such as sequenceMaxIdleMSec: 60000")
    if numbers.get("maxBatchDelay") == 0:
        message = "maxBatchDelay: 0 means TorchServe's default of 100 ms, not no delay"
        yield problem("warning", "maxBatchDelay", message, "write maxBatchDelay: 1, the least that can be said")
    least, most = numbers.get("minWorkers"), numbers.get("maxWorkers")
    if least is not None and most is not None and most < least:
        message = f"maxWorkers is less than minWorkers ({most} < {least}): both are ignored"
        yield problem("error", "maxWorkers", message, f"set maxWorkers: {least} or more")
    for key, other in (("minWorkers", "maxWorkers"), ("maxWorkers", "minWorkers")):
        if key in entries and other not in entries:
            yield problem("warning", key, f"{key} has no effect without {other}", f"set {other} too")
