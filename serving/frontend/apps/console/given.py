"""What a model is to be asked with, as a form of the console says: a file, a text, or a sample of its archive."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import FormData, UploadFile

from archive_tool.building.samples import content_type_of
from serving.answers import decode
from serving.frontend.apps.console.shown.contents import Archives
from serving.frontend.apps.console.sources import Served
from serving.frontend.errors import BadRequestError

_MOST_NAME: Final = 200


@dataclass(frozen=True)
class Given:
    """What is sent to a model.

    Attributes:
        body: of the request.
        content_type: of it.
        file: name that stands for it in a command.
        text: what was typed; None for a file.
    """

    body: bytes
    content_type: str
    file: str
    text: str | None = None


async def given(archives: Archives, one: Served, form: FormData) -> Given:
    """Read what is to be sent: a file, else what was typed, else a sample.

    Args:
        archives: that have the samples.
        one: the version that is asked.
        form: says what.

    Raises:
        BadRequestError: there is nothing of it, or its type cannot be one.
    """
    named = _named(form.get("kind"))
    file, text, sample = form.get("file"), form.get("text"), form.get("sample")
    if isinstance(file, UploadFile) and file.filename:
        body = await file.read()
        name = file.filename[:_MOST_NAME]
        return Given(body, named or _type_of(file.content_type, name), name)
    if isinstance(text, str) and text:
        text = text.replace("\r\n", "\n")
        json = isinstance(await asyncio.to_thread(decode, text.encode()), dict | list)
        return Given(text.encode(), named or ("application/json" if json else "text/plain"), "input.txt", text)
    if isinstance(sample, str) and sample.isdecimal() and len(sample) < 6:
        found = await archives.sample(one.of.url, int(sample))
        if found is not None:
            about, body = found
            return Given(body, named or _plain(about.content_type), about.input.rpartition("/")[2])
    raise BadRequestError("choose a file or a sample, or write something")


def _named(kind: object) -> str:
    """Return the type that a form names; empty for none.

    Raises:
        BadRequestError: it cannot stand in a header.
    """
    given = kind.strip() if isinstance(kind, str) else ""
    if given and not _plain(given):
        raise BadRequestError("content type: write printable ASCII, such as text/plain")
    return given


def _plain(kind: object) -> str:
    """Return a type that can stand in a header; empty for none."""
    return kind.strip() if isinstance(kind, str) and kind.isprintable() and kind.isascii() else ""


def _type_of(told: str | None, name: str) -> str:
    """Return the type of a file: what the browser says, unless it knows nothing."""
    plain = _plain(told)
    return plain if plain and plain != "application/octet-stream" else content_type_of(name)
