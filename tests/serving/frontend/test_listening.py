"""Sockets and certificates: taken whole, refused with the key's name."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest

from archive_tool.errors import InputError
from serving.client.transport import Address
from serving.control.configuration import frontends
from serving.errors import PortInUseError, StartError
from serving.frontend import listening
from serving.frontend.guard import Patience
from serving.frontend.listening import bind, context, load_certificate, taken
from serving.frontend.server import Listener

from .listening_app import free_port, reached, settings
from .played import PlayedEngine, played_app


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder whose path is short enough for a socket."""
    folder = Path(f"/tmp/tmedge-{os.getpid()}-{free_port()}")
    folder.mkdir(mode=0o755)
    yield folder  # type: ignore[misc]
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def unix(path: Path) -> Address:
    return Address(f"unix:{path}")


def test_an_address_is_taken_once_and_given_back(tmp_path: Path) -> None:
    one, other = (Address(f"http://127.0.0.1:{free_port()}") for _ in range(2))
    with taken(settings(tmp_path), {"inference_address": one, "management_address": one, "x": other}) as places:
        assert places["inference_address"] is places["management_address"]
        assert places["x"] is not places["inference_address"]
        with pytest.raises(ConnectionRefusedError):  # nobody gets in before all is ready
            socket.create_connection((one.host, one.port or 0))
    bind(one, "x").close()


def test_all_or_none_are_taken(tmp_path: Path) -> None:
    free = Address(f"http://127.0.0.1:{free_port()}")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        address = Address(f"http://127.0.0.1:{busy.getsockname()[1]}")
        addresses = {"inference_address": free, "management_address": address}
        with (
            pytest.raises(PortInUseError, match=f"management_address={address.text}"),
            taken(settings(tmp_path), addresses),
        ):
            raise AssertionError("it was taken")
    bind(free, "x").close()


def test_a_host_that_there_is_not_is_named() -> None:
    with pytest.raises(StartError, match=r"inference_address=http://nowhere\.invalid:1"):
        bind(Address("http://nowhere.invalid:1"), "inference_address")


def test_a_unix_socket_is_its_owners_alone(short: Path, tmp_path: Path) -> None:
    with taken(settings(tmp_path), {"x": unix(short / "s")}):
        assert (short / "s").stat().st_mode & 0o777 == 0o600
    assert not (short / "s").exists()


def test_a_stale_unix_socket_is_replaced_and_one_in_use_is_not(short: Path) -> None:
    path = short / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    bind(unix(path), "x").close()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(path))
        alive.listen()
        with pytest.raises(PortInUseError, match=f"x=unix:{path}"):
            bind(unix(path), "x")
    assert path.exists()


def test_a_file_that_is_no_socket_is_left_alone(short: Path) -> None:
    (short / "s").write_text("precious")
    (short / "link").symlink_to(short / "s")
    for name in ("s", "link"):
        with pytest.raises(StartError, match="there is a file that is no socket"):
            bind(unix(short / name), "x")
    assert (short / "s").read_text() == "precious"


def test_a_successors_socket_is_left_alone(short: Path, tmp_path: Path) -> None:
    with taken(settings(tmp_path), {"x": unix(short / "s")}):
        (short / "s").unlink()
        successor = bind(unix(short / "s"), "x")
    assert (short / "s").exists()
    successor.close()


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="x=unix:"):
        bind(unix(tmp_path / ("s" * 120)), "x")


@pytest.mark.parametrize("kind", ["http", "unix"])
def test_who_has_connected_is_accepted_and_nobody_else_gets_in(short: Path, kind: str) -> None:
    address = unix(short / "s") if kind == "unix" else Address(f"http://127.0.0.1:{free_port()}")
    place = listening.Place(address, "x", bind(address, "x"))
    place.sock.listen(10)

    def connect(timeout_s: float = 30.0) -> socket.socket:
        if kind == "http":
            return socket.create_connection((address.host, address.port or 0), timeout_s)
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(short / "s"))
        except OSError:
            sock.close()
            raise
        return sock

    with connect() as early:
        place.turn_away()
        with pytest.raises((TimeoutError, FileNotFoundError)):
            connect(0.5)
        early.sendall(b"hello")
        place.sock.setblocking(True)
        accepted, _ = place.sock.accept()
        place.close()
        with accepted:
            assert accepted.recv(5) == b"hello"
            accepted.sendall(b"bye")
            assert early.recv(3) == b"bye"
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        connect()


# ---- TLS -------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str = "a", *options: str) -> dict[str, str]:
    """Make a new certificate of localhost, and the settings for it."""
    key, pem = folder / f"{name}.key", folder / f"{name}.pem"
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *(options or ("-nodes",)), "-days", "2", *subject]
    subprocess.run([*command, "-keyout", key, "-out", pem], check=True, capture_output=True)
    return {"certificate_file": str(pem), "private_key_file": str(key)}


def test_https_by_pem_files_that_may_be_renewed(tmp_path: Path) -> None:
    given = settings(tmp_path, **certificate(tmp_path))
    tls = context(given)
    assert tls.minimum_version == ssl.TLSVersion.TLSv1_2
    app = played_app("inference", PlayedEngine(tmp_path))

    with reached(app) as server:
        port = free_port()
        address = Address(f"https://127.0.0.1:{port}")
        secured = Listener(listening.Place(address, "x", bind(address, "x"), tls), app, Patience())
        server.do(secured.open())
        try:
            for _ in range(2):
                trusted = ssl.create_default_context(cafile=given.properties["certificate_file"])
                answer = httpx.get(f"https://127.0.0.1:{port}/x", verify=trusted)
                assert (answer.status_code, answer.json()["scheme"]) == (200, "https")
                certificate(tmp_path)  # another one in the same files
                load_certificate(tls, given)
        finally:
            server.do(secured.close())
            secured.place.close()


def test_who_does_not_shake_hands_is_sent_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.frontend.server._HANDSHAKE_S", 0.5)
    given = settings(tmp_path, **certificate(tmp_path))
    app = played_app("inference", PlayedEngine(tmp_path))
    with reached(app) as server:
        address = Address(f"https://127.0.0.1:{free_port()}")
        place = listening.Place(address, "x", bind(address, "x"), context(given))
        secured = Listener(place, app, Patience())
        server.do(secured.open())
        try:
            with socket.create_connection((address.host, address.port or 0), 30) as silent:
                trusted = ssl.create_default_context(cafile=given.properties["certificate_file"])
                assert httpx.get(f"{address.text}/x", verify=trusted).status_code == 200
                with contextlib.suppress(ConnectionResetError):
                    assert silent.recv(1) == b""  # a timeout would be an error
        finally:
            server.do(secured.close())
            place.close()


def test_two_servers_that_bound_one_port_are_told_when_the_second_listens(tmp_path: Path) -> None:
    app = played_app("inference", PlayedEngine(tmp_path))
    with reached(app) as server:
        address = Address(f"http://127.0.0.1:{free_port()}")
        places = [listening.Place(address, f"{name}_address", bind(address, name)) for name in ("first", "second")]
        first, second = (Listener(place, app, Patience()) for place in places)
        server.do(first.open())
        try:
            with pytest.raises(PortInUseError, match="somebody listens there already: second_address=http"):
                server.do(second.open())
        finally:
            server.do(first.close())
            for place in places:
                place.close()


@pytest.mark.parametrize(
    ("properties", "told"),
    [
        ({}, "https needs a key"),
        ({"keystore": "ks.jks"}, r"keystore=ks\.jks: the Python frontend reads no Java keystore"),
        ({"certificate_file": "/a"}, "are not both set"),
        ({"certificate_file": "/no", "private_key_file": "/no"}, "certificate_file=/no, private_key_file=/no"),
    ],
)
def test_what_is_no_certificate_is_refused(tmp_path: Path, properties: dict[str, str], told: str) -> None:
    given = settings(tmp_path, inference_address="https://127.0.0.1:1", **properties)
    with pytest.raises(InputError, match=told), taken(given, {"inference_address": given.inference_address}):
        raise AssertionError("it was taken")


def test_a_key_of_another_certificate_or_with_a_password_is_refused(tmp_path: Path) -> None:
    one, other = certificate(tmp_path), certificate(tmp_path, "b")
    with pytest.raises(InputError, match="cannot be used"):
        context(settings(tmp_path, **one | {"private_key_file": other["private_key_file"]}))
    locked = certificate(tmp_path, "c", "-passout", "pass:secret")
    with pytest.raises(InputError, match="the private key is encrypted"):
        context(settings(tmp_path, **locked))


# ---- gRPC ------------------------------------------------------------------------------------------------------------


def test_grpc_is_where_the_configuration_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(**properties: str) -> dict[str, str]:
        given = settings(tmp_path, **properties)
        return {api: address.text for api, address in listening.grpc_addresses(given).items()}

    assert found() == {}
    assert found(grpc_inference_port="7") == {"inference": "http://127.0.0.1:7"}
    both = {"grpc_inference_address": "0.0.0.0", "grpc_management_address": "::1", "enable_grpc_ssl": "true"}
    assert found(**both) == {"inference": "https://0.0.0.0:7070", "management": "https://[::1]:7071"}
    assert found(**both, torchmar_grpc="false") == {}
    assert not listening.lacks_grpc(settings(tmp_path, **both))
    monkeypatch.setattr(frontends, "_GRPC_PACKAGES", ("no_such_package",))
    assert found(**both) == {}
    assert listening.lacks_grpc(settings(tmp_path, **both))
    assert not listening.lacks_grpc(settings(tmp_path, **both, torchmar_grpc="false"))
    assert not listening.lacks_grpc(settings(tmp_path))
