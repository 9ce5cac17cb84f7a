"""The meaning of a model-config.yaml to TorchServe's frontend: the values in effect, what is ignored, what surprises.

The rules are those of ModelConfig.java, Model.java and ModelManager.java (TorchServe 0.12.0): a value of a wrong type
is ignored, one out of range is clamped, several keys have an effect only with another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from archive_tool.config import backend_keys, default_answer
from archive_tool.config.safe_yaml import NotYamlError, compose, construct
from archive_tool.config.schema import JAVA_KEYS, validate

#: Where the server decides: config.properties, its `models` entry, or the request that registers the model.
SERVER: Final = "server"
FILE: Final = "file"
DEFAULT: Final = "default"

_INT_MAX: Final = 2**31 - 1
_FLAGS: Final = ("useJobTicket", "continuousBatching", "sequenceBatching", "asyncCommunication", "useVenv")
_SEQUENCE: Final = {"sequenceTimeoutMSec": 0, "maxSequenceJobQueueSize": 1, "maxNumSequence": 1}


@dataclass(frozen=True)
class Setting:
    """A setting in effect.

    Attributes:
        key: as in model-config.yaml.
        value: in effect; None if nothing is set, or if the server decides.
        source: "file" if the file sets it, "default" if nothing does, "server" if the server's configuration decides.
    """

    key: str
    value: Any
    source: str


@dataclass(frozen=True)
class Ignored:
    """A key of the file that has no effect, and why."""

    key: str
    reason: str


@dataclass(frozen=True)
class Effective:
    """A model-config as the frontend and our worker understand it.

    Attributes:
        settings: in effect.
        ignored: settings of the file without effect.
        for_handler: keys that the frontend ignores and a handler may read.
        notes: differences from what a user might expect; each a sentence.
        document: the file's content; empty if it is not a mapping.
    """

    settings: tuple[Setting, ...]
    ignored: tuple[Ignored, ...] = ()
    for_handler: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    document: dict[str, Any] = field(default_factory=dict, hash=False)

    def value(self, key: str) -> Any:
        """Return the value in effect of a setting; None if there is none."""
        return next((setting.value for setting in self.settings if setting.key == key), None)


def understand(text: bytes | str | None) -> Effective:
    """Interpret a config file; None stands for an archive without one."""
    document: dict[str, Any] = {}
    notes: list[str] = []
    if text is not None:
        notes += [_problem_text(problem) for problem in validate(text)]
        document = _load(text)
    reader = _Reader(document, has_file=text is not None)
    settings = [*reader.frontend(), *reader.default_answer(), *reader.backend()]
    notes += reader.notes
    others = [key for key in document if key not in (*JAVA_KEYS, default_answer.KEY, "backend")]
    return Effective(tuple(settings), tuple(reader.ignored), tuple(others), tuple(dict.fromkeys(notes)), document)


def _problem_text(problem: Any) -> str:
    place = f"line {problem.line}: " if problem.line else ""
    return f"{place}{problem.message}" + (f" ({problem.hint})" if problem.hint else "")


def _load(text: bytes | str) -> dict[str, Any]:
    try:
        document = construct(compose(text))
    except NotYamlError:
        return {}  # validate has reported why
    if not isinstance(document, dict):
        return {}
    return {key: value for key, value in document.items() if isinstance(key, str)}


class _Reader:
    def __init__(self, document: dict[str, Any], *, has_file: bool) -> None:
        self.ignored: list[Ignored] = []
        self.notes: list[str] = []
        self._document = document
        self._has_file = has_file

    def frontend(self) -> list[Setting]:
        """Return the settings of the Java side, in the order in which they are shown."""
        return [
            *self._workers(),
            *self._batching(),
            *self._timeouts(),
            *self._devices(),
            self._number("maxRetryTimeoutInSec", 300, least=0),
            self._number("clientTimeoutInMills", 0, least=0),
            self._positive("jobQueueSize"),
            *(self._flag(key) for key in _FLAGS),
            *self._sequences(),
        ]

    def default_answer(self) -> list[Setting]:
        """Return the setting of torchmar's own frontend."""
        key = default_answer.KEY
        if key not in self._document:
            return []
        if default_answer.read(self._document) is None:
            self.ignored.append(Ignored(key, "it is neither the name of a file nor {file: ..., content_type: ...}"))
            return []
        for other in default_answer.WITHOUT:
            if self._document.get(other) is True:
                self.ignored.append(Ignored(key, f"it has no effect with {other}"))
                return []
        return [Setting(key, self._document[key], FILE)]

    def backend(self) -> list[Setting]:
        """Return the settings of our own worker."""
        section = self._document.get("backend")
        section = section if isinstance(section, dict) else {}
        shared = section.get("mode") == "shared"
        found = []
        for key, row in backend_keys.KEYS.items():
            name = f"backend.{key}"
            if row.shared_only and not shared:
                if key in section:
                    self.ignored.append(Ignored(name, "it has no effect without mode: shared"))
                continue
            source = FILE if key in section else DEFAULT
            found.append(Setting(name, section.get(key, row.default), source))
        return found

    # ---- groups ----------------------------------------------------------------------------------------------------

    def _workers(self) -> list[Setting]:
        least, most = self._integer("minWorkers"), self._integer("maxWorkers")
        if least is not None:
            least = max(1, least)
        if least is not None and most is not None and most >= least:
            return [Setting("minWorkers", least, FILE), Setting("maxWorkers", most, FILE)]
        for key, value in (("minWorkers", least), ("maxWorkers", most)):
            if value is not None:
                self.ignored.append(Ignored(key, "both must be there, with maxWorkers not less than minWorkers"))
        return [Setting("minWorkers", None, SERVER), Setting("maxWorkers", None, SERVER)]

    def _batching(self) -> list[Setting]:
        size, delay = self._integer("batchSize"), self._integer("maxBatchDelay")
        if delay == 0:
            self.ignored.append(Ignored("maxBatchDelay", "0 means the default of 100 ms"))
        elif delay is not None and delay < 0:
            self.ignored.append(Ignored("maxBatchDelay", "it is negative"))
        if delay and delay > 0:
            self.notes.append(
                "a registration with a JSON body that has no max_batch_delay switches the delay off, whatever this "
                "file says"
            )
        return [
            Setting("batchSize", max(1, size), FILE) if size is not None else Setting("batchSize", 1, DEFAULT),
            Setting("maxBatchDelay", delay, FILE)
            if delay is not None and delay > 0
            else Setting("maxBatchDelay", 100, DEFAULT),
        ]

    def _timeouts(self) -> list[Setting]:
        found = []
        for key in ("responseTimeout", "startupTimeout"):
            value = self._integer(key)
            if value is not None and value > 0:
                found.append(Setting(key, value, FILE))
            elif self._has_file:
                if value is not None:
                    self.ignored.append(Ignored(key, "it is not above 0"))
                found.append(Setting(key, 120, DEFAULT))
                option = "default_response_timeout" if key == "responseTimeout" else "default_startup_timeout"
                self.notes.append(
                    f"{key} is 120 s, and not the server's {option} nor what a registration asks for: a model "
                    "with a config file has its own"
                )
            else:
                found.append(Setting(key, None, SERVER))
        return found

    def _devices(self) -> list[Setting]:
        kind = self._choice("deviceType", ("cpu", "gpu"))
        parallel = self._choice("parallelType", ("pp", "tp", "pptp", "custom"))
        ids = self._document.get("deviceIds")
        if "deviceIds" in self._document and not (isinstance(ids, list) and all(map(_is_integer, ids))):
            self.ignored.append(Ignored("deviceIds", "it is no list of integers"))
            ids = None
        elif ids == []:
            self.ignored.append(Ignored("deviceIds", "it is empty"))
        level = self._level()
        if parallel is None and "parallelLevel" in self._document:
            self.ignored.append(Ignored("parallelLevel", "it has no effect without parallelType"))
        if kind == "gpu":
            self.notes.append("deviceType: gpu means cpu on a server that finds no GPU")
        if ids:
            self.notes.append("deviceIds are ignored as a whole if the server has no GPU of one of these numbers")
        found = [Setting("deviceType", kind, FILE if kind else SERVER), Setting("deviceIds", ids or None, FILE)]
        if parallel:
            found += [Setting("parallelType", parallel, FILE), Setting("parallelLevel", level or 0, FILE)]
        return [setting for setting in found if setting.value is not None or setting.source == SERVER]

    def _level(self) -> int:
        """Return the parallel level. ``torchrun`` sets it, too: of the two, the later one in the file counts."""
        level = 0
        for key in self._document:
            if key == "parallelLevel":
                value = self._integer(key)
                level = value if value is not None and value >= 0 else level
            elif key == "torchrun":
                torchrun = self._document[key]
                if not isinstance(torchrun, dict):
                    self.ignored.append(Ignored(key, "it is no mapping"))
                    continue
                processes: Any = torchrun.get("nproc-per-node")
                level = int(processes) if _is_integer(processes) and processes > 0 else 1
        if "torchrun" in self._document and "parallelLevel" in self._document:
            self.notes.append("torchrun and parallelLevel both set the number of processes: the later line counts")
        return level

    def _sequences(self) -> list[Setting]:
        idle = self._number("sequenceMaxIdleMSec", 0, least=0)
        if idle.value:
            return [idle, *(self._number(key, default, least=default) for key, default in _SEQUENCE.items())]
        self.ignored += [
            Ignored(key, "it has no effect without sequenceMaxIdleMSec") for key in _SEQUENCE if key in self._document
        ]
        return [idle]

    # ---- values ----------------------------------------------------------------------------------------------------

    def _integer(self, key: str) -> int | None:
        """Return an integer of the file; anything else is ignored."""
        if key not in self._document:
            return None
        value = self._document[key]
        if _is_integer(value):
            return int(value)
        self.ignored.append(Ignored(key, "it is no integer"))
        return None

    def _number(self, key: str, default: int, *, least: int) -> Setting:
        value = self._integer(key)
        return Setting(key, default, DEFAULT) if value is None else Setting(key, max(least, value), FILE)

    def _positive(self, key: str) -> Setting:
        value = self._integer(key)
        if value is not None and value > 0:
            return Setting(key, value, FILE)
        if value is not None:
            self.ignored.append(Ignored(key, "it is not above 0"))
        return Setting(key, None, SERVER)

    def _flag(self, key: str) -> Setting:
        value = self._document.get(key)
        if isinstance(value, bool):
            return Setting(key, value, FILE)
        if key in self._document:
            self.ignored.append(Ignored(key, "it is neither true nor false"))
        return Setting(key, False, DEFAULT)

    def _choice(self, key: str, choices: tuple[str, ...]) -> str | None:
        if key not in self._document:
            return None
        value = self._document[key]
        if isinstance(value, str) and value.lower() in choices:
            return value.lower()
        self.ignored.append(Ignored(key, f"it is none of {', '.join(choices)}"))
        return None


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT_MAX - 1 <= value <= _INT_MAX


def plain(value: Any) -> Any:
    """Convert a YAML value to JSON: dates and the like become text, and nothing refers to itself.

    A config may repeat one part by reference a million times, so only a few levels are shown.
    """
    return _plain(value, 2)


def _plain(value: Any, levels: int) -> Any:
    if value is None or isinstance(value, (bool, int)):
        # Python does not print an integer of thousands of digits.
        return value if value is None or abs(value) < 1 << 64 else "a number out of all bounds"
    if isinstance(value, str):
        return value if len(value) <= 1000 else f"{value[:1000]}..."
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if levels and isinstance(value, dict):
        return {str(_plain(key, 0)): _plain(item, levels - 1) for key, item in list(value.items())[:50]}
    if levels and isinstance(value, (list, tuple, set)):
        return [_plain(item, levels - 1) for item in list(value)[:50]]
    return f"a {type(value).__name__}" if isinstance(value, (dict, list, tuple, set, bytes)) else str(value)
