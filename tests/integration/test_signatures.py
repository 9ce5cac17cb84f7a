"""A server that serves nothing unsigned, against the real frontend: what its own APIs take, and what they refuse."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import archive_tool

from .conftest import PYTHON_FIRST, Sandbox, Server

pytestmark = [
    pytest.mark.parametrize("frontend", PYTHON_FIRST),
    # Importing torch takes seconds, and no handler here needs it.
    pytest.mark.hides("torch"),
    pytest.mark.skipif(not find_spec("model_signing"), reason="model_signing is not installed"),
]


@pytest.fixture
def keys(sandbox: Sandbox) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private = made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return sandbox.file("key.pem", private), sandbox.file("key.pub", public)


def statuses(server: Server, store: Path) -> dict[str, int]:
    """Return how the frontend answers, through its own API, a client that wants other things served."""
    urls = {"by name": "plain.mar", "by path": str(store / "plain.mar"), "folder": str(store / "plain_folder")}
    urls["file url"] = f"file://{store}/plain.mar"
    found = {}
    for what, url in urls.items():
        found[what] = post(server, f"/models?url={url}&initial_workers=1&model_name=x")
    found["workflow"] = post(server, f"/workflows?url={store}/plain_folder")
    return found


def post(server: Server, path: str) -> int:
    """Return the status of a request to the management API, sent by the real curl, without a key."""
    command = ("curl", "-sS", "-X", "POST", "-o", "/dev/null", "-w", "%{http_code}", f"{server.management}{path}")
    return int(server.sandbox.run(*command).ok().out)


@pytest.fixture
def store(sandbox: Sandbox, echo: str, keys: tuple[Path, Path]) -> Path:
    """Return a store with the signed archives echo and later, and an unsigned one, as a file and as a folder."""
    handler = sandbox.file("handler.py", echo)
    for name in ("echo", "plain", "later"):
        archive_tool.build(model_name=name, handler=handler, export_path=sandbox.store)
    for name in ("echo", "later"):
        archive_tool.sign(sandbox.store / f"{name}.mar", keys[0])
    with archive_tool.open_archive(sandbox.store / "plain.mar") as opened:
        opened.extract(sandbox.store / "plain_folder")
    return sandbox.store


def test_nothing_unsigned_is_served(sandbox: Sandbox, store: Path, keys: tuple[Path, Path]) -> None:
    start = ("start", "--model-store", store, "--port", "auto", "--require-signature", keys[1])
    refused = sandbox.torchmar(*start, "echo.mar", "plain.mar")
    assert refused.code == 4
    assert f"{store / 'plain.mar'} is not signed" in refused.err
    assert sandbox.leftovers() == []

    server = sandbox.start("echo.mar", options=("--require-signature", keys[1]))
    keys[1].unlink()  # the key as it was at the start is what counts
    assert server.curl("/predictions/echo", "-d", "hello")[0] == 200
    assert set(statuses(server, store).values()) <= {404, 405, 501}  # 501: this frontend has no workflows
    late = sandbox.torchmar("register", "later.mar")
    assert late.code == 9
    assert "its model API is off" in late.err
    assert [row["name"] for row in sandbox.torchmar("models", "--json").json()] == ["echo"]


@pytest.mark.slow  # a server more
def test_registering_what_is_signed_with_a_token(sandbox: Sandbox, store: Path, keys: tuple[Path, Path]) -> None:
    server = sandbox.start("echo.mar", options=("--require-signature", keys[1], "--enable-model-api"))
    refused = sandbox.torchmar("register", "plain.mar")
    assert refused.code == 4
    assert "is not signed" in refused.err
    sandbox.torchmar("register", "later.mar").ok()
    assert {row["name"] for row in sandbox.torchmar("models", "--json").json()} == {"echo", "later"}
    # A client without a key is turned away before anything is looked at.
    assert post(server, "/models?url=later.mar") in (400, 401, 403)
