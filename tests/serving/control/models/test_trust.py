"""A store of checked copies, for a server that serves nothing unsigned."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

import archive_tool
from archive_tool.errors import AlteredArchiveError, ArchiveError, InputError, UnsafeArchiveError
from archive_tool.verification.signing import sign, signature_path
from serving.control.models import trust

pytestmark = pytest.mark.skipif(not find_spec("model_signing"), reason="model_signing is not installed")


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    made = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private.write_bytes(made.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def store(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    """Return a store with signed archives a and b, and an unsigned one c."""
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return data\n")
    folder = tmp_path / "store"
    folder.mkdir()
    for name in ("a", "b", "c"):
        archive_tool.build(model_name=name, handler=str(tmp_path / "handler.py"), export_path=str(folder))
    for name in ("a", "b"):
        sign(folder / f"{name}.mar", keys[0])
    return folder


def test_copies_of_signed_archives(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trust.fill(trusted, [store / "a.mar", store / "b.mar"], keys[1])
    assert sorted(path.name for path in trusted.iterdir()) == ["a.mar", "a.mar.sig", "b.mar", "b.mar.sig"]
    assert (trusted / "a.mar").read_bytes() == (store / "a.mar").read_bytes()
    assert trusted.stat().st_mode & 0o077 == 0
    (store / "a.mar").write_bytes(b"exchanged")
    assert (trusted / "a.mar").read_bytes() != b"exchanged"


def test_what_is_not_signed_is_refused_by_its_own_name(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(AlteredArchiveError) as caught:
        trust.fill(tmp_path / "trusted", [store / "a.mar", store / "c.mar"], keys[1])
    assert caught.value.message == f"{store / 'c.mar'} is not signed"
    assert caught.value.hint == f"torchmar sign {store / 'c.mar'} --key PRIVATE_KEY makes one"


def test_all_that_is_refused_is_named(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (store / "b.mar").write_bytes((store / "b.mar").read_bytes() + b"x")
    with pytest.raises(AlteredArchiveError, match="2 archives cannot be served") as caught:
        trust.fill(tmp_path / "trusted", sorted(store.glob("*.mar")), keys[1])
    assert str(store / "b.mar") in caught.value.message
    assert str(store / "c.mar") in caught.value.message
    assert str(store / "a.mar") not in caught.value.message


def test_a_signed_archive_that_is_not_safe(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (store / "b.mar").write_bytes((store / "b.mar").read_bytes() + b"x")
    sign(store / "b.mar", keys[0], force=True)
    with pytest.raises(UnsafeArchiveError, match=r"store/b\.mar is not safe"):
        trust.fill(tmp_path / "trusted", [store / "b.mar"], keys[1])
    assert list((tmp_path / "trusted").iterdir()) == []


def test_a_later_one_replaces_that_of_its_name(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    trust.fill(trusted, [store / "a.mar"], keys[1])
    (store / "a.mar").write_bytes((store / "c.mar").read_bytes())
    with pytest.raises(AlteredArchiveError):
        trust.admit(store / "a.mar", trusted, keys[1])
    assert (trusted / "a.mar").read_bytes() != (store / "c.mar").read_bytes()
    sign(store / "a.mar", keys[0], force=True)
    trust.admit(store / "a.mar", trusted, keys[1])
    assert (trusted / "a.mar").read_bytes() == (store / "c.mar").read_bytes()
    assert sorted(path.name for path in trusted.iterdir()) == ["a.mar", "a.mar.sig"]


def test_folders(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    trusted = tmp_path / "trusted"
    with archive_tool.open_archive(store / "a.mar") as archive:
        archive.extract(store / "m")
    sign(store / "m", keys[0])
    trust.fill(trusted, [store / "m"], keys[1])
    (store / "m" / "new.txt").write_text("new")
    with pytest.raises(AlteredArchiveError, match=r"new\.txt"):
        trust.admit(store / "m", trusted, keys[1])
    assert not (trusted / "m" / "new.txt").exists()
    sign(store / "m", keys[0], force=True)
    trust.admit(store / "m", trusted, keys[1])
    assert (trusted / "m" / "new.txt").read_text() == "new"
    assert sorted(path.name for path in trusted.iterdir()) == ["m", "m.sig"]


def test_what_cannot_be_copied(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be copied"):
        trust.fill(tmp_path / "trusted", [store / "gone.mar"], keys[1])
    assert signature_path(store / "a.mar").exists()


@pytest.mark.parametrize(
    "setting", [{"allowed_urls": "file://.*"}, {"use_env_allowed_urls": "true"}, {"allowed_urls": "(?!),https://x/.*"}]
)
def test_a_configuration_that_fetches_from_elsewhere(setting: dict[str, str]) -> None:
    with pytest.raises(InputError, match=next(iter(setting))):
        trust.restricted({"allowed_urls": "(?!)", **setting})


def test_registration_is_for_those_who_have_a_key() -> None:
    base = {"allowed_urls": "(?!)", "enable_model_api": "true", "workflow_store": "flows"}
    with pytest.raises(InputError, match="nobody has signed") as caught:
        trust.restricted({**base, "disable_token_authorization": "true"})
    assert caught.value.hint
    opened = trust.restricted({**base, "disable_token_authorization": "false"})
    assert opened["enable_model_api"] == "true"
    assert opened["workflow_store"] == "/dev/null"


def test_an_archive_or_a_signature_without_end(store: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (store / "x.mar").symlink_to("/dev/zero")
    with pytest.raises(InputError, match="not a regular file"):
        trust.fill(tmp_path / "trusted", [store / "x.mar"], keys[1])
    (store / "a.mar.sig").unlink()
    (store / "a.mar.sig").symlink_to("/dev/zero")
    with pytest.raises(ArchiveError, match="not a regular file"):
        trust.fill(tmp_path / "other", [store / "a.mar"], keys[1])
    os.mkfifo(store / "p.mar")
    with pytest.raises(InputError, match="not a regular file"):
        trust.fill(tmp_path / "third", [store / "p.mar"], keys[1])
