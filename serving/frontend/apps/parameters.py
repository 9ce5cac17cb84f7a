"""The parameters of the management API: from a query or a JSON body, understood or refused by their name."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Final

from serving.client.transport import HEADER_NAME
from serving.frontend.apps.inputs import fields
from serving.frontend.engine import Registration, Share
from serving.frontend.errors import BadRequestError

_INT_MAX: Final = 2**31 - 1
_NUMBER = re.compile(r"[+-]?[0-9]{1,10}")
# Characters of a header's name.
_MOST_HEADER: Final = 100
# Each costs the requests of the model a look.
_MOST_STICKY: Final = 8
_FLAGS: Final = {"true": True, "false": False}
_RUNTIMES: Final = frozenset({"python", "python3", "LSP"})
_REGISTRATION: Final = (
    *("url", "model_name", "handler", "runtime", "batch_size", "max_batch_delay", "initial_workers"),
    *("response_timeout", "startup_timeout", "synchronous", "s3_sse_kms"),
)
_SHARE: Final = ("percent", "shadow", "sticky_header")
_MOST_SHOWN: Final = 80


class Parameters:
    """The parameters of a request, by their names. An empty number or flag counts as one that is not there."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    @classmethod
    def of_query(cls, query: bytes) -> Parameters:
        """Those of a query; of equal ones the first.

        Raises:
            BadRequestError: it cannot be read.
        """
        found: dict[str, str] = {}
        for one in fields(query, "query"):
            found.setdefault(one.name, one.value.decode("utf-8", "replace"))
        return cls(found)

    @classmethod
    def of_json(cls, body: bytes) -> Parameters:
        """Those of a JSON object.

        Raises:
            BadRequestError: it is none.
        """
        try:
            document = json.loads(body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"the body is not JSON, which its content type says: {error}") from error
        if not isinstance(document, dict):
            raise BadRequestError('the body must be a JSON object, such as {"url": "model.mar"}')
        return cls({name: value for name, value in document.items() if value is not None})

    def only(self, known: Collection[str], idle: Collection[str] = ()) -> Parameters:
        """Return these, if the call knows all of them: one that is misspelt must not mean another one's default.

        Args:
            known: that say something.
            idle: that TorchServe documents, and nobody reads.

        Raises:
            BadRequestError: one is unknown.
        """
        for name in self._values:
            if name not in known and name not in idle:
                raise BadRequestError(no_parameter(name, known))
        return self

    def text(self, name: str) -> str | None:
        """Return a text; None where it is not there.

        Raises:
            BadRequestError: it is none.
        """
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise BadRequestError(f"the parameter {name} must be a text, not {shown(value)}")
        return value

    def number(self, name: str, least: int = 0, most: int = _INT_MAX) -> int | None:
        """Return a whole number; None where it is not there.

        Raises:
            BadRequestError: it is none, or not from the least to the most.
        """
        value = self._values.get(name, "")
        if value == "":
            return None
        if isinstance(value, str | int) and not isinstance(value, bool) and _NUMBER.fullmatch(f"{value}"[:12]):
            found = int(value)
            if least <= found <= most:
                return found
        raise BadRequestError(f"the parameter {name} must be a whole number from {least} to {most}, not {shown(value)}")

    def flag(self, name: str, default: bool) -> bool:
        """Whether it is ``true``.

        Raises:
            BadRequestError: it is neither ``true`` nor ``false``.
        """
        value = self._values.get(name, "")
        if value == "":
            return default
        if isinstance(value, bool):
            return value
        if not isinstance(value, str) or value.lower() not in _FLAGS:
            raise BadRequestError(f"the parameter {name} must be true or false, not {shown(value)}")
        return _FLAGS[value.lower()]


def registration_of(given: Parameters) -> Registration:
    """Understand what is to be registered.

    Raises:
        BadRequestError: a parameter is missing, unknown, or not what it must be; the message names it.
    """
    given.only(_REGISTRATION)
    url = given.text("url")
    if url is None:
        raise BadRequestError("Parameter url is required.")
    runtime = given.text("runtime")
    if runtime is not None and runtime not in _RUNTIMES:
        raise BadRequestError(f"Invalid RuntimeType value: {runtime}")
    return Registration(
        url=url,
        model_name=given.text("model_name"),
        handler=given.text("handler"),
        runtime=runtime,
        batch_size=given.number("batch_size", least=1),
        max_batch_delay_ms=given.number("max_batch_delay"),
        initial_workers=given.number("initial_workers"),
        response_timeout_s=given.number("response_timeout", least=1),
        startup_timeout_s=given.number("startup_timeout", least=1),
        synchronous=given.flag("synchronous", True),
        s3_sse_kms=given.flag("s3_sse_kms", False),
    )


def share_of(given: Parameters) -> Share:
    """Understand what a version is to get of the requests that name none.

    Raises:
        BadRequestError: a parameter is missing, unknown, or not what it must be; the message names it.
    """
    given.only(_SHARE)
    percent = given.number("percent", most=100)
    if percent is None:
        raise BadRequestError("Parameter percent is required.")
    names = given.text("sticky_header")
    sticky = None if names is None else tuple(name.strip().lower() for name in names.split(",") if name.strip())
    for name in sticky or ():
        if len(name) > _MOST_HEADER or not HEADER_NAME.fullmatch(name):
            raise BadRequestError(f"the parameter sticky_header must name headers, not {shown(name)}")
    if len(sticky or ()) > _MOST_STICKY:
        raise BadRequestError(f"the parameter sticky_header must name {_MOST_STICKY} headers at the most")
    return Share(percent, given.flag("shadow", False), sticky)


def no_parameter(name: str, known: Collection[str]) -> str:
    """Tell that a call has no such parameter, and which ones it has."""
    near = difflib.get_close_matches(name[:_MOST_SHOWN], known, n=1)
    meant = f": did you mean {near[0]}?" if near else ";"
    told = f"this call knows {', '.join(known)}" if known else "this call knows none"
    return f"there is no parameter {shown(name)}{meant} {told}"


def shown(value: Any) -> str:
    """Write a value in a message, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
