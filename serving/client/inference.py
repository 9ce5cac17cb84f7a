"""The inference API (port 8080): ping and predictions."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from archive_tool.building import samples
from serving.answers import decode
from serving.client.transport import Address, Transport, error_of, model_path
from serving.errors import ReplyError


@dataclass(frozen=True)
class Prediction:
    """The answer to one input.

    Attributes:
        source: file or other name of the input.
        status: HTTP status, 0 when there was no answer.
        seconds: from sending the first byte to having the last one.
        answer: parsed JSON, text, or bytes; None for an error.
        error: the server's message, None when it answered.
        hint: what to do about the error, where that is known.
    """

    source: str
    status: int
    seconds: float
    answer: Any
    error: str | None
    hint: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the model answered."""
        return self.error is None


class InferenceClient:
    """Typed calls of the inference API."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def at(cls, address: str, *, timeout_s: float = 120.0, token: str | None = None) -> InferenceClient:
        """Return a client of the server at ``address``, such as ``http://127.0.0.1:8080``."""
        return cls(Transport(Address(address), timeout_s=timeout_s, token=token))

    def __enter__(self) -> InferenceClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._transport.close()

    def ping(self) -> bool:
        """Return whether the server calls itself healthy.

        Raises:
            NotRunningError: the server does not listen.
        """
        reply = self._transport.request("GET", "/ping")
        return reply.status == 200

    def predict(
        self,
        name: str,
        body: bytes,
        *,
        version: str | None = None,
        content_type: str = "application/octet-stream",
        source: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Send one input; an error of the model comes back in the result, not as an exception.

        Args:
            headers: further ones; a content type among them counts in place of `content_type`.

        Raises:
            NotRunningError: the server does not listen.
        """
        path = model_path("predictions", name, version)
        named = {"content-type": content_type} | {key.lower(): value for key, value in (headers or {}).items()}
        try:
            reply = self._transport.request("POST", path, body=body, headers=named)
        except ReplyError as error:
            return Prediction(source, error.status, 0.0, None, error.message, error.hint)
        if reply.status >= 400:
            told = error_of(reply, path)
            return Prediction(source, reply.status, reply.seconds, None, told.message, told.hint)
        return Prediction(source, reply.status, reply.seconds, decode(reply.body, reply.content_type), None)

    def predict_files(
        self,
        name: str,
        files: Sequence[Path],
        *,
        version: str | None = None,
        headers: Mapping[str, str] | None = None,
        parallel: int = 8,
    ) -> Iterator[Prediction]:
        """Send files side by side and yield the answers in the order of the files; ``-`` is standard input.

        Raises:
            OSError: a file cannot be read.
            NotRunningError: the server does not listen.
        """

        def one(file: Path) -> Prediction:
            body = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
            kind = content_type_of(file)
            return self.predict(name, body, version=version, content_type=kind, source=str(file), headers=headers)

        yield from _side_by_side(one, files, max(1, min(parallel, len(files))))


T = TypeVar("T")


def _side_by_side(call: Callable[[Path], T], inputs: Sequence[Path], threads: int) -> Iterator[T]:
    """Yield results in the order of the inputs.

    The threads are daemons: an interrupted command ends at once, not when a slow model has answered. (Those of
    concurrent.futures are waited for when the interpreter ends.)
    """
    results: list[Future[T]] = [Future() for _ in inputs]
    todo = iter(list(zip(inputs, results, strict=True)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                job = next(todo, None)
            if job is None:
                return
            try:
                job[1].set_result(call(job[0]))
            except BaseException as error:  # the caller that asks for the result gets it
                job[1].set_exception(error)

    for _ in range(threads):
        threading.Thread(target=work, daemon=True).start()
    for result in results:
        yield result.result()


def content_type_of(file: Path) -> str:
    """Return the MIME type by the file's name; the frontend passes it on, and decodes JSON and text by it."""
    return samples.content_type_of(file.name)
