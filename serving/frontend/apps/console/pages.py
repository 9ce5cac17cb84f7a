"""How a page is made: the templates, the reader's language, and what every page knows."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from archive_tool.cli.output import human_size
from archive_tool.version import __version__
from serving.frontend.apps.console import words
from serving.frontend.apps.console.beside import PATH
from serving.frontend.apps.console.gate import MOST_SESSIONS, SESSION
from serving.frontend.apps.console.shown.said import said

HERE: Final = Path(__file__).parent
#: Cookie with the language that somebody has chosen.
LANGUAGE: Final = "torchmar_language"
#: Header of a script that wants the answer alone, and not the page around it.
ALONE: Final = "x-torchmar-alone"
#: Milliseconds after which a browser looks again for a stream that has ended.
AGAIN_MS: Final = 1000
# What an error is found by in the logs.
_ID: Final = re.compile(r"\b(under the id|beside|编号为) ([0-9a-f][0-9a-f-]{7,35})\b")


@dataclass(frozen=True)
class Told:
    """What has come of a form, for the page that it leads to.

    Attributes:
        lines: of it, in English.
        bad: whether it was refused.
    """

    lines: tuple[str, ...]
    bad: bool


_NOTHING: Final = Told((), bad=False)


class Pages:
    """Makes pages.

    Args:
        about: what every page is told of the server.
    """

    def __init__(self, about: Mapping[str, Any]) -> None:
        self._about = about
        # By session: in an address anybody's link could have it.
        self._told: OrderedDict[str, Told] = OrderedDict()
        # Compiled now, in the thread that makes the console: not in the event loop.
        self._templates = _templates()

    def tell(self, request: Request, *lines: str, bad: bool = False) -> None:
        """Let the next page that the request's session sees say something, once; `bad`: that it was refused."""
        session = request.scope[SESSION].id
        self._told.pop(session, None)
        self._told[session] = Told(tuple(filter(None, lines)), bad)
        while len(self._told) > MOST_SESSIONS:
            self._told.popitem(last=False)

    def text(self, request: Request, template: str, **values: Any) -> str:
        """Fill a template in the reader's language; a lone surrogate, which no answer of HTTP can have, is a `?`."""
        language = language_of(request)
        session = request.scope[SESSION]
        found = self._templates.get_template(template)
        text = found.render(
            self._about,
            _=partial(_translated, language),
            said=partial(_said, language),
            language=language,
            other="zh" if language == "en" else "en",
            told=_NOTHING if ALONE in request.headers else self._told.pop(session.id, _NOTHING),
            mark=session.mark,
            inside=bool(session.key),
            # Not `request.url`, which fails at a query that is not UTF-8.
            here=quote(request.scope["path"]),
            version_of_torchmar=__version__,
            **values,
        )
        return text.encode("utf-8", "replace").decode()

    def page(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """Answer with a page."""
        return HTMLResponse(self.text(request, template, **values), status, {"vary": "cookie, accept-language"})


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["size"] = _size
    # Of a process that has just begun the memory is not known yet.
    found.filters["memory"] = lambda count: _size(count) if count else "–"
    found.filters["number"] = _number
    found.filters["json"] = lambda value: json.dumps(value, ensure_ascii=False)
    found.filters["linked"] = _linked
    found.globals["link"] = link
    for name in found.list_templates():
        found.get_template(name)
    return found


def link(*segments: str) -> str:
    """Return the path of a page."""
    return "/".join([PATH, *(quote(one, safe="") for one in segments)])


def language_of(request: Request) -> str:
    """Return the reader's language: as chosen, else as the browser says."""
    chosen = request.query_params.get("lang") or request.cookies.get(LANGUAGE, "")
    if chosen in words.LANGUAGES:
        return chosen
    for one in request.headers.get("accept-language", "").lower().split(","):
        if one.strip()[:2] in words.LANGUAGES:
            return one.strip()[:2]
    return words.LANGUAGES[0]


def _translated(language: str, text: str, **values: object) -> str | Markup:
    """Say something in a language; values are escaped where they are put in."""
    found = words.say(language, text)
    # The text is ours, and the values are escaped.
    return Markup(found).format(**values) if values else escape(found)  # noqa: S704


def _said(language: str, text: str) -> Markup:
    """Say what another part of torchmar says in English; what stays so is marked as that."""
    found = said(language, text)
    if found is None and text.isascii():
        return Markup('<span lang="en">{}</span>').format(_linked(text))
    return _linked(text if found is None else found)


def _linked(text: str) -> Markup:
    """Lead from the ids in a text to the lines of the logs that have them."""
    linked = _ID.sub(lambda one: f'{one[1]} <a href="{link("logs")}?id={one[2]}">{one[2]}</a>', str(escape(text)))
    # It is escaped, and an id is letters and digits.
    return Markup(linked)  # noqa: S704


def _size(count: float) -> str:
    return human_size(int(count))


def _number(value: float | None, unit: str = "") -> str:
    return "–" if value is None else f"{value:,.4g}{unit}" if value < 10_000 else f"{value:,.0f}{unit}"
