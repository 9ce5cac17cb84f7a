"""The same call elsewhere: for curl, in Python, and with torchmar."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from archive_tool.building.samples import content_type_of
from serving.client.transport import Address

#: Characters of a text that stands in a command; a longer one is in a file.
MOST_TEXT: Final = 500


@dataclass(frozen=True)
class Calls:
    """A call in three languages."""

    curl: str
    python: str
    torchmar: str


def calls(
    address: str, name: str, version: str | None, file: str, content_type: str, text: str | None, *, keyed: bool
) -> Calls:
    """Write a call down; a key is taken from the variable TORCHMAR_TOKEN.

    Args:
        address: of the inference API.
        name: of the model; version: None for the default one.
        file: name of what was sent.
        content_type: of it.
        text: what was sent, where it is a text; None for a file.
        keyed: whether requests need a key.
    """
    where = Address(address)
    short = text if text is not None and len(text) <= MOST_TEXT else None
    path = "/predictions/" + "/".join(quote(one, safe="") for one in (name, version) if one is not None)
    socket = ["--unix-socket", where.socket_path] if where.socket_path else []
    key = ' -H "Authorization: Bearer $TORCHMAR_TOKEN"' if keyed else ""
    kind = ["-H", f"Content-Type: {content_type}"] if content_type else []
    data = ["-T", file] if short is None else ["--data-raw", short]
    curl = f"curl{key} {shlex.join([*socket, *kind, where.base_url + path, *data])}"

    body = f"Path({file!r}).read_bytes()" if short is None else f"{short!r}.encode()"
    given = [repr(name), body]
    given += [f"version={version!r}"] if version is not None else []
    given += [f"content_type={content_type!r}"] if content_type else []
    imports = ["import os"] if keyed else []
    imports += ["from pathlib import Path"] if short is None else []
    token = ', token=os.environ["TORCHMAR_TOKEN"]' if keyed else ""
    lines = [*imports, *([""] if imports else []), "from serving.client import InferenceClient", ""]
    lines += [
        f"with InferenceClient.at({where.text!r}{token}) as client:",
        f"    print(client.predict({', '.join(given)}).answer)",
    ]

    return Calls(curl, "\n".join(lines), torchmar(("predict", name), (), where.text, version, file, content_type, text))


def torchmar(
    words: Sequence[str],
    options: Sequence[str],
    address: str,
    version: str | None,
    file: str,
    content_type: str,
    text: str | None,
) -> str:
    """Write a command of torchmar's down that sends an input.

    Args:
        words: the command, as far as the input.
        options: behind it; the rest as in `calls`.
    """
    short = text if text is not None and len(text) <= MOST_TEXT else None
    found = ["torchmar", *words, "-" if short is not None else file, *options, "--inference", address]
    found += ["--version", version] if version is not None else []
    guessed = "" if short is not None else content_type_of(file)  # as the command does it
    found += ["--header", f"content-type={content_type}"] if content_type not in ("", guessed) else []
    before = "" if short is None else f"printf %s {shlex.quote(short)} | "
    return before + shlex.join(found)
