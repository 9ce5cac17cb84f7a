"""Why the frontend ended, or did not take a model, from its logs.

It prints a stack trace and goes on with other lines, so the last lines are rarely the reason. An exception's first line
and the last ``Caused by`` are; and the frame that reads the configuration tells which setting it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.control.following.forms import lines_of

# In the first two is what ended Java or the Python frontend, in ts_log.log what the frontend itself has noticed.
_LOGS: Final = ("java.log", "frontend.log", "ts_log.log")
_EXCEPTION: Final = re.compile(
    r'(?P<cause>Caused by: )?(?:Exception in thread "[^"]*" )?(?:[a-z_]\w*\.)+'
    r"(?P<text>[A-Z][\w$]*(?:Exception|Error|Failure)\b.*)"
)
# Of Java's frontend, and of ours.
_INVALID: Final = re.compile(r"(?P<text>Invalid configuration: .*)|The frontend cannot start: (?P<ours>.*)")
_FRAME: Final = re.compile(r"\tat (?:[\w.]+/)?org\.pytorch\.serve\.(?:\w+\.)*(?P<place>\w+(?:\$\w+)?\.[\w$<>]+)\(")
_NOT_TAKEN: Final = "Failed to load model: "
# What the Java runtime and the search for GPUs always say.
_NOISE: Final = re.compile(
    r"WARNING:|(nvidia|xpu)-smi not available|Picked up JAVA_TOOL_OPTIONS|\tat |\s*\.\.\. \d+ more"
)
_LINES: Final = 4
# Of a message, what can be a setting's value.
_QUOTED: Final = re.compile(r"\"([^\"]+)\"|'([^']+)'")
# Which settings the frontend reads where.
_READ_AT: Final = {
    "ConfigManager.getSslContext": ("keystore", "keystore_pass", "keystore_type"),
    "ConfigManager.loadPrivateKey": ("private_key_file",),
    "ConfigManager.loadCertificateChain": ("certificate_file",),
    "ConfigManager.setModelConfig": ("models",),
    "ConfigManager.getJsonIntValue": ("models",),
    "ConfigManager.validateConfigurations": ("blacklist_env_vars",),
    "MetricCache.init": ("metrics_config",),
    "Connector.parse": ("inference_address", "management_address", "metrics_address"),
    "ConfigManager.getGRPCAddress": ("grpc_inference_address", "grpc_management_address"),
}
# The same, where there is nothing but the message.
_SAID_OF: Final = {"Input byte array": ("private_key_file",), "Illegal base64 character": ("private_key_file",)}
_HINTS: Final = {
    "UnsupportedClassVersionError": "TorchServe needs Java 11 or newer: unset JAVA_HOME to use the one of torchmar",
    "Could not create the Java Virtual Machine": (
        "TorchServe needs Java 11 or newer: unset JAVA_HOME to use the one of torchmar; or vmargs has a wrong option"
    ),
    "No space left on device": "make room in the temporary folder (TMPDIR) and in the state folder",
    "keystore password was incorrect": "correct keystore_pass",
    "Java heap space": "give Java more memory: -Xmx4g in vmargs of config.properties",
}


@dataclass(frozen=True)
class Reason:
    """Why the frontend failed.

    Attributes:
        text: its own words, with the settings that they are about.
        hint: what usually helps; None if nothing is known.
    """

    text: str
    hint: str | None = None


def reason(log_folder: Path, properties: Mapping[str, str], model: str | None = None) -> Reason:
    """Return the reason that the logs hold, or else the last lines.

    Args:
        log_folder: of the server.
        properties: what it was started with.
        model: the archive that it did not take; None if the frontend has ended.
    """
    logs = [_read(log_folder / name) for name in _LOGS]
    lines = [line for log in logs for line in log]
    traces = [trace for log in reversed(logs) for trace in _traces(log)]
    if model is not None:
        told = f"{_NOT_TAKEN}{model}: "  # the Python frontend says why in the same line
        if ours := next((line.partition(told)[2] for line in reversed(lines) if told in line), ""):
            return Reason(ours)
        traces = [trace for trace in traces if trace.before.endswith(f"{_NOT_TAKEN}{model}")] or traces
    if traces:
        # The last one: what ended Java comes after everything that it survived.
        text = traces[-1].text + _settings(traces[-1], properties)
    else:
        last = [line for line in lines if line.strip() and not _NOISE.match(line)]
        text = " | ".join(last[-_LINES:]) or "it said nothing"
    return Reason(text, next((hint for sign, hint in _HINTS.items() if sign in text), None))


@dataclass(frozen=True)
class _Trace:
    """An exception of a log: the line before it, its own words, and the places of the frontend's code under it."""

    before: str
    text: str
    places: tuple[str, ...]


def _read(path: Path) -> list[str]:
    try:
        return lines_of(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return []


def _traces(lines: Sequence[str]) -> Iterator[_Trace]:
    index = 0
    while index < len(lines):
        head = _EXCEPTION.match(lines[index]) or _INVALID.match(lines[index])
        if head is None:
            index += 1
            continue
        said = head["text"] or head["ours"]
        before, causes, places = lines[index - 1] if index else "", [said], []
        index += 1
        while index < len(lines) and (_NOISE.match(lines[index]) or lines[index].startswith("Caused by: ")):
            if cause := _EXCEPTION.match(lines[index]):
                causes.append(cause["text"])
            if frame := _FRAME.match(lines[index]):
                places.append(frame["place"])
            index += 1
        root = causes[-1]
        text = causes[0] if root in causes[0] else f"{causes[0]} (caused by {root})"
        yield _Trace(before, text, tuple(places))


def _settings(trace: _Trace, properties: Mapping[str, str]) -> str:
    """Return the settings that a trace is about, in brackets: by the place, and by a value that the message quotes."""
    keys = [key for place in trace.places for key in _READ_AT.get(place, ())]
    keys += [key for sign, said_of in _SAID_OF.items() if sign in trace.text for key in said_of]
    quoted = {text for pair in _QUOTED.findall(trace.text) for text in pair if text}
    keys += [key for key, value in properties.items() if value in quoted]
    there = [key for key in dict.fromkeys(keys) if key in properties]
    shown = [key if key == "keystore_pass" else f"{key}={properties[key]}" for key in there]
    return f" ({', '.join(text if len(text) <= 100 else text[:97] + '...' for text in shown)})" if shown else ""
