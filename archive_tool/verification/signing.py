"""Signing archives, and checking signatures, with the key pairs and the format of OpenSSF model signing.

The signature of ``m.mar`` is ``m.mar.sig`` beside it, so the archive's bytes stay as they are. It is a Sigstore bundle
around an in-toto statement that names the SHA-256 of the archive, or of each file of a folder; the command
``model_signing`` of the package model-signing reads it too. No network is needed.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool import files
from archive_tool.errors import AlteredArchiveError, InputError, TargetExistsError, UnreadableArchiveError

if TYPE_CHECKING:
    from archive_tool.files import StrPath

SUFFIX: Final = ".sig"
#: A signature lists the files of a folder, each in a hundred bytes or two.
_LIMIT: Final = 16 << 20
_CURVES: Final = "P-256, P-384 or P-521"
# The commands that make each kind of key. The command for a public one never overwrites a private one.
_MAKE: Final = {
    "private": "openssl ecparam -name prime256v1 -genkey -noout -out NEW_KEY.pem makes one",
    "public": "openssl ec -in PRIVATE_KEY.pem -pubout -out PUBLIC_KEY.pem takes it out of a private one",
}


def signature_path(archive: StrPath) -> Path:
    """Return the path of an archive's signature."""
    path = Path(archive)
    return path.with_name(path.name + SUFFIX)


def sign(archive: StrPath, key: StrPath, *, password: str | None = None, force: bool = False) -> Path:
    """Sign an archive as it is now; return the signature's path.

    Args:
        archive: a file or a folder.
        key: a private key in PEM, on one of the curves P-256, P-384 and P-521.
        password: of the key, if it is encrypted.
        force: replace an existing signature.

    Raises:
        InputError: the key cannot be used, or model-signing is not installed.
        TargetExistsError: there is a signature.
        UnreadableArchiveError: the archive cannot be read.
    """
    config = _config(Path(key), "private")
    target = signature_path(Path(archive).absolute())
    if target.exists() and not force:
        raise TargetExistsError(f"{target} exists already", hint="give --force (-f) to replace it")
    if not Path(archive).exists():
        raise UnreadableArchiveError(f"there is no archive {archive}", where=str(archive))
    try:
        signer = config.signing().use_elliptic_key_signer(private_key=Path(key), password=_bytes(password))
    except Exception as error:  # the libraries below may raise anything for a file that is not such a key
        raise _bad_key(Path(key), "private", error) from error
    temporary = target.with_name(f".torchmar-{secrets.token_hex(8)}.tmp")
    try:
        signer.set_hashing_config(config.hashing()).sign(Path(archive), temporary)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"cannot sign {archive}: {error.strerror or error}", where=error.filename) from error
    except ValueError as error:
        raise UnreadableArchiveError(f"{archive} cannot be signed: {error}", where=str(archive)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target


def check_signature(archive: StrPath, key: StrPath, *, signature: StrPath | None = None) -> None:
    """Check that an archive is, byte for byte, what the owner of a key has signed.

    Args:
        archive: a file or a folder.
        key: the public key in PEM.
        signature: by default the file beside the archive.

    Raises:
        AlteredArchiveError: it is not signed, is signed by another key, or has changed since.
        UnreadableArchiveError: there is no such archive.
        InputError: the key cannot be used, or model-signing is not installed.
    """
    path = Path(archive)
    config = _config(Path(key), "public")
    if not path.exists():
        raise UnreadableArchiveError(f"there is no archive {path}", where=str(path))
    found = Path(signature) if signature is not None else signature_path(path.absolute())
    try:
        verifier = config.verifying().use_elliptic_key_verifier(public_key=Path(key))
    except Exception as error:  # as in `sign`
        raise _bad_key(Path(key), "public", error) from error
    content = _read_signature(path, found)
    try:
        # The library takes a path: that of a copy, so that what is checked is what was read.
        with tempfile.TemporaryDirectory(prefix="torchmar-signature-") as scratch:
            copy = Path(scratch, found.name)
            copy.write_bytes(content)
            verifier.set_hashing_config(config.hashing()).verify(path, copy)
        uncovered = _uncovered(path, content)
    except Exception as error:  # whatever is raised, the signature was not verified
        reason = f": {error}" if isinstance(error, ValueError) else ""
        raise AlteredArchiveError(f"{path} is not what was signed with this key{reason}", where=str(found)) from error
    if uncovered:
        raise AlteredArchiveError(
            f"{path} is signed but for {', '.join(uncovered)}", where=str(found), hint="sign it with torchmar sign"
        )


def _read_signature(archive: Path, signature: Path) -> bytes:
    try:
        return files.read_regular(signature, _LIMIT)
    except FileNotFoundError as error:
        hint = f"torchmar sign {archive} --key PRIVATE_KEY makes one"
        raise AlteredArchiveError(f"{archive} is not signed", where=str(signature), hint=hint) from error
    except OSError as error:
        raise AlteredArchiveError(
            f"the signature of {archive} cannot be read: {error.strerror or error}",
            where=str(signature),
            hint="do not use it; ask for a new one where it comes from",
        ) from error


def _uncovered(path: Path, signature: bytes) -> list[str]:
    """Return the files that the signature, which has been checked, does not cover, such as ``.git``."""
    envelope = json.loads(signature)["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    ignored = statement["predicate"]["serialization"].get("ignore_paths", ())
    return [name for name in ignored if path.is_dir() and os.path.lexists(path / name)]


class _Config:
    """The parts of model-signing that we use; importing it takes most of a second."""

    def __init__(self) -> None:
        from model_signing import hashing, signing, verifying

        self.signing: Any = signing.Config
        self.verifying: Any = verifying.Config
        self._hashing: Any = hashing.Config

    def hashing(self) -> Any:
        # By default it leaves out the files of git, which an archive may hold and a server would load.
        return self._hashing().set_ignored_paths(paths=[], ignore_git_paths=False)


def _config(key: Path, what: str) -> _Config:
    try:
        files.read_regular(key, files.MAX_KEY)
    except FileNotFoundError as error:
        raise InputError(f"there is no key {key}", hint=_MAKE[what]) from error
    except OSError as error:
        raise InputError(f"the key {key} cannot be read: {error.strerror}", where=str(key)) from error
    try:
        return _Config()
    except ImportError as error:
        raise InputError(
            f"signatures need the package model-signing, which cannot be imported: {error}",
            hint="pip install 'torchmar[sign]'",
        ) from error


def _bytes(password: str | None) -> bytes | None:
    return None if password is None else password.encode()


def _bad_key(key: Path, what: str, error: Exception) -> InputError:
    reason = str(error).split(". See")[0].rstrip(".")
    return InputError(
        f"{key} is no {what} key that can be used: {reason}",
        hint=f"a {what} key in PEM on the curve {_CURVES} is needed; {_MAKE[what]}",
    )
