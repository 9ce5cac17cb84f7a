"""Reading a requirements file as far as it names packages; the rest is left to pip.

The cost is bounded: the file may come from a foreign archive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from packaging.requirements import Requirement

#: Requirements of a file; a whole environment has some hundreds.
MAX_LINES: Final = 2000
#: Characters of a requirement without its options.
MAX_LENGTH: Final = 4000
_VARIABLE: Final = re.compile(r"\$\{[A-Z0-9_]+\}")
_SHOWN: Final = 60
# pip takes a path or an address in place of a requirement.
_PATH_LIKE: Final = re.compile(r"://|^[./~]|^[A-Za-z]:[\\/]|[\\/]|\.(whl|zip|tar\.gz|tar\.bz2|tgz)$")


@dataclass(frozen=True)
class Line:
    """A line that pip would read as a requirement.

    Attributes:
        number: of its first line in the file, from 1.
        text: without comments and options.
        requirement: the parsed requirement; None if it cannot be parsed.
        problem: why it cannot; None if it can.
    """

    number: int
    text: str
    requirement: Requirement | None
    problem: str | None = None


def parse(text: str) -> Iterator[Line]:
    """Yield every line that names a package; options, paths and addresses are ignored.

    A text that is too long gives one line with a problem; lines beyond the limit are not read.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    count = 0
    for number, line in _lines(text):
        if not line or line.startswith("-") or (" @ " not in line and _PATH_LIKE.search(line.split(";")[0])):
            continue
        count += 1
        if count > MAX_LINES:
            yield Line(number, line[:_SHOWN], None, f"the file has more than {MAX_LINES} requirements")
            return
        if len(line) > MAX_LENGTH:
            yield Line(number, line[:_SHOWN] + "...", None, f"it is longer than {MAX_LENGTH} characters")
            continue
        try:
            yield Line(number, line, Requirement(line))
        # Deeply nested brackets in markers exceed the recursion limit of their parser.
        except (InvalidRequirement, RecursionError) as error:
            yield Line(number, line, None, str(error).split("\n")[0])


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield logical lines, joined at a backslash, without comments, options and variables."""
    number = 0
    parts: list[str] = []
    for index, raw in enumerate([*text.splitlines(), ""], start=1):
        number = number or index
        if raw.endswith("\\"):
            parts.append(raw[:-1])
            continue
        line = re.sub(r"(^|\s)#.*$", "", "".join([*parts, raw])).strip()
        yield number, _VARIABLE.sub("1", re.split(r"\s--?[a-z]", line, maxsplit=1)[0]).strip()
        number, parts = 0, []
