"""What versions are called on Ray Serve: applications and routes."""

from __future__ import annotations

import re
from typing import Final

from serving.frontend.errors import ModelError

#: The application that answers what no version answers by itself.
FRONT: Final = "front"
FRONT_ROUTE: Final = "/"
_ROUTE: Final = "/predictions"
_BETWEEN: Final = "--"
# Ray writes them into HAProxy's configuration as they are, and makes names there of what is left of them: of two
# applications those must differ, and nothing in them may end a word.
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]+")


def check(name: str, version: str) -> None:
    """Refuse what cannot stand in a route or the name of an application.

    Raises:
        ModelError: it is such a name or version.
    """
    for what, text in (("name", name), ("version", version)):
        if not _PLAIN.fullmatch(text) or text in (".", ".."):
            raise ModelError(
                f"the {what} {text!r} cannot be a part of a route on Ray Serve: "
                "use letters, digits, '.', '_' and '-' alone; model_name gives a model another name"
            )
    if _BETWEEN in name or name.endswith("-"):
        raise ModelError(
            f"the name {name!r} cannot be told from its version on Ray Serve: it must have no '--', and no '-' at its "
            "end; model_name gives it another one"
        )


def application(name: str, version: str) -> str:
    """Name the application of a version."""
    return f"{name}{_BETWEEN}{version}"


def route(name: str, version: str, *, default: bool) -> str:
    """Return where the application of a version is asked.

    That of the default version has the shorter route, and so answers requests that name no version, those that name
    it, and those that name one that is not there.
    """
    return f"{_ROUTE}/{name}" if default else f"{_ROUTE}/{name}/{version}"
