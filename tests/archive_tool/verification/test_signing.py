"""Signatures of archives with key pairs, without a network."""

import base64
import json
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest

from archive_tool.errors import AlteredArchiveError, InputError, TargetExistsError, UnreadableArchiveError
from archive_tool.issues import Kind
from archive_tool.verification import signing
from archive_tool.verification.signing import check_signature, sign, signature_path
from archive_tool.verification.verify import verify
from tests.archive_tool.hostile import Member, archive

pytestmark = pytest.mark.skipif(not find_spec("model_signing"), reason="model_signing is not installed")


def key_pair(folder, name, curve="SECP256R1", password=None):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    made = rsa.generate_private_key(65537, 2048) if curve == "RSA" else ec.generate_private_key(getattr(ec, curve)())
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    pem = serialization.Encoding.PEM
    private.write_bytes(made.private_bytes(pem, serialization.PrivateFormat.PKCS8, hidden))
    public.write_bytes(made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {
        "mine": key_pair(folder, "mine"),
        "other": key_pair(folder, "other"),
        "P-384": key_pair(folder, "p384", "SECP384R1"),
        "P-521": key_pair(folder, "p521", "SECP521R1"),
        "curve": key_pair(folder, "k", "SECP256K1"),
        "rsa": key_pair(folder, "rsa", "RSA"),
        "secret": key_pair(folder, "secret", password=b"open sesame"),
    }


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "m.mar").write_bytes(archive(Member(b"a.txt", b"hello")))
    return folder / "m.mar"


@pytest.fixture
def folder(path):
    made = path.parent / "m"
    (made / "sub").mkdir(parents=True)
    (made / "sub" / "x").write_text("1")
    (made / ".gitignore").write_text("2")
    return made


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("which", ["mine", "P-384", "P-521"])
def test_a_signed_archive(path, keys, which):
    before = path.read_bytes()
    private, public = keys[which]
    assert sign(path, private) == path.with_name("m.mar.sig") == signature_path(path)
    assert path.read_bytes() == before
    check_signature(path, public)
    result = verify(path, key=public)
    assert result.signed is True
    assert result.kind is None
    assert sorted(item.name for item in path.parent.iterdir()) == ["m.mar", "m.mar.sig"]


def test_it_is_an_openssf_model_signature(path, keys):
    sign(path, keys["mine"][0])
    bundle = json.loads(signature_path(path).read_text())
    statement = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(path), "--signature"]
    command += [str(signature_path(path)), "--public_key", str(keys["mine"][1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_name_of_an_archive_is_not_signed(path, keys):
    sign(path, keys["mine"][0])
    moved = path.rename(path.with_name("other.mar"))
    check_signature(moved, keys["mine"][1], signature=signature_path(path))
    with pytest.raises(AlteredArchiveError, match="is not signed"):
        check_signature(moved, keys["mine"][1])


@pytest.mark.parametrize("position", [0, 50, -1])
def test_an_altered_archive(path, keys, position):
    sign(path, keys["mine"][0])
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(AlteredArchiveError, match="is not what was signed") as caught:
        check_signature(path, keys["mine"][1])
    assert caught.value.exit_code == 4
    result = verify(path, key=keys["mine"][1])
    assert result.signed is False
    assert Kind.ALTERED in {issue.kind for issue in result.issues}


def test_another_key(path, keys):
    sign(path, keys["other"][0])
    with pytest.raises(AlteredArchiveError, match="Key mismatch"):
        check_signature(path, keys["mine"][1])


def test_a_signature_with_the_hint_of_another_key(path, keys):
    """The name of the key in a signature is not what makes it good."""
    sign(path, keys["mine"][0])
    hint = json.loads(signature_path(path).read_text())["verificationMaterial"]
    sign(path, keys["other"][0], force=True)
    forged = json.loads(signature_path(path).read_text()) | {"verificationMaterial": hint}
    signature_path(path).write_text(json.dumps(forged))
    with pytest.raises(AlteredArchiveError, match="is not what was signed"):
        check_signature(path, keys["mine"][1])


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "x", '{"dsseEnvelope": 3}', "\xff", '{"verificationMaterial": {}}']
)
def test_a_broken_signature(path, keys, text):
    signature_path(path).write_text(text)
    with pytest.raises(AlteredArchiveError, match="is not what was signed"):
        check_signature(path, keys["mine"][1])


def test_no_signature(path, keys):
    with pytest.raises(AlteredArchiveError, match="is not signed") as caught:
        check_signature(path, keys["mine"][1])
    assert "torchmar sign" in caught.value.hint
    assert [issue.kind for issue in verify(path, key=keys["mine"][1]).issues][:1] == [Kind.ALTERED]


def test_a_signature_of_absurd_length(path, keys, monkeypatch):
    sign(path, keys["mine"][0])
    monkeypatch.setattr(signing, "_LIMIT", 10)
    with pytest.raises(AlteredArchiveError, match="longer than 10 bytes"):
        check_signature(path, keys["mine"][1])


def test_signing_again(path, keys):
    sign(path, keys["mine"][0])
    with pytest.raises(TargetExistsError):
        sign(path, keys["other"][0])
    check_signature(path, keys["mine"][1])
    sign(path, keys["other"][0], force=True)
    check_signature(path, keys["other"][1])


@pytest.mark.parametrize("which", ["curve", "rsa"])
def test_keys_of_other_kinds(path, keys, which):
    with pytest.raises(InputError, match="no private key that can be used"):
        sign(path, keys[which][0])
    with pytest.raises(InputError, match="no public key that can be used"):
        check_signature(path, keys[which][1])


def test_keys_that_are_none(path, keys, tmp_path):
    with pytest.raises(InputError, match="there is no key") as caught:
        sign(path, tmp_path / "none.pem")
    assert "openssl ecparam" in caught.value.hint
    with pytest.raises(InputError, match="no public key"):
        check_signature(path, path)
    with pytest.raises(InputError, match="no private key"):
        sign(path, keys["mine"][1])


def test_what_is_told_to_make_a_public_key_never_writes_over_a_private_one(path, keys, tmp_path):
    for key in (keys["mine"][0], tmp_path / "none.pem"):
        with pytest.raises(InputError) as caught:
            check_signature(path, key)
        assert "-pubout -out PUBLIC_KEY.pem" in caught.value.hint
        assert "genkey" not in caught.value.hint
    assert not signature_path(path).exists()


def test_an_encrypted_key(path, keys):
    private, public = keys["secret"]
    for password in (None, "wrong"):
        with pytest.raises(InputError, match="no private key that can be used"):
            sign(path, private, password=password)
    sign(path, private, password="open sesame")
    check_signature(path, public)


def test_nothing_to_sign(tmp_path, keys):
    for call in (
        lambda: sign(tmp_path / "no.mar", keys["mine"][0]),
        lambda: check_signature(tmp_path / "no.mar", keys["mine"][1]),
    ):
        with pytest.raises(UnreadableArchiveError, match="there is no archive"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_a_folder(folder, keys):
    private, public = keys["mine"]
    assert sign(folder, private) == folder.with_name("m.sig")
    check_signature(folder, public)
    (folder / "new.py").write_text("import os")
    with pytest.raises(AlteredArchiveError, match="Extra files"):
        check_signature(folder, public)
    (folder / "new.py").unlink()
    (folder / ".gitignore").write_text("changed")
    with pytest.raises(AlteredArchiveError, match="is not what was signed"):
        check_signature(folder, public)


def test_what_others_leave_out_of_a_folders_signature(folder, keys):
    """The tool of model-signing leaves out the files of git; a server would load them."""
    from model_signing import signing as theirs

    private, public = keys["mine"]
    config = theirs.Config().use_elliptic_key_signer(private_key=private)
    config.sign(folder, signature_path(folder))
    with pytest.raises(AlteredArchiveError, match=r"is signed but for \.gitignore"):
        check_signature(folder, public)
    (folder / ".gitignore").unlink()
    check_signature(folder, public)


def test_a_folder_with_a_link(folder, keys):
    (folder / "link").symlink_to("sub/x")
    with pytest.raises(UnreadableArchiveError, match="cannot be signed"):
        sign(folder, keys["mine"][0])
    assert not signature_path(folder).exists()


def test_a_folder_that_cannot_be_written(path, keys, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(signing.Path, "replace", refuse)
    with pytest.raises(InputError, match="Permission denied"):
        sign(path, keys["mine"][0])
    assert [item.name for item in path.parent.iterdir()] == ["m.mar"]


def test_without_the_package(path, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "model_signing", None)
    with pytest.raises(InputError, match="need the package model-signing") as caught:
        check_signature(path, keys["mine"][1])
    assert caught.value.hint == "pip install 'torchmar[sign]'"


def test_an_archive_is_a_copy_of_itself(path, keys, tmp_path):
    sign(path, keys["mine"][0])
    shutil.copy(path, tmp_path / "copy.mar")
    check_signature(tmp_path / "copy.mar", keys["mine"][1], signature=signature_path(path))
