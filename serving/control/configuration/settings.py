"""The keys of config.properties: what each holds, and what is wrong with a file's.

TorchServe passes over a key that it does not know, takes a flag that it cannot read for false, and fails far from its
cause on a number or a path. The keys are those of its ConfigManager (0.12.0) and of its command ``torchserve``, and
ours, which begin with ``torchmar_``.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from archive_tool.config.entries import near_miss
from archive_tool.config.safe_yaml import MAX_BYTES, NotYamlError, compose, construct
from archive_tool.errors import InputError

# Ours, which Java's frontend passes over.
_OWN: Final = "torchmar_"
#: Whether requests are logged, what share of them, and the form of all logs.
ACCESS: Final = "torchmar_access_log"
ACCESS_SHARE: Final = "torchmar_access_log_share"
LOG_FORM: Final = "torchmar_log_format"
#: Key to kind. "count" is an integer from 1, "amount" one from 0, "long" one of 64 bits; "file" and "folder" are paths,
#: "plugins" is a folder of .jar files, "share" a number from 0 to 1.
KEYS: Final = {
    "allowed_urls": "text",
    "async_logging": "flag",
    "blacklist_env_vars": "text",
    "certificate_file": "file",
    "cors_allowed_headers": "text",
    "cors_allowed_methods": "text",
    "cors_allowed_origin": "text",
    "cpp_log_config": "file",
    "cpu_launcher_args": "text",
    "cpu_launcher_enable": "flag",
    "debug": "flag",
    "decode_input_request": "flag",
    "default_response_timeout": "amount",
    "default_service_handler": "text",
    "default_startup_timeout": "amount",
    "default_workers_per_model": "amount",
    "disable_system_metrics": "flag",
    "disable_token_authorization": "flag",
    "enable_envvars_config": "flag",
    "enable_grpc_ssl": "flag",
    "enable_metrics_api": "flag",
    "enable_model_api": "flag",
    "grpc_inference_address": "text",
    "grpc_inference_max_connection_age_grace_ms": "long",
    "grpc_inference_max_connection_age_ms": "long",
    "grpc_inference_port": "text",
    "grpc_management_address": "text",
    "grpc_management_max_connection_age_grace_ms": "long",
    "grpc_management_max_connection_age_ms": "long",
    "grpc_management_port": "text",
    "inference_address": "text",
    "initial_distribution_port": "amount",
    "initial_worker_port": "amount",
    "install_py_dep_per_model": "flag",
    "io_ratio": "count",
    "ipex_enable": "flag",
    "ipex_gpu_enable": "flag",
    "job_queue_size": "count",
    "keystore": "file",
    "keystore_pass": "text",
    "keystore_type": "text",
    "limit_max_image_pixels": "flag",
    "load_models": "text",
    "management_address": "text",
    "max_request_size": "count",
    "max_response_size": "count",
    "metric_time_interval": "count",
    "metrics_address": "text",
    "metrics_config": "file",
    "metrics_mode": "mode",
    "model_metrics_auto_detect": "flag",
    "model_server_home": "text",
    "model_snapshot": "text",
    "model_store": "text",
    "models": "text",
    "netty_client_threads": "amount",
    "number_of_gpu": "amount",
    "number_of_netty_threads": "amount",
    "plugins_path": "plugins",
    "prefer_direct_buffer": "flag",
    "private_key_file": "file",
    "python": "text",
    "service_envelope": "text",
    "system_metrics_cmd": "text",
    "token_expiration_min": "text",
    "torchmar_access_log": "flag",
    "torchmar_access_log_share": "share",
    "torchmar_capture_bytes": "count",
    "torchmar_capture_folder": "text",
    "torchmar_capture_megabytes": "count",
    "torchmar_capture_share": "share",
    "torchmar_capture_without": "text",
    "torchmar_console": "flag",
    "torchmar_drain_grace": "amount",
    "torchmar_drain_notice": "amount",
    "torchmar_frontend": "frontend",
    "torchmar_grpc": "flag",
    "torchmar_log_format": "form",
    "torchmar_ray_address": "text",
    "torchmar_ray_cpus": "text",
    "torchmar_ray_gpus": "text",
    "torchmar_ray_proxies": "text",
    "torchmar_ray_resend": "flag",
    "torchmar_ray_server": "text",
    "torchmar_ray_signature_key": "file",
    "tsConfigFile": "text",  # in the files of its snapshots
    "ts_header_key_sequence_end": "text",
    "ts_header_key_sequence_id": "text",
    "ts_header_key_sequence_start": "text",
    "ts_open_inference_protocol": "flag",
    "unregister_model_timeout": "amount",
    "use_env_allowed_urls": "flag",
    "use_native_io": "flag",
    "version": "text",
    "vmargs": "text",
    "workflow_store": "folder",
}
#: Keys of a model's version in ``models={...}`` that the frontend reads, and the kinds of their values.
MODEL_KEYS: Final = {
    "batchSize": "amount",
    "defaultVersion": "bool",
    "marName": "text",
    "maxBatchDelay": "amount",
    "maxWorkers": "amount",
    "minWorkers": "amount",
    "parallelLevel": "amount",
    "responseTimeout": "amount",
    "runtimeType": "text",
    "startupTimeout": "amount",
}
# What the frontend takes from no environment variable, although all others come from TS_<KEY>; ts_* have other names.
_NOT_FROM_ENVIRONMENT: Final = frozenset(
    {
        "enable_envvars_config",
        "io_ratio",
        "metric_time_interval",
        "model_snapshot",
        "models",
        "plugins_path",
        "python",
        "system_metrics_cmd",
        "token_expiration_min",
        "tsConfigFile",
        "use_env_allowed_urls",
        "use_native_io",
        "version",
        "vmargs",
    }
)
#: What ``torchmar_frontend`` may be.
FRONTENDS: Final = ("java", "python", "ray")
#: What ``torchmar_log_format`` may be.
LOG_FORMS: Final = ("text", "json")
_MODES: Final = ("log", "prometheus", "legacy")
_LIMITS: Final = {"count": (1, 2**31 - 1), "amount": (0, 2**31 - 1), "long": (0, 2**63 - 1)}
# The frontend puts an environment variable in its place.
_VARIABLE: Final = re.compile(r"\$\$([^$]+[^$])\$\$")
# A near name is worth a question; among eighty keys there is always one that is a little alike.
_ALIKE: Final = 0.75


def expanded(properties: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Expand ``$$NAME$$`` to the environment variable, as the frontend does.

    A keystore's password stays as it is: the frontend finds it in the environment, and no file of ours holds it.

    Raises:
        InputError: a variable is not set.
    """
    found = {}
    for key, value in properties.items():
        for name in _VARIABLE.findall(value):
            if key != "vmargs" and name not in environ:  # the command `torchserve` does not expand its own
                raise InputError(f"{key}={value}: the environment variable {name} is not set")
        keep = key in ("vmargs", "keystore_pass")
        found[key] = value if keep else _VARIABLE.sub(lambda match: environ[match[1]], value)
    return found


def is_true(properties: Mapping[str, str], key: str) -> bool:
    """Return whether a setting is on; a missing one is off."""
    return properties.get(key, "").strip().lower() == "true"


def share_of(properties: Mapping[str, str], key: str, default: float) -> float:
    """Return a setting that is a number from 0 to 1.

    Raises:
        InputError: it is none.
    """
    text = properties.get(key, str(default)).strip()
    # Plain digits: float() takes "1_0" and "nan", too.
    if not re.fullmatch(r"[0-9]{0,9}\.?[0-9]{1,18}|[01]\.", text) or not 0 <= float(text) <= 1:
        raise InputError(f"not a number from 0 to 1: {key}={text}", hint=f"correct or remove {key}")
    return float(text)


def from_environment(properties: Mapping[str, str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the settings that the frontend takes from ``TS_<KEY>`` when ``enable_envvars_config`` is true."""
    if not is_true(properties, "enable_envvars_config"):
        return {}
    allowed = is_true(properties, "use_env_allowed_urls")
    return {
        key: environ[name]
        for key in KEYS
        if (name := f"TS_{key.upper()}") in environ
        and key not in _NOT_FROM_ENVIRONMENT
        and not key.startswith(("ts_", _OWN))
        and (allowed or key != "allowed_urls")
    }


def checked(properties: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Return the settings with absolute paths, each of a kind that the frontend can read.

    Args:
        properties: expanded.
        folder: what relative paths are relative to: where the command is run, as with the command `torchserve`.

    Raises:
        InputError: a number cannot be read, or a path leads nowhere; the key is named.
    """
    found = dict(properties)
    for key, value in properties.items():
        kind = KEYS.get(key)
        if kind in _LIMITS:
            least, most = _LIMITS[kind]
            if not re.fullmatch(r"\+?[0-9]{1,19}", value) or not least <= int(value) <= most:
                raise InputError(
                    f"not an integer from {least} to {most}: {key}={value}", hint=f"correct or remove {key}"
                )
        elif kind == "share":
            share_of(properties, key, 0.0)
        elif kind == "form":
            found[key] = value.strip().lower()
            if found[key] not in LOG_FORMS:
                raise InputError(f"no such form of logs: {key}={value}", hint=f"write {' or '.join(LOG_FORMS)}")
        elif kind == "frontend":
            found[key] = frontend(value, f"{key}={value}")
        elif kind in ("file", "folder") and value != os.devnull:  # as a workflow store it is one that holds nothing
            found[key] = _path(key, value, kind, folder)
        elif kind == "plugins":
            found[key] = str(Path(_path(key, value.removesuffix("*") or ".", "folder", folder), "*"))
    models_of(found)
    return found


def frontend(name: str, told: str) -> str:
    """Read the name of a frontend.

    Args:
        name: as somebody has written it.
        told: where, for the message.

    Raises:
        InputError: there is none of that name.
    """
    if (found := name.strip().lower()) not in FRONTENDS:
        raise InputError(f"no such frontend: {told}", hint=f"write {' or '.join(FRONTENDS)}")
    return found


def _path(key: str, value: str, kind: str, folder: Path) -> str:
    path = folder / value
    if not (path.is_file() if kind == "file" else path.is_dir()):
        raise InputError(
            f"no such {kind}: {key}={value}",
            where=str(path),
            hint=f"correct {key}; a relative path begins in the folder in which the command is run",
        )
    if not os.access(path, os.R_OK):
        raise InputError(f"not yours to read: {key}={value}", where=str(path), hint="change its permissions")
    return str(path)


def models_of(properties: Mapping[str, str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what ``models={...}`` says, by name and version.

    Raises:
        InputError: the frontend could not read it, or it is contradictory.
    """
    text = properties.get("models", "").strip()
    if not text:
        return {}
    try:
        document = _json(text)
    except ValueError as error:
        raise InputError(f"models={_shown(text)} is not JSON: {error}", hint="correct or remove models") from error
    found = _objects(document, "models")
    for name, versions in found.items():
        for version, settings in _objects(versions, f"models: {name}").items():
            _check_model(f"models: {name} {version}", _object(settings, f"models: {name} {version}"))
    return found


def _json(text: str) -> Any:
    """Read JSON as the frontend does, also without quotation marks; so does YAML."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except ValueError as error:
        try:
            return construct(compose(text))
        except NotYamlError:
            raise error from None


def _objects(value: Any, where: str) -> dict[str, Any]:
    return {str(key): _object(inner, f"{where} {key}") for key, inner in _object(value, where).items()}


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"{where} is {_shown(value)}, and not an object",
            hint='write models={"mnist": {"1.0": {"minWorkers": 2, "maxWorkers": 4}}}',
        )
    return value


def _check_model(where: str, settings: Mapping[str, Any]) -> None:
    numbers = {}
    for key, value in settings.items():
        if MODEL_KEYS.get(key) == "amount":
            if isinstance(value, bool) or not re.fullmatch(r"-?[0-9]{1,9}", str(value)):
                raise InputError(f"{where}: {key} is {_shown(value)}, and not an integer")
            numbers[key] = int(value)
        elif MODEL_KEYS.get(key) == "bool" and not isinstance(value, bool):
            raise InputError(f"{where}: {key} is {_shown(value)}, and neither true nor false")
    least, most = numbers.get("minWorkers", 0), numbers.get("maxWorkers", 0)
    if 0 < most < least:  # the frontend reads a number below 1 as unset
        raise InputError(
            f"{where}: maxWorkers is less than minWorkers ({most} < {least})", hint=f"set maxWorkers to {least} or more"
        )


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def warnings(user: Mapping[str, str], origin: str) -> Iterator[str]:
    """Warn of what is probably a mistake in a configuration; the frontend would silently ignore it.

    Args:
        user: as `checked` takes it.
        origin: the file's name, for the messages.
    """
    for key, value in user.items():
        kind = KEYS.get(key)
        if kind is None:
            yield f"{origin}: {_unknown(key)}"
        elif kind == "flag" and value.strip().lower() not in ("true", "false"):
            yield f"{origin}: {key}={value} is neither true nor false, and TorchServe takes it for false"
        elif kind == "mode" and re.sub(r"\s", "", value).lower() not in _MODES:
            yield f"{origin}: {key}={value} is none of {', '.join(_MODES)}, and TorchServe takes it for log"
        elif key == "metrics_config" and (reason := _not_yaml(Path(value))):
            yield f"{origin}: {key}={value} is not YAML, and TorchServe will have no metrics of its own: {reason}"
    for name, versions in models_of(user).items():
        for version, settings in versions.items():
            for key in settings:
                if key not in MODEL_KEYS:
                    near = near_miss(key, MODEL_KEYS, _ALIKE)
                    meant = f"; did you mean {near}?" if near else ""
                    yield f"{origin}: models: {name} {version}: {key} is no setting of TorchServe's there{meant}"


def _not_yaml(path: Path) -> str:
    """Return why a file is not YAML; empty if it is."""
    try:
        with path.open("rb") as file:
            compose(file.read(MAX_BYTES))
    except NotYamlError as error:
        return error.reason
    return ""


def _unknown(key: str) -> str:
    text = f"{key} is no setting of TorchServe, which will ignore it"
    if model := near_miss(key, MODEL_KEYS):
        return f"{text}; {model} is one of a model: write it into its model-config.yaml, or into models={{...}}"
    near = near_miss(key, KEYS, _ALIKE)
    return f"{text}; did you mean {near}?" if near else text
