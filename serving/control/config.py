"""The configuration that a server really runs with: our defaults, the user's config.properties, the command line.

Keys and meanings are TorchServe's (its ConfigManager); the file format is Java's properties.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import javaproperties

from archive_tool import files
from archive_tool.errors import InputError
from archive_tool.layout import check_model_name
from serving.client.transport import Address
from serving.errors import ServingError

# The settings that hold an address or a port, in the order in which --port numbers them.
HTTP_KEYS = ("inference_address", "management_address", "metrics_address")
GRPC_KEYS = ("grpc_inference", "grpc_management")
# What access.py decides on, so that no environment variable may decide otherwise later.
_DECIDED = ("enable_model_api", "disable_token_authorization", "workflow_store")
# Seconds that a worker may take for a batch, unless the configuration or the model says otherwise.
RESPONSE_TIMEOUT_S = 120
# The frontend puts an environment variable in its place.
_VARIABLE = re.compile(r"\$\$([^$]+)\$\$")


@dataclass(frozen=True)
class ModelSpec:
    """A model to load at the start.

    Attributes:
        name: what requests call it.
        archive: file (or folder) name inside the model store.
    """

    name: str
    archive: str

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Reads ``name=archive`` or ``archive``; then the name is the stem (TorchServe's ModelServer does the same).

        Raises:
            InputError: one side is empty, or no model can have that name.
        """
        name, equals, archive = text.partition("=")
        if equals and name.strip():
            check_model_name(name.strip())
        if not equals:
            archive = text
            # Java: the part before the first suffix, anything but word characters replaced.
            stem = re.sub(r"(\.mar|\.model|\.tar\.gz)$", "", Path(text.rstrip("/")).name)
            name = re.sub(r"\W", "_", stem)
        if not name or not archive:
            raise InputError(
                f"not a model: {text!r}", hint="write NAME=ARCHIVE, such as mnist=mnist.mar, or only ARCHIVE"
            )
        return cls(name.strip(), archive.strip())


@dataclass(frozen=True)
class Listener:
    """A TCP port that the server will open.

    Attributes:
        setting: the key of config.properties that names it.
    """

    setting: str
    host: str
    port: int


def read_properties(path: Path) -> dict[str, str]:
    """Reads a properties file.

    Raises:
        InputError: it does not exist, cannot be read, or is not a properties file.
    """
    try:
        return dict(javaproperties.loads(files.read_text(path)))
    except FileNotFoundError:
        raise InputError(f"no such configuration file: {path}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the configuration cannot be read: {reason}", where=str(path)) from error


def default_properties() -> dict[str, str]:
    """What holds unless the user says otherwise."""
    text = resources.files("serving.control").joinpath("defaults.properties").read_text(encoding="utf-8")
    return dict(javaproperties.loads(text))


def effective(user: Mapping[str, str], *, port: int | None, workers: int | None) -> dict[str, str]:
    """The user's settings over the defaults, with the command line's over both.

    Args:
        user: the user's config.properties; empty without one.
        port: first of the five ports, None to leave them.
        workers: workers of a model that does not say how many it wants.
    """
    properties = default_properties() | dict(user)
    if is_true(properties, "enable_envvars_config"):
        # Java lets TS_<KEY> override then; what we check and print must be what it uses.
        properties |= {
            name[3:].lower(): value
            for name, value in os.environ.items()
            if name.startswith("TS_") and name[3:].lower() in {*properties, *_DECIDED}
        }
    if port is not None:
        properties |= port_settings(properties, range(port, port + 5))
    if workers is not None:
        properties["default_workers_per_model"] = str(workers)
    return properties


def address_of(properties: Mapping[str, str], key: str) -> Address:
    """The address that a setting holds.

    Raises:
        InputError: it holds none.
    """
    try:
        return Address(properties[key].strip())
    except ServingError as error:
        raise InputError(f"{key}={properties[key]}: {error.message}", hint=error.hint) from None


def port_settings(properties: Mapping[str, str], ports: Iterable[int]) -> dict[str, str]:
    """The five port settings with new numbers, hosts kept."""
    numbers = iter(ports)
    changed = {}
    for key in HTTP_KEYS:
        address = address_of(properties, key)
        if address.port is not None:
            host = f"[{address.host}]" if ":" in address.host else address.host
            changed[key] = f"{address.text.split(':', 1)[0]}://{host}:{next(numbers)}"
    for key in GRPC_KEYS:
        changed[f"{key}_port"] = str(next(numbers))
    return changed


def token_authorization(properties: Mapping[str, str]) -> bool:
    """Whether requests need a key."""
    return not is_true(properties, "disable_token_authorization")


def is_true(properties: Mapping[str, str], key: str) -> bool:
    """Whether a setting is on; it is off where it is not there."""
    return properties.get(key, "").strip().lower() == "true"


def response_timeout(properties: Mapping[str, str]) -> int:
    """Seconds that a worker may take for a batch of a model that does not say so itself.

    Raises:
        InputError: not a number; the frontend would fail at every registration.
    """
    text = properties.get("default_response_timeout", str(RESPONSE_TIMEOUT_S))
    text = _VARIABLE.sub(lambda found: os.environ.get(found[1], found[0]), text)
    if not text.isdecimal():
        raise InputError(f"not a number of seconds: default_response_timeout={text}")
    return int(text)


def listeners(properties: Mapping[str, str]) -> tuple[Listener, ...]:
    """The TCP ports that the server will open.

    Raises:
        InputError: a port is not a number.
    """
    found = []
    for key in HTTP_KEYS:
        address = address_of(properties, key)
        if address.port is not None:
            found.append(Listener(key, address.host, address.port))
    for key in GRPC_KEYS:
        text = properties[f"{key}_port"]
        if not text.strip().isdigit():
            raise InputError(f"not a port: {key}_port={text}")
        found.append(Listener(f"{key}_port", properties[f"{key}_address"], int(text)))
    # Metrics may share the management port, and so on: one check for each port.
    return tuple({(entry.host, entry.port): entry for entry in reversed(found)}.values())[::-1]


def listening_hosts(properties: Mapping[str, str]) -> list[str]:
    """Hosts of all listeners; a unix socket has none."""
    http = [address_of(properties, key) for key in HTTP_KEYS]
    return [address.host for address in http if address.socket_path is None] + [
        properties[f"{key}_address"] for key in GRPC_KEYS
    ]


def is_loopback(host: str) -> bool:
    """Whether every address behind a host name is a loopback one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(text.split("%")[0]).is_loopback for text in found)


def write_properties(path: Path, properties: Mapping[str, str]) -> None:
    """Writes a properties file that Java reads back equal."""
    with path.open("w", encoding="utf-8") as file:
        javaproperties.dump(dict(sorted(properties.items())), file, timestamp=False)
