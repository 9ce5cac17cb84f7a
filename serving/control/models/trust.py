"""A model store of archives whose signatures were checked, for a server that serves no others.

Each archive is copied first, and the copy is checked: what the frontend reads can no longer be exchanged. The frontend
knows no other store, so it finds nothing else by name. Over its REST and gRPC APIs it would also take any folder
of the machine by its path, so these must be off, or need a key.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from archive_tool import files
from archive_tool.errors import ArchiveError, InputError
from archive_tool.verification.signing import check_signature, signature_path
from serving.control.configuration.access import NO_WORKFLOWS, model_api
from serving.control.configuration.config import token_authorization
from serving.control.models.store import check_archive

#: The regular expression that matches no address.
_NOTHING: Final = "(?!)"


def restricted(properties: Mapping[str, str]) -> dict[str, str]:
    """Return a configuration with which the frontend loads nothing but what is in its store.

    Raises:
        InputError: the configuration wants the opposite.
    """
    for key, harmless in (("allowed_urls", _NOTHING), ("use_env_allowed_urls", "false")):
        if properties.get(key, harmless).strip().lower() != harmless:
            raise InputError(
                f"{key}={properties[key]} lets the server fetch archives that nobody has signed",
                hint=f"remove it from the configuration; with --require-signature only {key}={harmless} goes",
            )
    if model_api(properties) and not token_authorization(properties):
        raise InputError(
            "the model API without keys lets anybody who reaches the server register what nobody has signed",
            hint="with --require-signature leave the model API off, or keys on",
        )
    return {**properties, "workflow_store": NO_WORKFLOWS}


def fill(store: Path, archives: Iterable[Path], key: Path) -> None:
    """Make a store of checked copies.

    Args:
        store: a folder that does not exist yet, in one that is ours alone.
        archives: to copy, under their own names.
        key: the public key, in PEM.

    Raises:
        ArchiveError: an archive is not signed with the key, or not safe to open; all of them are named.
        InputError: one cannot be copied, or the key cannot be used.
    """
    store.mkdir(mode=0o700)
    failed: list[ArchiveError] = []
    for archive in archives:
        try:
            admit(archive, store, key)
        except ArchiveError as error:
            failed.append(error)
    if len(failed) == 1:
        raise failed[0]
    if failed:
        worst = max(failed, key=lambda error: error.exit_code)
        lines = "".join(f"\n- {error.message}" for error in failed)
        raise type(worst)(f"{len(failed)} archives cannot be served{lines}", hint=worst.hint)


def admit(archive: Path, store: Path, key: Path) -> None:
    """Copy an archive into a store if its signature is good; one of that name there is replaced.

    Raises:
        ArchiveError: it is not signed with the key, or not safe to open.
        InputError: it cannot be copied, or the key cannot be used.
    """
    # The archive keeps its name: a folder's is that of its model.
    waiting = store / f".torchmar-{secrets.token_hex(8)}.tmp"
    copy = waiting / archive.name
    try:
        waiting.mkdir(mode=0o700)
        if archive.is_dir():
            shutil.copytree(archive, copy, symlinks=True)
        else:
            with files.open_regular(archive) as source, copy.open("wb") as target:
                shutil.copyfileobj(source, target)
        try:
            check_signature(copy, key, signature=signature_path(archive))
            check_archive(copy)
        except ArchiveError as error:
            # The user knows the archive, not the copy.
            where, hint = (text and text.replace(str(copy), str(archive)) for text in (error.where, error.hint))
            raise type(error)(error.message.replace(str(copy), str(archive)), where=where, hint=hint) from error
        if (signature := signature_path(archive)).is_file():  # other machines check it, too
            shutil.copyfile(signature, signature_path(copy))
            signature_path(copy).replace(signature_path(store / archive.name))
        _put(copy, store / archive.name)
    except OSError as error:
        raise InputError(f"{archive} cannot be copied: {error.strerror or error}", where=error.filename) from error
    finally:
        shutil.rmtree(waiting, ignore_errors=True)


def _put(copy: Path, target: Path) -> None:
    if target.is_dir():
        # A folder cannot be replaced at once. Workers of the old one have their files open, or find the new ones.
        target.rename(copy.parent / "replaced")
    os.replace(copy, target)  # noqa: PTH105 - of a file and a folder alike
