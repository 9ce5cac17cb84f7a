"""What config.properties says to this frontend, read once: typed, with TorchServe's defaults."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from archive_tool.errors import InputError
from serving.client.transport import Address
from serving.control.configuration.config import (
    HTTP_KEYS,
    RESPONSE_TIMEOUT_S,
    address_of,
    read_properties,
    token_authorization,
)
from serving.control.configuration.frontends import javas_own
from serving.control.configuration.java import worker_home
from serving.control.configuration.settings import is_true, share_of

#: Bytes of a request and of each field of an answer, unless the configuration says otherwise.
MAX_SIZE: Final = 6_553_500
# Settings have addresses, though nothing listens there.
_NOWHERE: Final = "http://127.0.0.1:8080"
SEQUENCE_ID: Final = "ts_request_sequence_id"
SEQUENCE_START: Final = "ts_request_sequence_start"
SEQUENCE_END: Final = "ts_request_sequence_end"


@dataclass(frozen=True)
class Place:
    """Where a server works.

    Attributes:
        model_store: folder of the archives.
        home: the ``model_server_home``: whose worker is started.
        runtime: for sockets and extracted archives; short, ours alone.
        logs: folder of the log files.
        keys: folder in which key_file.json is written.
    """

    model_store: Path
    home: Path
    runtime: Path
    logs: Path
    keys: Path


@dataclass(frozen=True)
class Settings:
    """The settings, by TorchServe's names.

    Attributes:
        place: where the server works.
        properties: as they stand in the file, for what is read elsewhere.
        token_authorization: whether requests need a key.
    """

    place: Place
    properties: Mapping[str, str]
    inference_address: Address
    management_address: Address
    metrics_address: Address
    token_authorization: bool
    enable_model_api: bool = False
    enable_metrics_api: bool = True
    job_queue_size: int = 100
    default_workers_per_model: int = 0
    default_response_timeout: int = RESPONSE_TIMEOUT_S
    default_startup_timeout: int = 120
    unregister_model_timeout: int = 120
    max_request_size: int = MAX_SIZE
    max_response_size: int = MAX_SIZE
    token_expiration_min: float = 60.0
    initial_worker_port: int = 9000
    initial_distribution_port: int = 29500
    number_of_gpu: int | None = None
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    install_py_dep_per_model: bool = False
    use_native_io: bool = True
    open_inference: bool = False
    console: bool = True
    sequence_id: str = SEQUENCE_ID
    sequence_start: str = SEQUENCE_START
    sequence_end: str = SEQUENCE_END

    def text(self, key: str) -> str | None:
        """Return a setting as it stands; None where it does not."""
        value = self.properties.get(key, "").strip()
        return value or None

    def on(self, key: str) -> bool:
        """Whether a flag is on; it is off where it is not there."""
        return is_true(self.properties, key)

    def number(self, key: str, default: int) -> int:
        """Return a setting's number."""
        return _number(self.properties, key, default)

    def share(self, key: str, default: float) -> float:
        """Return a setting's number from 0 to 1.

        Raises:
            InputError: it is none.
        """
        return share_of(self.properties, key, default)

    @property
    def python(self) -> str:
        """The interpreter of what collects the machine's metrics: the server's own, whatever PATH has first."""
        return self.text("python") or sys.executable

    @property
    def without_meaning(self) -> tuple[str, ...]:
        """Keys that this frontend has no use for."""
        return javas_own(self.properties)


def read(path: Path, place: Place, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the configuration that `torchmar start` has written.

    Raises:
        InputError: it cannot be read; the key is named.
    """
    return of(read_properties(path), place, environ)


def of(properties: Mapping[str, str], place: Place, environ: Mapping[str, str] = os.environ) -> Settings:
    """Understand a configuration.

    Raises:
        InputError: a value that is none; the key is named.
    """

    def flag(key: str, default: bool) -> bool:
        return is_true(properties, key) if key in properties else default

    open_inference = flag("ts_open_inference_protocol", False) or environ.get("TS_OPEN_INFERENCE_PROTOCOL") == "oip"
    return Settings(
        place=place,
        properties=dict(properties),
        inference_address=address_of(properties, "inference_address"),
        management_address=address_of(properties, "management_address"),
        metrics_address=address_of(properties, "metrics_address"),
        token_authorization=token_authorization(properties),
        enable_model_api=flag("enable_model_api", False),
        enable_metrics_api=flag("enable_metrics_api", True),
        job_queue_size=_number(properties, "job_queue_size", 100),
        default_workers_per_model=_number(properties, "default_workers_per_model", 0),
        default_response_timeout=_number(properties, "default_response_timeout", RESPONSE_TIMEOUT_S),
        default_startup_timeout=_number(properties, "default_startup_timeout", 120),
        unregister_model_timeout=_number(properties, "unregister_model_timeout", 120),
        max_request_size=_number(properties, "max_request_size", MAX_SIZE),
        max_response_size=_number(properties, "max_response_size", MAX_SIZE),
        token_expiration_min=_minutes(properties),
        initial_worker_port=_number(properties, "initial_worker_port", 9000),
        initial_distribution_port=_number(properties, "initial_distribution_port", 29500),
        number_of_gpu=_number(properties, "number_of_gpu", 0) if "number_of_gpu" in properties else None,
        limit_max_image_pixels=flag("limit_max_image_pixels", True),
        decode_input_request=flag("decode_input_request", True),
        install_py_dep_per_model=flag("install_py_dep_per_model", False),
        use_native_io=flag("use_native_io", True),
        open_inference=open_inference,
        console=flag("torchmar_console", True),
        sequence_id=properties.get("ts_header_key_sequence_id", SEQUENCE_ID),
        sequence_start=properties.get("ts_header_key_sequence_start", SEQUENCE_START),
        sequence_end=properties.get("ts_header_key_sequence_end", SEQUENCE_END),
    )


def nowhere(properties: Mapping[str, str], place: Place) -> Settings:
    """Make the settings of an engine that no address leads to, and no variable of the environment.

    Raises:
        InputError: one cannot be understood.
    """
    return of({**dict.fromkeys(HTTP_KEYS, _NOWHERE), **properties}, place, {})


def home_of(given: str | None) -> Path:
    """Return the ``model_server_home``; ours unless another one is named."""
    return Path(given) if given else worker_home()


def _number(properties: Mapping[str, str], key: str, default: int) -> int:
    text = properties.get(key, str(default)).strip()
    if not re.fullmatch(r"\+?[0-9]{1,19}", text):
        raise InputError(f"not a number: {key}={text}", hint=f"correct or remove {key}")
    return int(text)


def _minutes(properties: Mapping[str, str]) -> float:
    text = properties.get("token_expiration_min", "60")
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not 0 < minutes < 1e9:
        raise InputError(f"not a number of minutes: token_expiration_min={text}")
    return minutes
