"""The members of a request's document: understood, let pass, or refused by their names."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final

from archive_tool import json_text
from serving.frontend.apps.openai.errors import UNKNOWN, UNSUPPORTED, ParameterError
from serving.frontend.apps.parameters import no_parameter, shown

#: Bytes of a document that the event loop reads or writes itself.
SHORT: Final = 64 * 1024
#: What changes no answer: it is for OpenAI's own books.
_IDLE: Final = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user"}
)
#: What is not offered here, and the values by which a client asks for nothing.
_UNSUPPORTED: Final[dict[str, tuple[Any, ...]]] = {
    "audio": (),
    "best_of": (1,),
    "dimensions": (),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (False, True),
    "prediction": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}


async def document_of(body: bytes) -> dict[str, Any]:
    """Read a request's document.

    Raises:
        ParameterError: it is none.
    """
    try:
        read = json_text.loads
        document = read(body) if len(body) <= SHORT else await asyncio.to_thread(read, body)
    except json_text.NotJsonError as error:
        raise ParameterError(None, f"the body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ParameterError(None, 'the body must be a JSON object, such as {"model": "NAME", ...}')
    return document


class Given:
    """The members of an object, each asked for by its name. One that is null counts as one that is not there.

    Args:
        document: that has them.
        within: what the object is called in the request; empty for the request itself.
    """

    def __init__(self, document: Mapping[str, Any], within: str = "") -> None:
        self._values = {name: value for name, value in document.items() if value is not None}
        self._within = f"{within}." if within else ""
        self._known: list[str] = []

    def take(self, name: str) -> Any:
        """Return a member, whatever it is; None where it is not there."""
        self._known.append(name)
        return self._values.get(name)

    def wrong(self, name: str, wanted: str) -> ParameterError:
        """Make an error of a member's value.

        Args:
            name: of the member.
            wanted: what it must be.
        """
        full = f"{self._within}{name}"
        if name not in self._values:
            return ParameterError(full, f"the parameter {full} is missing: it must be {wanted}")
        return ParameterError(full, f"the parameter {full} must be {wanted}, not {shown(self._values[name])}")

    def text(self, name: str) -> str:
        """Return a text that must be there.

        Raises:
            ParameterError: it is none, or empty.
        """
        value = self.take(name)
        if not isinstance(value, str) or not value:
            raise self.wrong(name, "a text")
        return value

    def whole(self, name: str, least: int, most: int) -> int | None:
        """Return a whole number.

        Raises:
            ParameterError: it is none, or not from the least to the most.
        """
        value = self.take(name)
        if value is not None and (type(value) is not int or not least <= value <= most):
            raise self.wrong(name, f"a whole number from {least} to {most}")
        return value

    def number(self, name: str, least: float, most: float) -> float | None:
        """Return a number.

        Raises:
            ParameterError: it is none, or not from the least to the most.
        """
        value = self.take(name)
        if value is not None and (type(value) not in (int, float) or not least <= value <= most):
            raise self.wrong(name, f"a number from {least:g} to {most:g}")
        return None if value is None else float(value)

    def flag(self, name: str) -> bool | None:
        """Return whether it is true.

        Raises:
            ParameterError: it is neither true nor false.
        """
        value = self.take(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def choice(self, name: str, *values: str) -> str:
        """Return one of a few words; the first where it is not there.

        Raises:
            ParameterError: it is none of them.
        """
        value = self.take(name)
        if value is None:
            return values[0]
        if value not in values:
            raise self.wrong(name, " or ".join(values))
        return str(value)

    def inner(self, name: str) -> Given:
        """Return the members of a member.

        Raises:
            ParameterError: it is no object.
        """
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "an object")
        return Given(value or {}, f"{self._within}{name}")

    def end(self) -> None:
        """Refuse what nobody has asked for: it is misspelt, or not offered here.

        Raises:
            ParameterError: there is such a member.
        """
        for name, value in self._values.items():
            if name in self._known or (name in _IDLE and not self._within):
                continue
            full = f"{self._within}{name}"
            if name not in _UNSUPPORTED:
                raise ParameterError(full, no_parameter(full, [f"{self._within}{one}" for one in self._known]), UNKNOWN)
            if not any(value == idle for idle in _UNSUPPORTED[name]):
                raise ParameterError(
                    full, f"{full} is not supported here, and it is {shown(value)}: leave it out", UNSUPPORTED
                )
