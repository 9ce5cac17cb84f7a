"""What a request for written text asks for: prompts, chats and parameters, in the forms of the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from handlers.batch.inputs import require
from handlers.errors import BadInputError, LoadError, TooLargeError
from handlers.pretrained import asking, lengths
from handlers.pretrained.asking import Parameter
from handlers.pretrained.generation.parameters import PARAMETERS

WANTED: Final = (
    'a text, or {"inputs": "...", "parameters": {...}}, or {"messages": [{"role": "user", "content": "..."}]}'
)
_KEYS: Final = ("inputs", "messages", "parameters", "stream", "text")
#: Keys of the Hub's that say how it runs the model, and of no meaning here.
_IGNORED: Final = ("options", "model")
_MOST_INPUTS: Final = 128
_MOST_MESSAGES: Final = 10_000
#: Settings of the section `handler`, and their defaults: tokens that a request may ask for, texts that are written at
#: once, and tokens that are remembered for them.
LIMITS: Final = {"most_new_tokens": 1024, "most_sequences": 32, "most_tokens": 65_536}


@dataclass(frozen=True)
class Wanted:
    """A request: texts, or a chat, and what was set of the parameters."""

    inputs: Sequence[str]
    messages: Sequence[Mapping[str, Any]] | None
    single: bool
    stream: bool
    parameters: Mapping[str, Any]


def read(
    data: Any, fields: Mapping[str, Any], defaults: Mapping[str, Any], known: Mapping[str, Parameter] = PARAMETERS
) -> Wanted:
    """Read a request; see `asking.read_request`.

    Raises:
        BadInputError: it asks for nothing, or a parameter is wrong.
    """
    require(data, fields, WANTED)
    value = asking.parsed(data)
    if not isinstance(value, Mapping):
        if isinstance(value, list):
            raise BadInputError(f"the body is a list: send {WANTED}")
        return Wanted([asking.text_of(value)], None, True, False, set_of({}, defaults, known))
    for name in value:
        if name not in (*_KEYS, *_IGNORED):
            raise BadInputError(f"{str(name)[:40]!r} is no key of a request; there are {', '.join(_KEYS)}")
    given = value.get("parameters") or {}
    if not isinstance(given, Mapping):
        raise BadInputError(f"parameters is {type(given).__name__}: send an object")
    stream = value.get("stream") or False
    if not isinstance(stream, bool):
        raise BadInputError(f"stream is {stream!r:.40}: send true or false")
    parameters = set_of(given, defaults, known)
    if value.get("messages") is not None:
        if value.get("inputs") is not None:
            raise BadInputError("there are inputs and messages: send one of them")
        return Wanted([], _messages(value["messages"]), True, stream, parameters)
    inputs = value.get("inputs", value.get("text"))
    require(inputs, fields, WANTED)
    texts = inputs if isinstance(inputs, list) else [inputs]
    if not texts or len(texts) > _MOST_INPUTS:
        raise BadInputError(f"there are {len(texts)} inputs: send 1 to {_MOST_INPUTS}")
    single = not isinstance(inputs, list)
    if stream and (not single or (parameters.get("num_return_sequences") or 1) > 1):
        raise BadInputError("a stream is of one text: send one as inputs, and no num_return_sequences")
    return Wanted([asking.text_of(one) for one in texts], None, single, stream, parameters)


def set_of(
    given: Mapping[str, Any], defaults: Mapping[str, Any], known: Mapping[str, Parameter] = PARAMETERS
) -> dict[str, Any]:
    """Return the parameters that the request or the archive sets; null is as if it was not there.

    Raises:
        BadInputError: one is unknown, or its value is wrong.
    """
    asked = {name: value for name, value in given.items() if value is not None or name not in known}
    merged = {**defaults, **asking.checked(asked, known)}
    return {name: value for name, value in merged.items() if value is not None}


def _messages(value: Any) -> list[dict[str, Any]]:
    """Read a chat; content in parts is joined, of which only texts are taken."""
    if not isinstance(value, list) or not value or len(value) > _MOST_MESSAGES:
        raise BadInputError('messages is no list of messages: send [{"role": "user", "content": "..."}]')
    found = []
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise BadInputError(f'messages[{index}] has no role: send {{"role": "user", "content": "..."}}')
        found.append({**message, "content": _content(message.get("content"), index)})
    return found


def _content(content: Any, index: int) -> str:
    if isinstance(content, str):
        return asking.text_of(content)
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(one, str) for one in texts):
        raise BadInputError(f'messages[{index}].content is no text: send one, or [{{"type": "text", "text": "..."}}]')
    return asking.text_of("".join(map(str, texts)))


def prompts_of(tokenizer: Any, wanted: Wanted, longest: int | None) -> list[list[int]]:
    """Return the tokens of a request's texts, or of its chat.

    Raises:
        BadInputError: one holds no token, or the model takes no chat.
        TooLargeError: one has more tokens than the model takes.
    """
    kept = wanted.parameters.get("truncate")
    if wanted.messages is not None:
        said = "\n".join(one["content"] for one in wanted.messages)
        _require_room(tokenizer, said, longest)
        return [cut(prompt_of_chat(tokenizer, wanted.messages), wanted.parameters, longest)]
    found = []
    for text in wanted.inputs:
        if kept is None or (longest is not None and kept >= longest):
            _require_room(tokenizer, text, longest)
        end = lengths.enough(tokenizer, text, kept, end=True)
        found.append(cut([*tokenizer(end, verbose=False)["input_ids"]], wanted.parameters, longest))
    return found


def _require_room(tokenizer: Any, text: str, longest: int | None) -> None:
    """Refuse a text that is far too long before all of it is made tokens of."""
    begin = lengths.enough(tokenizer, text, longest)
    if longest is not None and len(begin) < len(text):
        raise TooLargeError(
            f"the text has {len(text)} characters, which are more than {longest} tokens, and the model takes {longest} "
            "with those that it writes: send a shorter one, or the parameter truncate, the number of tokens at its end "
            "that are read, of a text that is no chat"
        )


def prompt_of_chat(tokenizer: Any, messages: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the tokens of a chat, as the model's own template writes it; an answer that was begun is gone on with.

    Raises:
        BadInputError: the model has no template, or it refuses the chat.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise BadInputError("the model has no chat template, so it takes no messages: send inputs")
    begun = messages[-1]["role"] == "assistant"
    try:
        found = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=not begun, continue_final_message=begun, return_dict=False
        )
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # of the template, which is the model's, and of its sandbox
        raise BadInputError(f"the model's chat template refuses the messages: {str(error)[:300]}") from error
    return [*found]


def cut(prompt: list[int], parameters: Mapping[str, Any], longest: int | None) -> list[int]:
    """Return the end of a prompt, if the request wants it cut.

    Raises:
        BadInputError: it holds no token.
        TooLargeError: it has more tokens than the model takes.
    """
    if "truncate" in parameters:
        prompt = prompt[-parameters["truncate"] :]
    if not prompt:
        raise BadInputError("the text holds no token")
    if longest is not None and len(prompt) >= longest:
        raise TooLargeError(
            f"the text has {len(prompt)} tokens, and the model takes {longest} with those that it writes: send a "
            "shorter one, or the parameter truncate, the number of tokens at its end that are read"
        )
    return prompt


def limits_of(section: Mapping[str, Any]) -> dict[str, int]:
    """Return the limits, by the section `handler` of model-config.yaml.

    Raises:
        LoadError: one is no number.
    """
    found = {name: section.get(name, default) for name, default in LIMITS.items()}
    for name, value in found.items():
        if type(value) is not int or not 1 <= value <= 10**9:
            raise LoadError(
                f"handler.{name} in model-config.yaml is {value!r:.80}", hint="write a whole number from 1 on"
            )
    return found


def most(
    prompt: Sequence[int], given: Mapping[str, Any], longest: int | None, limits: Mapping[str, int], stated: int
) -> int:
    """Return how many tokens are written at most.

    Args:
        prompt: what they follow.
        given: parameters that are set.
        longest: tokens that the model takes.
        limits: see `LIMITS`.
        stated: what holds where the request sets nothing, as far as there is room.

    Raises:
        BadInputError: the request asks for more than it may, or than the model has room for.
    """
    allowed = limits["most_new_tokens"]
    room = (longest or 10**9) - len(prompt)
    for name in ("max_new_tokens", "min_new_tokens"):
        if given.get(name, 0) > allowed:
            raise BadInputError(f"{name} is {given[name]}: at most {allowed} are written for a request")
    found: int = given.get("max_new_tokens", given.get("max_length", stated + len(prompt)) - len(prompt))
    if "max_new_tokens" in given and found > room:
        raise BadInputError(
            f"max_new_tokens is {found} after a text of {len(prompt)} tokens: the model takes {longest} together"
        )
    if found < 1:
        raise BadInputError(f"max_length is {given['max_length']}, and the text has {len(prompt)} tokens")
    return min(found, room, allowed)
