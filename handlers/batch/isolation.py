"""Isolation of bad requests: parts of a batch, and replies that are errors."""

from __future__ import annotations

import logging
import secrets
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from handlers.errors import RequestError, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from handlers.batch.prepared import Prepared
    from handlers.context import Context

logger = logging.getLogger(__name__)


class ReplyCountError(RuntimeError):
    """The handler's postprocess returned something other than a list with one item a request."""


@dataclass(frozen=True, eq=False)
class Failed:
    """A placeholder for the reply to a request that failed alone."""

    error: Exception


def require(items: list[Any]) -> list[Any]:
    """Return the replies if none has failed.

    Raises:
        Exception: the error of the first that has failed.
    """
    for item in items:
        if isinstance(item, Failed):
            raise item.error
    return items


def checked(output: Any, count: int) -> list[Any]:
    """Return the output of a handler for `count` requests, if it is a list with an item for each.

    Raises:
        ReplyCountError: it is something else.
    """
    if not isinstance(output, list):
        raise ReplyCountError(f"the handler gave {type(output).__name__} in place of a list")
    if len(output) != count:
        raise ReplyCountError(f"the handler gave {len(output)} items for {count} requests")
    return output


class Batch:
    """A batch that is answered so that each bad request fails alone.

    `rows` are the requests, or the rows that an envelope made of one request. `run` answers a list of rows, given what
    `prepare` made of them or None; `preprocess` is its first step. An item that `run` returns may be `Failed`. With
    `run_twice` false a failed batch is not run again in parts.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        context: Context,
        *,
        run: Callable[[Sequence[Any], Prepared | None], list[Any]],
        preprocess: Callable[[Sequence[Any]], Any],
        run_twice: bool,
    ) -> None:
        self._rows = rows
        self._context = context
        self._run = run
        self._preprocess = preprocess
        self._run_twice = run_twice
        self._one_request = len(rows) > 1 and len(context.request_processor) == 1

    def answer(self, indices: Sequence[int], prepared: Prepared | None = None) -> dict[int, Any]:
        """Answer some rows, together if possible; return the replies by index. `prepared` belongs to these rows."""
        items, error = self._try(indices, prepared)
        if error is None:
            return items
        if len(indices) == 1 or not self._run_twice:
            return {index: self._fail(error, index) for index in indices}
        logger.debug("A batch of %d failed (%s): looking for the bad requests", len(indices), type(error).__name__)
        good = []
        for index in indices:
            _, error = self._try([index], only_preprocess=True)
            if error is None:
                good.append(index)
            else:
                items[index] = self._fail(error, index)
        if good and len(good) < len(indices):
            answered, error = self._try(good)
            if error is None:
                return items | answered
        for index in good:
            answered, error = self._try([index])
            items |= answered if error is None else {index: self._fail(error, index)}
        return items

    def _try(
        self, indices: Sequence[int], prepared: Prepared | None = None, *, only_preprocess: bool = False
    ) -> tuple[dict[int, Any], Exception | None]:
        """Run some rows with a context that shows only them; return the replies by index, or the error."""
        whole = len(indices) == len(self._rows)
        rows = self._rows if whole else [self._rows[index] for index in indices]
        try:
            with nullcontext() if whole or self._one_request else part_of(self._context, indices):
                if only_preprocess:
                    self._preprocess(rows)
                    return {}, None
                items = dict(zip(indices, self._run(rows, prepared), strict=True))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return {}, error
        failed = {index: self._fail(item.error, index) for index, item in items.items() if isinstance(item, Failed)}
        return items | failed, None

    def _fail(self, error: Exception, index: int) -> dict[str, Any]:
        return error_item(error, self._context, 0 if self._one_request else index)


@contextmanager
def part_of(context: Context | None, indices: Sequence[int]) -> Iterator[None]:
    """Make the context show only some requests of the batch, numbered anew from 0."""
    if context is None:
        yield
        return
    metrics = getattr(context, "metrics", None)
    saved = [
        (owner, name, value)
        for owner, name in ((context, "request_processor"), (context, "request_ids"), (metrics, "request_ids"))
        if isinstance(value := getattr(owner, name, None), list | dict)
    ]
    try:
        for owner, name, value in saved:
            setattr(owner, name, _pick(value, indices))
        yield
    finally:
        for owner, name, value in saved:
            setattr(owner, name, value)


def _pick(values: Any, indices: Sequence[int]) -> Any:
    if isinstance(values, dict):
        return {new: values[old] for new, old in enumerate(indices) if old in values}
    return [values[index] for index in indices]


def error_item(error: Exception, context: Context, idx: int) -> dict[str, Any]:
    """Make the reply to a request that failed, and set its status.

    A `RequestError`, or TorchServe's PredictionException, is sent to the client. Of any other error the client gets
    only an id; the log has the traceback under that id.
    """
    if isinstance(error, RequestError):
        code, kind, message = error.status, type(error).__name__, str(error)
    elif hasattr(error, "message") and hasattr(error, "error_code"):
        code, kind, message = error.error_code, type(error).__name__, str(error.message)
    else:
        code, kind = 503, "InternalServerException"  # as TorchServe answers when a handler raises
        error_id = secrets.token_hex(4)
        message = f"Prediction failed. The server's log has the reason under the id {error_id}."
        logger.error("Error %s: request %s failed", error_id, _request_id(context, idx), exc_info=error)
    code = code if isinstance(code, int) and 200 <= code <= 599 else 500  # a negative one kills the frontend
    context.set_response_status(code=code, phrase=_phrase(code), idx=idx)
    context.set_response_content_type(idx, "application/json")
    return {"code": code, "type": kind, "message": message}


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return ""


def _request_id(context: Context, idx: int) -> str:
    ids = getattr(context, "request_ids", None)
    return str(ids.get(idx)) if isinstance(ids, dict) else str(idx)
