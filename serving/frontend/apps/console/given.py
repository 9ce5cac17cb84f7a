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
        sample: number of a sample, as the form says it; empty for another input.
        named: the type, where the form names one.
    """

    body: bytes
    content_type: str
    file: str
    text: str | None = None
    sample: str = ""
    named: str = ""


async def given(archives: Archives, one: Served, form: FormData) -> Given:
    """Read what is to be sent: a file or what was typed, else a sample, for one is chosen where there are some.

    Args:
        archives: that have the samples.
        one: the version that is asked.
        form: says what.

    Raises:
        BadRequestError: there is nothing of it, or both a file and a text.
    """
    named = _plain(form.get("kind"))
    file, text, sample = form.get("file"), form.get("text"), form.get("sample")
    typed = isinstance(text, str) and text != ""
    if isinstance(file, UploadFile) and file.filename:
        if typed:
            raise BadRequestError("a file is chosen and a text written: leave one of them out")
        body = await file.read()
        name = file.filename[:_MOST_NAME]
        return Given(body, named or _type_of(file.content_type, name), name, named=named)
    if isinstance(text, str) and typed:
        text = text.replace("\r\n", "\n")
        json = isinstance(await asyncio.to_thread(decode, text.encode()), dict | list)
        kind = named or ("application/json" if json else "text/plain")
        return Given(text.encode(), kind, "input.txt", text, named=named)
    if isinstance(sample, str) and sample.isdecimal() and len(sample) < 6:
        found = await archives.sample(one.of.url, int(sample))
        if found is not None:
            about, body = found
            name = about.input.rpartition("/")[2]
            return Given(body, named or _plain(about.content_type), name, sample=sample, named=named)
    raise BadRequestError("choose a file or a sample, or write something")


def _plain(kind: object) -> str:
    """Return a type that can stand in a header; empty for none."""
    return kind.strip() if isinstance(kind, str) and kind.isprintable() and kind.isascii() else ""


def _type_of(told: str | None, name: str) -> str:
    """Return the type of a file: what the browser says, unless it knows nothing."""
    plain = _plain(told)
    return plain if plain and plain != "application/octet-stream" else content_type_of(name)
