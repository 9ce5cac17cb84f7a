"""Names and amounts that Kubernetes takes: of what users write, checked; of a model's name, made."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from archive_tool.errors import InputError

#: Letters of a name of an object that others get their names from: those of a service, and of its host in KServe.
MOST_NAME: Final = 40
_MOST_LABEL: Final = 63
_MOST_SUBDOMAIN: Final = 253
_DIGITS: Final = 6
_NAME: Final = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(rf"{_NAMESPACE.pattern}(\.{_NAMESPACE.pattern})*")
_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)?", re.ASCII)
_LABEL_KEY: Final = re.compile(r"(?P<prefix>[^/]+/)?(?P<name>[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?)", re.ASCII)
_AMOUNTS: Final = {
    "cpu": (re.compile(r"(\d{1,9}(\.\d{1,3})?)(m?)", re.ASCII), "4, 0.5 or 500m"),
    "memory": (re.compile(r"(\d{1,12}(\.\d{1,3})?)(Ki|Mi|Gi|Ti|k|M|G|T)", re.ASCII), "4Gi or 512Mi"),
}


def name_of(model: str) -> str:
    """Return the name of an object for a model, as like the model's as Kubernetes allows.

    Two long names that begin alike get two names.
    """
    made = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    if not made[:1].isalpha():
        made = f"model-{made}".rstrip("-")
    if len(made) <= MOST_NAME:
        return made
    digits = hashlib.sha256(model.encode()).hexdigest()[:_DIGITS]
    return f"{made[: MOST_NAME - _DIGITS - 1].rstrip('-')}-{digits}"


def checked_name(text: str) -> str:
    """Return a name that a user has given to an object.

    Raises:
        InputError: a service cannot have it.
    """
    if len(text) > MOST_NAME or not _NAME.fullmatch(text):
        raise InputError(
            f"not a name in Kubernetes: {text!r}",
            hint=f"use at most {MOST_NAME} small letters, digits and '-', a letter first, such as {name_of(text)}",
        )
    return text


def checked_namespace(text: str) -> str:
    """Return a namespace.

    Raises:
        InputError: there can be none of that name.
    """
    if len(text) > _MOST_LABEL or not _NAMESPACE.fullmatch(text):
        raise InputError(f"not a namespace: {text!r}", hint="use small letters, digits and '-'")
    return text


def checked_reference(what: str, text: str) -> str:
    """Return the name of an object that is there already.

    Args:
        what: it is, for the message.
        text: its name.

    Raises:
        InputError: there can be none of that name.
    """
    if len(text) > _MOST_SUBDOMAIN or not _SUBDOMAIN.fullmatch(text):
        raise InputError(f"no {what} can be called {text!r}", hint="use small letters, digits, '-' and '.'")
    return text


def label_value(text: str) -> str:
    """Return a text as the value of a label, with what none can have replaced."""
    made = re.sub(r"[^A-Za-z0-9_.-]", "-", text).lstrip("_.-")
    return made[:_MOST_LABEL].rstrip("_.-")


def label(text: str) -> tuple[str, str]:
    """Read a label, ``KEY=VALUE``.

    Raises:
        InputError: it is none.
    """
    key, equals, value = text.partition("=")
    found = _LABEL_KEY.fullmatch(key)
    if (
        not equals
        or found is None
        or len(found["name"]) > _MOST_LABEL
        or not _is_prefix(found["prefix"])
        or len(value) > _MOST_LABEL
        or not _LABEL_VALUE.fullmatch(value)
    ):
        raise InputError(f"not a label: {text!r}", hint="write KEY=VALUE, such as release=prometheus")
    return key, value


def _is_prefix(text: str | None) -> bool:
    return text is None or (len(text) <= _MOST_SUBDOMAIN + 1 and _SUBDOMAIN.fullmatch(text[:-1]) is not None)


def quantity(what: str, text: str) -> str:
    """Return an amount of cores or of memory.

    Args:
        what: ``cpu`` or ``memory``.
        text: as the user writes it.

    Raises:
        InputError: it is none, is nothing, or has no unit: ``512m`` of memory is half a byte, and ``4`` four bytes.
    """
    form, such = _AMOUNTS[what]
    found = form.fullmatch(text)
    if found is None or float(found[1]) == 0 or ("." in found[1] and found[3] == "m"):
        raise InputError(f"not an amount of {what}: {text!r}", hint=f"write {such}")
    return text
