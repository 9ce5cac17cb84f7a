"""Replies with written texts: at once, or as server-sent events, in the Hub's forms."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from handlers.errors import RequestError
from handlers.pretrained.generation.reading import Wanted
from handlers.pretrained.generation.sequence import Written

EVENTS: Final = "text/event-stream"
PLAIN: Final = "text/plain; charset=utf-8"


@dataclass(eq=False)
class Generation:
    """One request: the texts that are written for it.

    Attributes:
        texts: of each input, one for each answer that is asked for.
        before: of each text, what the answer repeats of its input.
        single: whether the input was not a list.
        stream: the content type of a reply in parts; None for one at once.
        details: whether the reply tells how each text came about.
        listed: whether the details list the tokens.
        sent: pieces and tokens that were sent.
        begun: whether a part of the reply has left.
    """

    texts: list[list[Written]]
    before: list[str]
    single: bool = True
    stream: str | None = None
    details: bool = False
    listed: bool = False
    sent: int = field(default=0)
    begun: bool = False

    @property
    def all(self) -> list[Written]:
        """All of its texts."""
        return [one for group in self.texts for one in group]

    @property
    def over(self) -> bool:
        """Whether all of its texts are written, or one of them cannot be."""
        return self.error is not None or all(one.over for one in self.all)

    @property
    def error(self) -> Exception | None:
        """Why one of its texts cannot be written."""
        return next((one.error for one in self.all if one.error is not None), None)

    def whole(self) -> Any:
        """Return the reply at once: a list for each input, alone if there was one."""
        answers = [
            [self._answer(one, before) for one in group] for group, before in zip(self.texts, self.before, strict=True)
        ]
        return answers[0] if self.single else answers

    def _answer(self, one: Written, before: str) -> dict[str, Any]:
        answer: dict[str, Any] = {"generated_text": before + one.text.text}
        if self.details:
            answer["details"] = details(one, listed=self.listed)
        return answer

    def part(self) -> str:
        """Return what was written since the last part of the reply."""
        ((one,),) = self.texts
        begin, self.sent = self.sent, len(one.pieces)
        if self.stream == PLAIN:
            return "".join(one.pieces[begin:])
        events: list[dict[str, Any]] = [
            {"token": token, "generated_text": None, "details": None} for token in one.tokens[begin:]
        ]
        if one.over and events:
            events[-1]["generated_text"] = self.before[0] + one.text.text
            events[-1]["details"] = details(one, listed=False)
        return "".join(map(event, events))


def generation(texts: list[list[Written]], wanted: Wanted, stream: str | None) -> Generation:
    """Return the request of texts that are to be written, with what it wants of the reply."""
    given = wanted.parameters
    full = given.get("return_full_text", stream is None) and wanted.messages is None
    return Generation(
        texts,
        list(wanted.inputs) if full else [""] * len(texts),
        single=wanted.single,
        stream=stream,
        details=bool(given.get("details")),
        listed=tells_tokens(wanted.parameters, None),
    )


def tells_tokens(given: Mapping[str, Any], stream: str | None) -> bool:
    """Return whether each token is told."""
    return stream == EVENTS or bool(given.get("logprobs") or given.get("top_n_tokens"))


def details(one: Written, *, listed: bool) -> dict[str, Any]:
    """Return how a text came about."""
    found = {
        "finish_reason": one.finish,
        "prompt_tokens": len(one.prompt),
        "generated_tokens": len(one.new),
        "seed": one.seed,
    }
    return {**found, "tokens": one.tokens} if listed else found


def event(value: Any) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def failure(error: Exception) -> str:
    """Return the event that ends a reply that has begun: the client's status is sent already."""
    known = isinstance(error, RequestError)
    said = str(error) if known else "The text cannot be written on. The server's log has the reason."
    return event({"error": said, "error_type": type(error).__name__ if known else "InternalServerException"})


def stream_of(asked: bool, headers: dict[str, str], *, is_grpc: bool) -> str | None:
    """Return the content type of a reply in parts, or None where it comes at once: gRPC takes one reply."""
    if not asked or is_grpc:
        return None
    accepted: Sequence[str] = [one.split(";")[0].strip() for one in headers.get("accept", "").split(",")]
    return PLAIN if "text/plain" in accepted and EVENTS not in accepted else EVENTS
