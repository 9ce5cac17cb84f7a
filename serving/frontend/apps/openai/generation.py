"""Text that a model writes: what chats and completions have in common, from their parameters to their tokens.

The archive's side of it is the form of Hugging Face's text generation, see docs/pretrained.md: a request has `inputs`
or `messages`, `parameters` and `stream`; the answer is `[{"generated_text": ..., "details": {...}}]`, or an event for
each token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from archive_tool import json_text
from serving.frontend.apps.openai.errors import ParameterError
from serving.frontend.apps.openai.parameters import Given
from serving.frontend.errors import InternalError

#: Texts that one request may ask for: each is a request of the archive's own.
MOST_TEXTS: Final = 64
_MOST_TOKENS: Final = 10_000_000
_MOST_STOPS: Final = 16
# Characters of one. It goes with each text that is asked for.
_MOST_STOP: Final = 1000
# Those beside OpenAI's own are what other servers of its routes take, too.
_PENALTIES: Final = {"frequency_penalty": (-2, 2), "presence_penalty": (-2, 2), "repetition_penalty": (0, 100)}
_SEED: Final = 2**63 - 1
#: What an answer must be.
FORM: Final = '[{"generated_text": "..."}]'
# As at OpenAI: JSON has no infinity.
_IMPOSSIBLE: Final = -9999.0
_STOPS: Final = frozenset({"eos_token", "stop_sequence", "stop"})


@dataclass(frozen=True)
class Wanted:
    """What a request asks for.

    Attributes:
        model: that is asked.
        prompts: each with its key, ``inputs`` or ``messages``.
        parameters: of the archive's form.
        count: texts for each prompt.
        top: of how many other tokens at each place the probabilities are wanted; None for none at all.
        stream: whether the answer comes in parts.
        usage: whether a stream ends with the numbers of tokens.
    """

    model: str
    prompts: Sequence[Mapping[str, Any]]
    parameters: Mapping[str, Any]
    count: int
    top: int | None
    stream: bool
    usage: bool

    def bodies(self) -> list[bytes]:
        """Return the requests of the archive: for each prompt so many, and each of those with a seed of its own."""
        seed = self.parameters.get("seed")

        def body(prompt: Mapping[str, Any], **more: int) -> bytes:
            return json_text.dumps({**prompt, "parameters": {**self.parameters, **more}, "stream": self.stream})

        if seed is None:
            return [one for prompt in self.prompts for one in [body(prompt)] * self.count]
        return [body(prompt, seed=(seed + n) & _SEED) for prompt in self.prompts for n in range(self.count)]


@dataclass(frozen=True)
class Token:
    """A token that the model wrote.

    Attributes:
        text: of it; empty where only a later one completes its character.
        logprob: logarithm of its probability; None where nobody has asked for it.
        top: texts and logarithms of the most probable tokens in its place.
    """

    text: str
    logprob: float | None
    top: Sequence[tuple[str, float | None]] = ()


@dataclass(frozen=True)
class Piece:
    """A part of a text, or the whole of it.

    Attributes:
        text: that is new.
        tokens: that it consists of, as far as they are known.
        finish: why the text ends here, in OpenAI's words; None where it goes on.
        prompt_tokens, written_tokens: their numbers in all, at the end; 0 where the archive does not tell.
    """

    text: str
    tokens: Sequence[Token] = ()
    finish: str | None = None
    prompt_tokens: int = 0
    written_tokens: int = 0


def understand(given: Given, prompts: Sequence[Mapping[str, Any]], most: int | None, top: int | None) -> Wanted:
    """Understand what both kinds of requests have in common; all members must have been taken by now but for these.

    Args:
        given: the request.
        prompts: that it has.
        most: tokens that it wants at the most; None for as many as the archive writes unasked.
        top: see `Wanted`.

    Raises:
        ParameterError: a member is unknown, or not what it must be.
    """
    model = given.text("model")
    count = given.whole("n", 1, MOST_TEXTS) or 1
    if count * len(prompts) > MOST_TEXTS:
        raise ParameterError("n", f"the request asks for {count * len(prompts)} texts: at most {MOST_TEXTS} at once")
    stream = given.flag("stream") or False
    options = given.inner("stream_options")
    usage = options.flag("include_usage") or False
    options.flag("include_obfuscation")  # it would fill events up: there is nothing to hide from who sees all of them
    options.end()
    parameters = _sampling(given, count)
    given.end()
    if most is not None:
        parameters["max_new_tokens"] = most
    if top is not None:
        parameters["logprobs"] = True
        if top:
            parameters["top_n_tokens"] = top
    parameters |= {"details": True, "return_full_text": False}
    return Wanted(model, prompts, parameters, count, top, stream, usage)


def tokens_of(given: Given, *names: str) -> int | None:
    """Return how many tokens may be written, by the first of these names that is there."""
    found = [number for name in names if (number := given.whole(name, 1, _MOST_TOKENS)) is not None]
    return found[0] if found else None


def _sampling(given: Given, count: int) -> dict[str, Any]:
    """Return how tokens are chosen. What the request does not say is as the archive has it."""
    found: dict[str, Any] = {}
    temperature, share = given.number("temperature", 0, 2), given.number("top_p", 0, 1)
    if 0 in (temperature, share):
        found["do_sample"] = False
    elif temperature is not None or share is not None or count > 1:
        found["do_sample"] = True
        if temperature is not None:
            found["temperature"] = temperature
        if share is not None:
            found["top_p"] = share
    for name, (least, most) in _PENALTIES.items():
        if penalty := given.number(name, least, most):
            found[name] = penalty
    if (seed := given.whole("seed", -_SEED - 1, _SEED)) is not None:
        found["seed"] = seed & _SEED
    stop = given.take("stop")
    if stop is not None:
        stops = [stop] if isinstance(stop, str) else stop
        if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
            raise given.wrong("stop", "a text, or a list of texts")
        if len(stops) > _MOST_STOPS or any(len(one) > _MOST_STOP for one in stops):
            raise given.wrong("stop", f"at most {_MOST_STOPS} texts, each of at most {_MOST_STOP} characters")
        if stops:
            found["stop"] = stops
    return found


# ---- what the archive answers ----------------------------------------------------------------------------------------


def text_of(answer: Any) -> Piece | None:
    """Understand an answer, or a part of it that has the whole text; None if it is of another form."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict) or not isinstance(answer.get("generated_text"), str):
        return None
    details = answer.get("details")
    details = details if isinstance(details, dict) else {}
    reason = details.get("finish_reason")
    return Piece(
        answer["generated_text"],
        _tokens(details.get("tokens")),
        "stop" if reason is None or reason in _STOPS else "length",
        _number(details.get("prompt_tokens")),
        _number(details.get("generated_tokens")),
    )


class Following:
    """A text that comes in events."""

    def __init__(self) -> None:
        self._sent = ""

    def piece(self, event: Any) -> Piece | None:
        """Understand the next event; None if it is of another form.

        Raises:
            InternalError: it says that the model has failed.
        """
        if isinstance(event, dict) and isinstance(event.get("error"), str):
            raise InternalError(event["error"])
        end = text_of(event)
        tokens: Sequence[Token] = end.tokens if end is not None else ()
        text = ""
        if isinstance(event, dict) and isinstance(event.get("token"), dict):
            tokens = _tokens([event["token"]])
            text = "".join(token.text for token in tokens)
        elif end is None:
            return None
        self._sent += text
        if end is None:
            return Piece(text, tokens)
        # What the events did not have, such as an answer in one piece; what has left cannot be taken back.
        rest = end.text[len(self._sent) :] if end.text.startswith(self._sent) else ""
        return Piece(text + rest, tokens, end.finish, end.prompt_tokens, end.written_tokens)


def _tokens(given: Any) -> list[Token]:
    """Return tokens but for those that are no text, such as that of the end."""
    listed = given if isinstance(given, list) else []
    return [
        Token(one["text"], _logprob(one), [(other["text"], _logprob(other)) for other in one.get("top") or ()])
        for one in listed
        if isinstance(one, dict) and isinstance(one.get("text"), str) and not one.get("special")
    ]


def _logprob(token: Mapping[str, Any]) -> float | None:
    value = token.get("logprob")
    if not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else _IMPOSSIBLE


def _number(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
