"""The parameters of a request for written text, by the names of GenerationConfig and of the Hub's inference API."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from handlers.pretrained import asking
from handlers.pretrained.asking import Parameter

#: New tokens of a text, where neither request nor model limits them.
STATED: Final = 256
#: A temperature below which the most probable token is as good as certain, and scores grow beyond all bounds.
_COLDEST: Final = 1e-5
_MOST_STOPS: Final = 16
_MOST_TOKENS: Final = 10_000


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _number(expected: str, fits: Callable[[float], bool]) -> Parameter:
    return Parameter(None, expected, lambda value: _is_number(value) and fits(value))


def _whole(expected: str, low: int, high: int) -> Parameter:
    return Parameter(None, expected, lambda value: type(value) is int and low <= value <= high)


def _is_token(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= _MOST_TOKENS and all(map(_is_token, value))


def _is_stop(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return (
        isinstance(texts, list)
        and len(texts) <= _MOST_STOPS
        and all(isinstance(one, str) and 0 < len(one) <= 1000 for one in texts)
    )


def _is_bias(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= _MOST_TOKENS
        and all(
            isinstance(pair, list)
            and len(pair) == 2
            and _are_tokens(pair[0])
            and _is_number(pair[1])
            and abs(pair[1]) < 10**6
            for pair in value
        )
    )


_FLAG: Final = asking.flag(None)
_TOKENS: Final = Parameter(None, "a list of numbers of tokens", _are_tokens)
_PENALTY: Final = _number("a number from -2 to 2", lambda value: -2 <= value <= 2)

#: Those of `generate` that all models have that write.
GENERATE: Final[Mapping[str, Parameter]] = {
    "max_new_tokens": asking.count(None),
    "min_new_tokens": asking.count(None),
    "max_length": asking.count(None),
    "min_length": asking.count(None),
    "num_beams": asking.count(None),
    "do_sample": _FLAG,
    "early_stopping": _FLAG,
    "temperature": _number(f"a number from {_COLDEST:.5f} on", lambda value: _COLDEST <= value < 1000),
    "top_k": asking.count(None),
    "top_p": _number("a number above 0, to 1", lambda value: 0 < value <= 1),
    "repetition_penalty": _number("a number above 0", lambda value: 0 < value < 1000),
    "length_penalty": _number("a number from -100 to 100", lambda value: abs(value) <= 100),
    "no_repeat_ngram_size": asking.count(None),
    "seed": _whole("a whole number from 0 on", 0, 2**63 - 1),
}
#: Those that go into the GenerationConfig of a text that is written on.
CONFIG: Final[Mapping[str, Parameter]] = {
    **{name: one for name, one in GENERATE.items() if name != "seed"},
    "temperature": _number("a number from 0 on; 0 takes the most probable token", lambda value: 0 <= value < 1000),
    "top_k": _whole("a whole number from 0 on; 0 for no limit", 0, 10**6),
    "no_repeat_ngram_size": _whole("a whole number from 0 on", 0, 1000),
    "min_p": _number("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "typical_p": _number("a number above 0, to 1", lambda value: 0 < value <= 1),
    "epsilon_cutoff": _number("a number from 0 to 1", lambda value: 0 <= value < 1),
    "eta_cutoff": _number("a number from 0 to 1", lambda value: 0 <= value < 1),
    "renormalize_logits": _FLAG,
    "remove_invalid_values": _FLAG,
    "suppress_tokens": _TOKENS,
    "begin_suppress_tokens": _TOKENS,
    "bad_words_ids": Parameter(
        None,
        "a list of lists of numbers of tokens",
        lambda value: isinstance(value, list) and 0 < len(value) <= _MOST_TOKENS and all(map(_are_tokens, value)),
    ),
    "sequence_bias": Parameter(None, "a list of pairs: numbers of tokens, and what is added to their score", _is_bias),
    "exponential_decay_length_penalty": Parameter(
        None,
        "a pair: a number of tokens, and a number from 1 on",
        lambda value: (
            isinstance(value, list)
            and len(value) == 2
            and _is_token(value[0])
            and _is_number(value[1])
            and 1 <= value[1] < 1000
        ),
    ),
}
#: All of a text that is written on.
PARAMETERS: Final[Mapping[str, Parameter]] = {
    **CONFIG,
    "num_return_sequences": _whole("a whole number from 1 to 16", 1, 16),
    "frequency_penalty": _PENALTY,
    "presence_penalty": _PENALTY,
    "max_time": _number("a number of seconds above 0", lambda value: 0 < value < 10**6),
    "seed": GENERATE["seed"],
    "stop": Parameter(None, f"a text, or a list of at most {_MOST_STOPS}", _is_stop),
    "truncate": asking.count(None),
    "return_full_text": _FLAG,
    "details": _FLAG,
    "logprobs": _FLAG,
    "top_n_tokens": _whole("a whole number from 0 to 20", 0, 20),
}
#: Who sets one of these without saying `do_sample` wants tokens to be drawn.
_DRAWING: Final = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")


def seed_of(given: Mapping[str, Any], number: int) -> int:
    """Return the seed of one of the texts that a request wants of a prompt: its own and those that follow it."""
    return int((given.get("seed", secrets.randbits(63)) + number) % 2**63)


def stops_of(given: Mapping[str, Any]) -> list[str]:
    """Return the texts at which a request wants to stop."""
    stops = given.get("stop", [])
    return [stops] if isinstance(stops, str) else stops


def ends_of(config: Any) -> frozenset[int]:
    """Return the tokens that end a text, by a GenerationConfig."""
    ends = config.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def is_coldest(given: Mapping[str, Any]) -> bool:
    """Return whether the temperature is 0, or as good as that."""
    return bool(given.get("temperature", 1.0) < _COLDEST)


def draws(given: Mapping[str, Any]) -> bool | None:
    """Return whether a request wants tokens to be drawn; None where it leaves that to the model."""
    if is_coldest(given):
        return False
    stated: bool | None = given.get("do_sample")
    return True if stated is None and any(name in given for name in _DRAWING) else stated
