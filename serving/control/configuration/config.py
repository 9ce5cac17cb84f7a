"""The effective configuration of a server: our defaults, the user's config.properties, the command line.

Keys and meanings are TorchServe's (its ConfigManager); the file format is Java's properties.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import javaproperties

from archive_tool import files
from archive_tool.errors import InputError
from archive_tool.metadata.names import check_model_name
from serving.client.transport import Address
from serving.control.configuration import settings
from serving.errors import ServingError

# The settings that hold an address or a port, in the order in which --port numbers them.
HTTP_KEYS = ("inference_address", "management_address", "metrics_address")
GRPC_KEYS = ("grpc_inference", "grpc_management")
_MOST_PORT = 65535
# Seconds that a worker may take for a batch, unless the configuration or the model says otherwise.
RESPONSE_TIMEOUT_S = 120


@dataclass(frozen=True)
class ModelSpec:
    """A model to load at the start.

    Attributes:
        name: what requests call it; empty for the archive's own name.
        archive: file (or folder) name inside the model store, or a URL.
    """

    name: str
    archive: str

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Parse ``name=archive`` or ``archive``.

        Raises:
            InputError: one side is empty, no model can have that name, or the frontend would cut the URL in two.
        """
        name, equals, archive = ("", "", text) if is_url(text) else text.partition("=")
        if equals and name.strip():
            check_model_name(name.strip())
        if not equals:
            name, archive = "", name + archive
        if not archive.strip() or (equals and not name.strip()):
            raise InputError(
                f"not a model: {text!r}", hint="write NAME=ARCHIVE, such as mnist=mnist.mar, or only ARCHIVE"
            )
        if is_url(archive) and ("," in archive or (not equals and "=" in archive)):
            raise InputError(
                f"TorchServe cannot load {archive} at the start: it cuts the URL at its commas and its first '='",
                hint="write NAME=URL, or register it once the server runs",
            )
        return cls(name.strip(), archive.strip())

    @staticmethod
    def stem(file: str) -> str:
        """Return the name that TorchServe gives the model of an archive whose manifest has none."""
        # The part before the first suffix, anything but word characters replaced.
        return re.sub(r"\W", "_", re.sub(r"(\.mar|\.model|\.tar\.gz)$", "", Path(file.rstrip("/")).name))

    def __str__(self) -> str:
        return f"{self.name}={self.archive}" if self.name else self.archive


def is_url(archive: str) -> bool:
    """Return whether an archive is named by a URL."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", archive) is not None


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
    """Read a properties file.

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
    """Return the settings that hold unless the user says otherwise."""
    text = resources.files("serving.control").joinpath("defaults.properties").read_text(encoding="utf-8")
    return dict(javaproperties.loads(text))


def effective(user: Mapping[str, str], *, port: int | None, workers: int | None) -> dict[str, str]:
    """Return the user's settings over the defaults, with the command line's over both.

    Args:
        user: the user's config.properties; empty without one.
        port: first of the five ports, None to leave them.
        workers: workers of a model that does not say how many it wants.

    Raises:
        InputError: a setting that the frontend cannot read; see `settings.checked`.
    """
    properties = settings.expanded(default_properties() | dict(user))
    # What we check and print must be what the frontend uses.
    properties |= settings.from_environment(properties)
    properties = settings.checked(properties, Path.cwd())
    if port is not None:
        properties |= port_settings(properties, range(port, port + 5))
    if workers is not None:
        properties["default_workers_per_model"] = str(workers)
    return properties


def address_of(properties: Mapping[str, str], key: str) -> Address:
    """Return the address that a setting holds.

    Raises:
        InputError: it is not an address.
    """
    try:
        return Address(properties[key].strip())
    except ServingError as error:
        raise InputError(f"{key}={properties[key]}: {error.message}", hint=error.hint) from None


def port_settings(properties: Mapping[str, str], ports: Iterable[int]) -> dict[str, str]:
    """Return the five port settings with new numbers, hosts kept."""
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
    """Return whether requests need a key."""
    return not settings.is_true(properties, "disable_token_authorization")


def response_timeout(properties: Mapping[str, str]) -> int:
    """Return the seconds that a worker may take for a batch of a model that does not say so itself.

    Raises:
        InputError: it is not a number; the frontend would fail at every registration.
    """
    text = properties.get("default_response_timeout", str(RESPONSE_TIMEOUT_S))
    if not text.isdecimal():
        raise InputError(f"not a number of seconds: default_response_timeout={text}")
    return int(text)


def listeners(properties: Mapping[str, str], *, grpc: bool = True) -> tuple[Listener, ...]:
    """Return the TCP ports that the server will open.

    Args:
        properties: with every address.
        grpc: whether it listens for gRPC.

    Raises:
        InputError: a port is not a number.
    """
    found = []
    for key in HTTP_KEYS:
        address = address_of(properties, key)
        if address.port is not None:
            found.append(Listener(key, address.host, address.port))
    for key in GRPC_KEYS if grpc else ():
        text = properties[f"{key}_port"]
        if not text.strip().isdigit() or int(text) > _MOST_PORT:
            raise InputError(f"not a port: {key}_port={text}")
        found.append(Listener(f"{key}_port", properties[f"{key}_address"], int(text)))
    # Metrics may share the management port, and so on: one check for each port.
    return tuple({(entry.host, entry.port): entry for entry in reversed(found)}.values())[::-1]


def listening_hosts(properties: Mapping[str, str]) -> list[str]:
    """Return the hosts of all listeners; a unix socket has none."""
    http = [address_of(properties, key) for key in HTTP_KEYS]
    return [address.host for address in http if address.socket_path is None] + [
        properties[f"{key}_address"] for key in GRPC_KEYS
    ]


def is_loopback(host: str) -> bool:
    """Return whether every address behind a host name is a loopback one."""
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
    """Write a properties file that Java reads back equal."""
    with path.open("w", encoding="utf-8") as file:
        javaproperties.dump(dict(sorted(properties.items())), file, timestamp=False)
