"""metrics.yaml: which metrics there are, of the frontend (``ts_metrics``) and of handlers (``model_metrics``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

from archive_tool import files
from archive_tool.config import safe_yaml
from archive_tool.errors import InputError
from serving.frontend.settings import Settings

#: What labels a model's metric by the machine, after the dimensions that the file names.
HOSTNAME: Final = "Hostname"


class Kind(Enum):
    """How values of a metric add up."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Specification:
    """A metric.

    Attributes:
        dimensions: names of its labels, by whose order values are given; the host is the last one.
    """

    name: str
    kind: Kind
    unit: str
    dimensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The metrics of a server.

    Attributes:
        frontend: of the frontend and of the machine, by name.
        models: of handlers, by name.
    """

    frontend: Mapping[str, Specification]
    models: Mapping[str, Specification]


def path_of(settings: Settings) -> Path:
    """Return the metrics.yaml of a server, which its workers are given, too."""
    named = settings.text("metrics_config")
    return Path(named) if named else settings.place.home / "ts" / "configs" / "metrics.yaml"


def read(path: Path) -> Catalogue:
    """Read a metrics.yaml.

    Raises:
        InputError: it cannot be read, or is none; the place in it is named. TorchServe would go on without metrics,
            and its workers end.
    """
    try:
        content = safe_yaml.construct(safe_yaml.compose(files.read_text(path)))
    except OSError as error:
        raise InputError(
            f"the metrics cannot be read: {error.strerror or error}", where=str(path), hint="correct metrics_config"
        ) from error
    except ValueError as error:
        line = getattr(error, "line", None)
        raise InputError(str(error), where=f"{path}:{line}" if line else str(path)) from error
    if not isinstance(content, dict):
        raise InputError("no metrics: it has no ts_metrics and no model_metrics", where=str(path))
    try:
        if content.get("model_metrics") is not None and not isinstance(content.get("dimensions"), list):
            raise ValueError("dimensions: a list of names must stand here, or no worker can read this file")
        frontend = {one.name: one for one in _metrics(content, "ts_metrics", ())}
        models = {one.name: one for one in _metrics(content, "model_metrics", (HOSTNAME,))}
    except ValueError as error:
        raise InputError(str(error), where=str(path)) from None
    return Catalogue(frontend, models)


def _metrics(content: Mapping[str, Any], group: str, last: tuple[str, ...]) -> Iterator[Specification]:
    kinds = content.get(group)
    if kinds is None:
        return
    if not isinstance(kinds, dict):
        raise ValueError(f"{group}: not a mapping of counter, gauge and histogram")
    for kind in Kind:
        listed = kinds.get(kind.value)
        if listed is not None and not isinstance(listed, list):
            raise ValueError(f"{group}.{kind.value}: not a list of metrics")
        for number, one in enumerate(listed or ()):
            yield _metric(one, kind, f"{group}.{kind.value}[{number}]", last)
    if unknown := set(map(str, kinds)) - {kind.value for kind in Kind}:
        raise ValueError(f"{group}.{min(unknown)}: none of counter, gauge, histogram")


def _metric(one: Any, kind: Kind, place: str, last: tuple[str, ...]) -> Specification:
    if not isinstance(one, dict):
        raise ValueError(f"{place}: not a metric with name, unit and dimensions")
    for key in ("name", "unit"):
        if not isinstance(one.get(key), str) or not one[key]:
            raise ValueError(f"{place}.{key}: no text")
    dimensions = one.get("dimensions")
    if not isinstance(dimensions, list) or not all(isinstance(name, str) and name for name in dimensions):
        raise ValueError(f"{place}.dimensions: not a list of names")
    return Specification(one["name"], kind, one["unit"], (*dimensions, *last))
