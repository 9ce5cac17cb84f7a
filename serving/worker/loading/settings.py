"""The worker's part of model-config.yaml: the section ``backend:``, and the settings of Java's that bind it too."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from serving.worker.loading import package_paths
from serving.worker.loading.failures import ConfigError

package_paths.provide("archive_tool", always=True)

from archive_tool.config.backend_keys import KEYS  # noqa: E402 - by its place, wherever the worker runs

DEFAULT_RESPONSE_TIMEOUT_S = 120.0
DEFAULT_STARTUP_TIMEOUT_S = 120.0
RESPONSE_TIMEOUT_VARIABLE = "TORCHMAR_RESPONSE_TIMEOUT"


@dataclass(frozen=True)
class Backend:
    """Settings of the worker.

    Attributes:
        shared: one process serves all workers of the model.
        max_batch_size: maximum number of requests that a shared process runs at once.
        max_batch_delay_s: how long a shared process waits for a batch to fill, in seconds.
        processes: shared processes of the model on a device.
        threads: intra-op threads of a process; None for its share of the cores.
        isolate_errors: run the requests of a failed batch again one by one.
        pipeline: whether a shared process prepares the next batch while the model runs this one; None where the
            handler is known to allow it.
        warm_up: run the archive's samples before the worker reports that it is ready.
        response_timeout_s: after which the frontend gives up on a worker.
        startup_timeout_s: the same while it loads the model.
        stateful: what the frontend sends depends on what was answered before (sequences, continuous batching).
        continuous: continuous batching: every message has all the requests that are not finished.
    """

    shared: bool = False
    max_batch_size: int = KEYS["max_batch_size"].default
    max_batch_delay_s: float = KEYS["max_batch_delay_ms"].default / 1000
    processes: int = KEYS["processes"].default
    threads: int | None = None
    isolate_errors: bool = KEYS["isolate_errors"].default
    pipeline: bool | None = None
    warm_up: bool = KEYS["warm_up"].default
    response_timeout_s: float = DEFAULT_RESPONSE_TIMEOUT_S
    startup_timeout_s: float = DEFAULT_STARTUP_TIMEOUT_S
    stateful: bool = False
    continuous: bool = False


def read_manifest(model_dir: Path) -> dict[str, Any] | None:
    """Read the archive's manifest; None without one: functions of workflows have none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = model_dir / "MAR-INF" / "MANIFEST.json"
    # They bound what reading costs: the archive may be untrusted, and the process that forks all workers reads it, too.
    package_paths.provide("archive_tool", always=True)
    from archive_tool import files, json_text

    try:
        manifest = json_text.loads(files.read_regular(path, json_text.MAX_BYTES))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the manifest cannot be read: {_reason(error)}", where="MAR-INF/MANIFEST.json") from error
    if not isinstance(manifest, dict):
        raise ConfigError("the manifest is no JSON object", where="MAR-INF/MANIFEST.json")
    return manifest


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)


def config_file(manifest: Mapping[str, Any] | None) -> str | None:
    """Return the name of the model's model-config.yaml, if it has one."""
    model = (manifest or {}).get("model")
    name = model.get("configFile") if isinstance(model, dict) else None
    return name if isinstance(name, str) and name else None


def read_config(model_dir: Path, manifest: Mapping[str, Any] | None) -> tuple[dict[str, Any], Backend]:
    """Read the model's own configuration, and what it means for the worker.

    Raises:
        ConfigError: it cannot be read, or its section ``backend`` is wrong.
    """
    name = config_file(manifest)
    if name is None:
        return {}, Backend(response_timeout_s=_default_timeout())
    package_paths.provide("archive_tool", always=True)
    from archive_tool import files
    from archive_tool.config import safe_yaml

    try:
        text = files.read_regular(model_dir / name, safe_yaml.MAX_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"the configuration cannot be read: {_reason(error)}", where=name) from error
    try:
        config = safe_yaml.construct(safe_yaml.compose(text))
    except safe_yaml.NotYamlError as error:
        where = f"{name}:{error.line}" if error.line else name
        raise ConfigError(f"the configuration is {error}", where=where) from error
    if config is None:
        config = {}
    if not isinstance(config, dict):
        raise ConfigError("the configuration holds no mapping of settings", where=name)
    if "backend" in config:
        _check(text, name)
    return config, backend_of(config)


def _check(text: str, name: str) -> None:
    """Apply the rules of the archive tool: the archive may have been built by another one."""
    with package_paths.ours("handlers"):  # some of the rules are the SDK's
        from archive_tool.config.schema import validate

    for problem in validate(text):
        if problem.severity == "error" and problem.key.partition(".")[0] == "backend":
            where = f"{name}:{problem.line}" if problem.line else name
            raise ConfigError(problem.message, where=where, hint=problem.hint or "")


def backend_of(config: Mapping[str, Any]) -> Backend:
    """Return the settings of a configuration that has been checked."""
    section = config.get("backend")
    section = section if isinstance(section, dict) else {}
    chosen = {name: section.get(name, key.default) for name, key in KEYS.items()}
    threads, pipeline = chosen["threads"], chosen["pipeline"]
    continuous = config.get("continuousBatching") is True
    return Backend(
        shared=chosen["mode"] == "shared",
        max_batch_size=int(chosen["max_batch_size"]),
        max_batch_delay_s=float(chosen["max_batch_delay_ms"]) / 1000,
        processes=int(chosen["processes"]),
        threads=None if isinstance(threads, str) else int(threads),
        isolate_errors=bool(chosen["isolate_errors"]),
        pipeline=pipeline if isinstance(pipeline, bool) else None,
        warm_up=bool(chosen["warm_up"]),
        # With a configuration, Java's own default holds where one is not set, whatever config.properties says.
        response_timeout_s=_seconds(config.get("responseTimeout"), DEFAULT_RESPONSE_TIMEOUT_S),
        startup_timeout_s=_seconds(config.get("startupTimeout"), DEFAULT_STARTUP_TIMEOUT_S),
        stateful=continuous or config.get("sequenceBatching") is True or _positive(config.get("sequenceMaxIdleMSec")),
        continuous=continuous,
    )


def peek(model_path: str) -> Backend | None:
    """Read the settings of a model without loading it; None if they cannot be read: loading it will say why."""
    try:
        folder = Path(model_path)
        return read_config(folder, read_manifest(folder))[1]
    except (ConfigError, ImportError):
        return None


def _default_timeout() -> float:
    try:
        return max(1.0, float(os.environ.get(RESPONSE_TIMEOUT_VARIABLE, "")))
    except ValueError:
        return DEFAULT_RESPONSE_TIMEOUT_S


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive(value: Any) -> bool:
    return _is_int(value) and value > 0


def _seconds(value: Any, default: float) -> float:
    return float(value) if _is_int(value) and value > 0 else default
