"""What a request asks of a pretrained model: inputs and parameters, in the forms of the Hub and of TorchServe."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from handlers.batch.inputs import require
from handlers.errors import BadInputError, LoadError
from handlers.text.normalization import read_text

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_INPUTS = 10_000
# No tokenizer takes it, and JSON can have it.
_HALF = re.compile("[\ud800-\udfff]")


class Parameter(NamedTuple):
    """A parameter that a request may set: its default, a description of its values, and a test for one."""

    default: Any
    expected: str
    fits: Callable[[Any], bool]


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 1_000_000


def count(default: int | None, *, unlimited: bool = False) -> Parameter:
    """Return a parameter that is a whole number from 1 on; null, if it may be, stands for no limit."""
    if unlimited:
        return Parameter(default, "a whole number from 1 on, or null", lambda value: value is None or _is_count(value))
    return Parameter(default, "a whole number from 1 on", _is_count)


def flag(default: bool | None) -> Parameter:
    """Return a parameter that is true or false; None where a request that leaves it out means neither."""
    return Parameter(default, "true or false", lambda value: isinstance(value, bool))


def share(default: float) -> Parameter:
    """Return a parameter that is a number from 0 to 1."""
    return Parameter(default, "a number from 0 to 1", lambda value: type(value) in (int, float) and 0 <= value <= 1)


def choice(default: str | None, *values: str) -> Parameter:
    """Return a parameter that is one of a few words."""
    return Parameter(default, f"one of {', '.join(values)}", lambda value: isinstance(value, str) and value in values)


def text(default: str | None) -> Parameter:
    """Return a parameter that is a text."""
    return Parameter(default, "a text", lambda value: isinstance(value, str) and bool(value))


def texts(default: tuple[str, ...] = ()) -> Parameter:
    """Return a parameter that is a list of texts."""
    return Parameter(default, "a list of texts", _are_texts)


def text_or_texts(default: tuple[str, ...] | None, expected: str) -> Parameter:
    """Return a parameter that is a text, or a list of texts."""
    return Parameter(default, expected, lambda value: isinstance(value, str) or _are_texts(value))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one for one in value)


@dataclass(eq=False)
class Piece:
    """One input of the model, and afterwards its output.

    `features` are the model's arguments by name: numbers of one text without padding, or tensors without a batch
    dimension. Pieces of a like `length` run together. `about` is what the answer needs to know of the input.
    """

    features: dict[str, Any]
    length: int = 1
    about: Any = None
    output: Any = None


@dataclass(eq=False)
class Asked:
    """One request: its inputs, of which a `single` one is answered alone and not as a list, and its parameters.

    `pieces` are those of the model for each input.
    """

    inputs: Sequence[Any]
    single: bool
    parameters: Mapping[str, Any]
    pieces: list[list[Piece]] = field(default_factory=list)


def read_request(
    data: Any, fields: Mapping[str, Any], known: Mapping[str, Parameter], defaults: Mapping[str, Any], wanted: str
) -> Asked:
    """Read a request in one of these forms.

    - `{"inputs": ..., "parameters": {...}}`, the Hub's, where a list of inputs gets a list of answers;
    - an object that is the input itself, or has it as `text`, and a list of such;
    - anything else is the input: a text, or bytes.

    Args:
        data: the body, or what stands for it in a form.
        fields: the request's parameters by name, for errors.
        known: the parameters that the task has.
        defaults: their values where the request sets none.
        wanted: what to send, for errors.

    Raises:
        BadInputError: there is no input, or a parameter is wrong.
    """
    require(data, fields, wanted)
    value = parsed(data)
    given: Any = {}
    if isinstance(value, Mapping) and "inputs" in value:
        given = value.get("parameters") or {}
        if not isinstance(given, Mapping):
            raise BadInputError(f"parameters is {type(given).__name__}: send an object")
        value = value["inputs"]
        require(value, fields, wanted)
    inputs = value if isinstance(value, list) else [value]
    if not inputs or len(inputs) > _MOST_INPUTS:
        raise BadInputError(f"the list of inputs is {'too long' if inputs else 'empty'}: send {wanted}")
    return Asked(inputs, not isinstance(value, list), {**defaults, **checked(given, known)})


def parsed(data: Any) -> Any:
    """Return the JSON object that a body without a content type may be; anything else as it is."""
    if isinstance(data, bytes | bytearray | memoryview | str):
        head = bytes(data[:64]) if not isinstance(data, str) else data[:64].encode("utf-8", "replace")
        if head.lstrip()[:1] == b"{":
            try:
                found = json.loads(data if isinstance(data, str) else bytes(data))
            except (ValueError, RecursionError):
                return data
            return found if isinstance(found, dict) else data
    return data


def checked(given: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return a request's parameters.

    Raises:
        BadInputError: one is unknown, or its value is wrong.
    """
    for name, value in given.items():
        if name not in known:
            raise BadInputError(f"{str(name)[:40]!r} is no parameter; there are {', '.join(known) or 'none'}")
        if not known[name].fits(value):
            raise BadInputError(f"the parameter {name} is {_shown(value)}: send {known[name].expected}")
    return dict(given)


def defaults(section: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the parameters' values for requests that set none; the section `handler` may state them.

    Raises:
        LoadError: a value in the section is wrong.
    """
    found = {}
    for name, parameter in known.items():
        value = section.get(name, parameter.default)
        if name in section and not parameter.fits(value):
            raise LoadError(
                f"handler.{name} in model-config.yaml is {_shown(value)}", hint=f"write {parameter.expected}"
            )
        found[name] = value
    return found


def text_of(value: Any) -> str:
    """Return the text of one input.

    Raises:
        BadInputError: it is none.
    """
    found = read_text(value)
    if not found.isascii() and _HALF.search(found):
        raise BadInputError(
            "the text has half a character (a lone surrogate, such as \\ud83d in JSON): send whole ones"
        )
    return found


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."
