"""The sockets that a server listens on, and their TLS: taken before a worker is started, opened when all is ready."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import ssl
import stat
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from archive_tool.errors import InputError
from serving.client.transport import Address
from serving.control.configuration import frontends
from serving.errors import PortInUseError, ServingError, StartError
from serving.frontend.apps.keys import Kind
from serving.frontend.settings import Settings

#: Connections that the system may hold for us; what is beyond them waits at the client.
BACKLOG = 2048
_SO_ATTACH_FILTER = 26  # of Linux


@dataclass
class Place:
    """An address that is taken.

    Attributes:
        address: as the configuration has it.
        key: of the configuration, for messages.
        sock: bound, not yet listening.
        tls: of an address that begins with https.
    """

    address: Address
    key: str
    sock: socket.socket
    tls: ssl.SSLContext | None = None
    _inode: tuple[int, int] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if path := self.address.socket_path:
            found = os.stat(path)  # noqa: PTH116
            self._inode = found.st_dev, found.st_ino

    def turn_away(self) -> None:
        """Let nobody else connect; who has connected, or is just shaking hands, is still to be accepted.

        The kernel resets those who wait in a listening socket's queue when that is closed, and a client takes that for
        a request that was cut. So those who come now find no file, or get no answer until the socket is closed; then
        they are refused. Where the system cannot do so some may be reset.
        """
        if self.address.socket_path is not None:
            self._remove_file()
        elif sys.platform == "linux":
            with contextlib.suppress(OSError):
                _drop_first_packets(self.sock)

    def close(self) -> None:
        """Close the socket; its file goes, unless it is another's by now."""
        self.sock.close()
        self._remove_file()

    def _remove_file(self) -> None:
        if path := self.address.socket_path:
            with contextlib.suppress(OSError):
                found = os.stat(path)  # noqa: PTH116
                if (found.st_dev, found.st_ino) == self._inode:
                    Path(path).unlink()


def _drop_first_packets(sock: socket.socket) -> None:
    """Give a listening socket a filter (BPF) that drops packets with SYN and without ACK, and nothing else."""
    load, mask, compare, answer = 0x30, 0x54, 0x15, 0x06  # of a byte; and; jump if equal; return
    syn, ack, flags_at = 0x02, 0x10, 13  # of a TCP header
    program = ((load, 0, 0, flags_at), (mask, 0, 0, syn | ack), (compare, 0, 1, syn), (answer, 0, 0, 0))
    code = b"".join(struct.pack("HBBI", *step) for step in (*program, (answer, 0, 0, 0xFFFFFFFF)))
    buffer = ctypes.create_string_buffer(code)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program) + 1, ctypes.addressof(buffer)))


@contextlib.contextmanager
def taken(settings: Settings, addresses: dict[str, Address]) -> Iterator[dict[str, Place]]:
    """Take addresses, all or none; each once, however many name it.

    Args:
        settings: say how TLS is done.
        addresses: by the keys of the configuration that name them.

    Yields:
        The places, by the keys.

    Raises:
        InputError, StartError, PortInUseError: one cannot be had; the key is named.
    """
    tls = context(settings) if any(address.encrypted for address in addresses.values()) else None
    with contextlib.ExitStack() as stack:
        places: dict[str, Place] = {}
        found: dict[str, Place] = {}
        for key, address in addresses.items():
            name = _same(address)
            if name not in found:
                secured = tls if address.encrypted else None
                found[name] = Place(address, key, bind(address, key), secured)
                stack.callback(found[name].close)
            places[key] = found[name]
        yield places


def grpc_addresses(settings: Settings) -> dict[Kind, Address]:
    """Where each API is over gRPC: those that the configuration names, where it is served.

    Raises:
        InputError: gRPC is demanded, and not installed; or an address is none.
    """
    named = _grpc_named(settings)
    if not named or not frontends.serves_grpc(settings.properties):
        return {}
    scheme = "https" if settings.on("enable_grpc_ssl") else "http"
    found: dict[Kind, Address] = {}
    for api, usual in named.items():
        host = settings.text(f"grpc_{api}_address") or "127.0.0.1"
        port = settings.number(f"grpc_{api}_port", usual)
        found[api] = Address(f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}")
    return found


def lacks_grpc(settings: Settings) -> bool:
    """Return whether the configuration names gRPC's addresses in vain: what it takes is not installed."""
    properties = settings.properties
    wanted = _grpc_named(settings) and not frontends.grpc_is_off(properties)
    return bool(wanted) and not frontends.serves_grpc(properties)


def _grpc_named(settings: Settings) -> dict[Kind, int]:
    usual: dict[Kind, int] = {"inference": 7070, "management": 7071}
    keys = settings.properties.keys()
    return {api: port for api, port in usual.items() if keys & {f"grpc_{api}_address", f"grpc_{api}_port"}}


def _same(address: Address) -> str:
    """Return what two addresses have in common that are one place."""
    return address.text if address.socket_path else f"{address.host.lower()}:{address.port}"


def bind(address: Address, key: str) -> socket.socket:
    """Bind a socket that nobody can connect to yet.

    Raises:
        PortInUseError: somebody listens there.
        StartError: it cannot be bound for another reason.
    """
    try:
        if address.socket_path is not None:
            return _bind_file(Path(address.socket_path))
        return _bind_port(address)
    except OSError as error:
        raise refusal(error, address, key) from error


def refusal(error: OSError, address: Address, key: str) -> ServingError:
    """Make the error for an address that the system refuses.

    Two servers may have bound one port; the first that listens there has it, and the second is told only then.
    """
    where = f"{key}={address.text}"
    if error.errno == errno.EADDRINUSE:
        return PortInUseError(f"somebody listens there already: {where}", hint="stop it, or change the port")
    return StartError(f"cannot listen: {where}: {error.strerror or error}", hint=f"correct {key}")


def _bind_port(address: Address) -> socket.socket:
    family, kind, number, _, place = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, number)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
    except BaseException:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _bind_file(path: Path) -> socket.socket:
    """Bind a unix socket that its owner alone can connect to, in a folder that is theirs if it has to be made."""
    for folder in reversed([parent for parent in path.parents if not parent.exists()]):
        folder.mkdir(mode=0o700)
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # not afterwards: nobody must find it open meanwhile
    try:
        sock.bind(str(path))
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    sock.setblocking(False)
    return sock


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that has ended without doing so.

    Raises:
        OSError: it is something else, or somebody listens there.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "there is a file that is no socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except TimeoutError:
            pass  # somebody is there, and busy
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def context(settings: Settings) -> ssl.SSLContext:
    """TLS by the PEM files of the configuration.

    Raises:
        InputError: there are none, or they cannot be used.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    load_certificate(made, settings)
    return made


def load_certificate(into: ssl.SSLContext, settings: Settings) -> None:
    """Read certificate and key, anew if the context has some.

    Raises:
        InputError: there are none, or they cannot be used; the context is as it was.
    """
    certificate, key = settings.text("certificate_file"), settings.text("private_key_file")
    if certificate is None or key is None:
        keystore = settings.text("keystore")
        found = f"keystore={keystore}: the Python frontend reads no Java keystore" if keystore else "https needs a key"
        raise InputError(
            f"{found}, and certificate_file and private_key_file are not both set",
            hint="write certificate_file and private_key_file, both PEM; openssl pkcs12 -in FILE.p12 takes them out of "
            "a keystore that keytool -importkeystore -deststoretype pkcs12 has copied",
        )
    told = f"certificate_file={certificate}, private_key_file={key}"

    def refuse_password() -> str:
        raise InputError(f"the private key is encrypted: {told}", hint="decrypt it: openssl pkey -in FILE -out PLAIN")

    try:
        # Tried first: of a pair that does not fit the context would keep one half.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, refuse_password)
        into.load_cert_chain(certificate, key, refuse_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise InputError(
            f"the certificate or its key cannot be used: {told}: {reason}", hint="both must be PEM"
        ) from error
