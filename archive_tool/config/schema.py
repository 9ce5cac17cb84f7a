"""The schema of model-config.yaml, as far as TorchServe's Java frontend or our own worker reads it.

Java logs a line and goes on when a value has a wrong type, so the setting silently has no effect; here that is an
error. The names and types are those of ModelConfig.java (TorchServe 0.12.0). The sections ``backend:`` and
``optimize:`` are ours alone: an unknown key in them is an error, too. So is ``default_answer:``, which our own frontend
reads. Other keys belong to the handler (``handler:``) and are not checked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import yaml

from archive_tool.config import backend_keys, default_answer, optimize
from archive_tool.config.entries import (
    ConfigProblem,
    Entry,
    Severity,
    entries_of,
    is_int,
    near_miss,
    own_section,
    section_of,
    shown,
    unknown_key,
)
from archive_tool.config.safe_yaml import MERGE, PLAIN_TAGS, TAG, NotYamlError, compose, construct, join, line_of, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def validate(text: bytes | str) -> list[ConfigProblem]:
    """Check a document; return an empty list if Java will take each setting as it is written."""
    try:
        root = compose(text)
    except NotYamlError as error:
        return [_not_yaml(error)]
    if root is None or (isinstance(root, yaml.ScalarNode) and root.tag == TAG + "null"):
        hint = "leave --config-file out, or write a setting such as minWorkers: 1"
        message = "the config file is empty: TorchServe fails to register the model and may not even start"
        return [ConfigProblem("error", "", None, message, hint)]
    if not isinstance(root, yaml.MappingNode):
        message = "the config file holds no mapping of settings"
        return [ConfigProblem("error", "", line_of(root), message, "write lines such as minWorkers: 1")]
    problems = list(_check_nodes(root))
    if any(not problem.key for problem in problems):
        return problems  # unreadable tags: there are no values to check
    try:
        document = construct(root)
    except NotYamlError as error:
        return [*problems, _not_yaml(error)]
    entries = entries_of(root, document)
    problems += _check_section(entries, JAVA_KEYS, "")
    problems += _check_torchrun(root, entries)
    problems += _check_together(entries)
    problems += _check_backend(root, entries)
    problems += optimize.check(root, entries)
    problems += default_answer.check(entries)
    return sorted(problems, key=lambda problem: problem.line or 0)


def _not_yaml(error: NotYamlError) -> ConfigProblem:
    message = f"the config file is not YAML that TorchServe can read: {error.reason}"
    return ConfigProblem("error", "", error.line, message)


def _check_nodes(root: yaml.Node) -> Iterator[ConfigProblem]:
    """Check for tags and duplicate keys everywhere."""
    for node, path in walk(root):
        if node.tag not in PLAIN_TAGS:
            message = f"the tag {node.tag!r} makes an object of a program; plain settings are needed"
            yield ConfigProblem("error", "", line_of(node), message, "write plain values only")
        if isinstance(node, yaml.MappingNode):
            yield from _check_duplicates(node, path)


def _check_duplicates(node: yaml.MappingNode, path: str) -> Iterator[ConfigProblem]:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        name = join(path, key)
        if (first := lines.get(key.value)) is not None:
            message = f"{name} is set twice, first in line {first}; the last one wins"
            yield ConfigProblem("error", name, line_of(key), message, "remove one of them")
        lines.setdefault(key.value, line_of(key))
        if not path and key.tag != TAG + "str":
            message = f"the key {key.value} is no text; Java fails on it"
            yield ConfigProblem("error", name, line_of(key), message, f'write "{key.value}":')


def _check_section(entries: dict[str, Entry], schema: dict[str, str], prefix: str) -> Iterator[ConfigProblem]:
    for key, entry in entries.items():
        name = prefix + key
        kind = schema.get(key)
        if kind is None:
            if meant := near_miss(key, schema):
                message = f"{name} is no setting of TorchServe, which will ignore it"
                yield ConfigProblem("warning", name, entry.line, message, f"did you mean {prefix}{meant}?")
        elif not _fits(kind, entry.value):
            message = f"{name}: expected {_WORDS[kind]}, got {shown(entry.value)}; TorchServe would ignore it"
            yield ConfigProblem("error", name, entry.line, message, _type_hint(kind, entry.value))


def _fits(kind: str, value: Any) -> bool:
    if kind in ("count", "amount"):
        return is_int(value) and value >= (1 if kind == "count" else 0)
    if kind in _CHOICES:
        return isinstance(value, str) and value.lower() in _CHOICES[kind]
    if kind == "ids":
        return isinstance(value, list) and all(map(is_int, value))
    return isinstance(value, {"map": dict, "bool": bool, "text": str}[kind])


def _type_hint(kind: str, value: Any) -> str | None:
    numeric = kind in ("count", "amount", "integer", "number")
    if numeric and isinstance(value, str) and value.strip().isdigit():
        return f"write {value.strip()} without quotes"
    if kind == "bool" and isinstance(value, str) and value.lower() in ("true", "false"):
        return f"write {value.lower()} without quotes"
    return None


def _check_torchrun(root: yaml.MappingNode, entries: dict[str, Entry]) -> Iterator[ConfigProblem]:
    if node := section_of(root, entries, "torchrun"):
        yield from _check_section(entries_of(node, entries["torchrun"].value), TORCHRUN_KEYS, "torchrun.")


def _check_backend(root: yaml.MappingNode, entries: dict[str, Entry]) -> Iterator[ConfigProblem]:
    """Check our own section by itself, and against the frontend's settings."""
    settings, problems = own_section(root, entries, "backend", "mode: shared")
    yield from problems
    for key, entry in settings.items():
        yield from _check_backend_key(key, entry)
    yield from _check_mode(settings, entries)


def _check_mode(settings: dict[str, Entry], entries: dict[str, Entry]) -> Iterator[ConfigProblem]:
    """Check what the mode of the backend rules out; an unknown mode has already been reported."""
    mode = settings.get("mode")
    if mode is None or mode.value == "dedicated":
        for key, row in backend_keys.KEYS.items():
            if row.shared_only and key in settings:
                name = f"backend.{key}"
                message = f"{name} has no effect without mode: shared"
                yield ConfigProblem("warning", name, settings[key].line, message, "write mode: shared, or remove it")
    elif mode.value == "shared":
        for other in _tied_to_a_worker(entries):
            message = f"backend.mode: shared and {other} exclude each other: {other} ties requests to one worker"
            hint = f"remove {other}, or write mode: dedicated"
            yield ConfigProblem("error", "backend.mode", mode.line, message, hint)


def _check_backend_key(key: str, entry: Entry) -> Iterator[ConfigProblem]:
    name = f"backend.{key}"
    row = backend_keys.KEYS.get(key)
    if row is None:
        yield unknown_key("backend", key, entry, backend_keys.KEYS)
    elif not row.fits(entry.value):
        message = f"{name}: expected {row.expected}, got {shown(entry.value)}"
        hint = _type_hint(row.kind, entry.value) or f"write {row.expected}"
        yield ConfigProblem("error", name, entry.line, message, hint)


def _tied_to_a_worker(entries: dict[str, Entry]) -> Iterator[str]:
    """Yield settings of Java that bind state to one worker's connection, while a shared process serves all of them."""
    for key in ("asyncCommunication", "continuousBatching", "sequenceBatching"):
        if key in entries and entries[key].value is True:
            yield key
    for key, kind in (("sequenceMaxIdleMSec", "count"), ("parallelType", "parallel"), ("torchrun", "map")):
        if key in entries and _fits(kind, entries[key].value):
            yield key


def _check_together(entries: dict[str, Entry]) -> Iterator[ConfigProblem]:
    """Check settings that depend on each other; a value of a wrong type has already been reported."""
    numbers = {key: entry.value for key, entry in entries.items() if is_int(entry.value)}
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
