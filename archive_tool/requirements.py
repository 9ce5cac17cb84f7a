"""Reads a requirements file as far as it names packages; what else pip understands is left to pip."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.requirements import Requirement

_VARIABLE: Final = re.compile(r"\$\{[A-Z0-9_]+\}")
# pip takes a path or an address where a requirement may stand.
_PATH_LIKE: Final = re.compile(r"://|^[./~]|^[A-Za-z]:[\\/]|[\\/]|\.(whl|zip|tar\.gz|tar\.bz2|tgz)$")


@dataclass(frozen=True)
class Line:
    """A line that pip would read as a requirement.

    Attributes:
        number: of its first line in the file, from 1.
        text: without comments and options.
        requirement: what it asks for; None if it cannot be read.
        problem: why it cannot; None if it can.
    """

    number: int
    text: str
    requirement: Requirement | None
    problem: str | None = None


def parse(text: str) -> Iterator[Line]:
    """Yield every line that names a package; options, paths and addresses are passed over."""
    from packaging.requirements import InvalidRequirement, Requirement

    for number, line in _lines(text):
        if not line or line.startswith("-") or (" @ " not in line and _PATH_LIKE.search(line.split(";")[0])):
            continue
        try:
            yield Line(number, line, Requirement(line))
        except InvalidRequirement as error:
            yield Line(number, line, None, str(error).split("\n")[0])


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield logical lines, a backslash at the end joining two, without comments, options and variables."""
    number, pending = 0, ""
    for index, raw in enumerate([*text.splitlines(), ""], start=1):
        number = number or index
        pending += raw
        if pending.endswith("\\"):
            pending = pending[:-1]
            continue
        line = re.sub(r"(^|\s)#.*$", "", pending).strip()
        yield number, _VARIABLE.sub("1", re.split(r"\s--?[a-z]", line)[0]).strip()
        number, pending = 0, ""
