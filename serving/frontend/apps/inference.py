"""The inference API: what carries the load, before any router and without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from serving.frontend.apps import openinference
from serving.frontend.apps.answers import constant_headers, is_ours, new_id
from serving.frontend.apps.bodies import read_body
from serving.frontend.apps.exchange import App, Exchange
from serving.frontend.apps.inputs import deadline_of, fields, headers_of, inputs_of, priority_of, takes_long
from serving.frontend.apps.keys import Keys
from serving.frontend.apps.openai.errors import FormedError
from serving.frontend.apps.openai.routes import OpenAi, is_asked
from serving.frontend.apps.openapi import inference_document, model_document
from serving.frontend.apps.routing import NO_ROUTE, NO_WORKFLOWS
from serving.frontend.engine import Answering, Call
from serving.frontend.entrance import ANSWERED
from serving.frontend.errors import BadRequestError, FrontendError, NotImplementedHereError, ResourceNotFoundError
from serving.frontend.meters import Responses
from serving.frontend.settings import Settings
from serving.protocol import Parameter, Request

_EXPLAINED: Final = {False: {"explain": "False"}, True: {"explain": "True"}}


class InferenceApp(App):
    """The inference API over an engine."""

    def __init__(self, engine: Answering, settings: Settings, keys: Keys | None, meters: Responses) -> None:
        super().__init__(constant_headers(settings), meters)
        self._engine, self._keys = engine, keys
        self._most, self._most_answer = settings.max_request_size, settings.max_response_size
        self._version = openinference.version_of(settings)
        self._openai = OpenAi(engine, settings)
        self._under_way: set[str] = set()
        self._routes: dict[str, Callable[[Exchange], Awaitable[None]]] = {
            "predictions": self._predictions,
            "explanations": self._predictions,
            "ping": self._ping,
            "invocations": self._invocations,
            "models": self._invoke,
            "v1": self._v1,
            "v2": self._v2,
            "wfpredict": self._workflow,
        }
        # What says nothing of the models needs no key: a probe has none.
        self._open: dict[tuple[str, ...], Callable[[Exchange], Awaitable[None]]] = {
            (): self._api,
            ("api-description",): self._api,
            ("livez",): self._alive,
            ("readyz",): self._ready,
        }

    async def route(self, http: Exchange) -> None:
        """Answer a request.

        Raises:
            FrontendError: what is then the answer.
        """
        segments = http.segments
        if len(segments) < 2 and (found := self._open.get(tuple(segments))):
            await found(http)
            return
        if self._keys is not None:
            self._keys.check("inference", http.header(b"authorization"))
        await self._routes.get(segments[0], self._legacy)(http)

    # ---- routes ------------------------------------------------------------------------------------------------------

    async def _predictions(self, http: Exchange) -> None:
        kind, *names = http.segments
        if not names:
            raise ResourceNotFoundError(NO_ROUTE)
        explained = kind == "explanations"
        marks = {"url_path": "/".join(names[2:]), **_EXPLAINED[explained]}
        version = names[1] if len(names) > 1 else None
        await self._ask(http, names[0], version, marks, may_default=not explained)

    async def _ping(self, http: Exchange) -> None:
        if self._engine.healthy:
            await http.json({"status": "Healthy"})
        else:
            await http.json({"status": "Unhealthy"}, 500)

    async def _invocations(self, http: Exchange) -> None:
        if len(http.segments) > 1:
            raise ResourceNotFoundError(NO_ROUTE)
        given = (
            one.value.decode("utf-8", "replace") for one in fields(http.query, "query") if one.name == "model_name"
        )
        name = next(given, None)
        if not name:
            name = self._only_model() or name
        await self._ask(http, name, None, {}, query=True)

    async def _invoke(self, http: Exchange) -> None:
        if len(http.segments) != 3 or http.segments[2] != "invoke":
            raise ResourceNotFoundError(NO_ROUTE)
        await self._ask(http, http.segments[1], None, {}, query=True)

    async def _legacy(self, http: Exchange) -> None:
        name, *more = http.segments
        if not more or more[-1] != "predict" or len(more) > 2:
            raise ResourceNotFoundError(NO_ROUTE)
        await self._ask(http, name, more[0] if len(more) == 2 else None, {}, query=True)

    def in_form(self, http: Exchange, error: FrontendError) -> FrontendError:
        """Return an error as those routes answer it which have a form of their own."""
        return FormedError(error) if is_asked(http) else error

    async def _v1(self, http: Exchange) -> None:
        if is_asked(http):
            await (self._api if http.method == "OPTIONS" else self._openai.answer)(http)
            return
        if len(http.segments) != 3 or http.segments[1] != "models":
            await self._legacy(http)
            return
        name, _, action = http.segments[2].partition(":")
        if not action.startswith(("predict", "explain")):
            raise ResourceNotFoundError(NO_ROUTE)
        await self._ask(http, name, None, _EXPLAINED[action.startswith("explain")])

    async def _v2(self, http: Exchange) -> None:
        target = openinference.target_of(http.segments[1:])
        if target is None:
            await self._legacy(http)
        elif target.action in ("infer", "explain"):
            await self._ask(http, target.name, target.version, _EXPLAINED[target.action == "explain"])
        else:
            await http.json(*openinference.document_of(self._engine, target, self._version))

    async def _workflow(self, http: Exchange) -> None:  # noqa: ARG002 (as every route)
        raise NotImplementedHereError(NO_WORKFLOWS)

    async def _api(self, http: Exchange) -> None:
        await self.describe_api(http, inference_document(self._version))

    async def _alive(self, http: Exchange) -> None:
        await http.json({"status": "Alive"})

    async def _ready(self, http: Exchange) -> None:
        if self._engine.ready:
            await http.json({"status": "Ready"})
        else:
            await http.json({"status": "Not ready"}, 503)

    # ---- the way of a request ----------------------------------------------------------------------------------------

    async def _ask(
        self,
        http: Exchange,
        name: str | None,
        version: str | None,
        marks: dict[str, str],
        *,
        query: bool = False,
        may_default: bool = False,
    ) -> None:
        """Give a request to a model.

        Args:
            name: None where an input, ``model_name``, is to say it.
            marks: headers that the worker sees beside the client's.
            query: whether the parameters of the query are inputs, too.
            may_default: whether the model's default answer may be given.
        """
        deadline, priority = deadline_of(http), priority_of(http)
        body = await read_body(http, self._most)
        kind = http.header(b"content-type")
        if takes_long(kind, body):
            inputs = await asyncio.to_thread(inputs_of, kind, body)
        else:
            inputs = inputs_of(kind, body)
        if query:
            inputs = fields(http.query, "query") + inputs
        if name is None:
            name = _named(inputs)
        if http.method == "OPTIONS":
            (state, *_) = self._engine.describe(name, version)
            await http.json(model_document(state.name))
            return
        headers = headers_of(http, len(body))
        headers.update(marks)
        request = Request(self._begin(http) if http.own_id else http.request_id, headers, inputs)
        try:
            call = Call(name, version, request, deadline, priority, may_default)
            told = http.scope.get(ANSWERED, [])
            try:
                answer = await http.unless_gone(self._engine.predict(call))
            except FrontendError as error:
                told.append((name, version, error.headers, None))
                raise
            told.append((name, answer.version, answer.headers, answer.timings))
            await http.answer(answer, self._most_answer)
        finally:
            if http.own_id:
                self._under_way.discard(request.request_id)

    def _begin(self, http: Exchange) -> str:
        """Return the id that a worker knows a request by: the client's, unless another one has the same, or may get it.

        Answers are given out by it. Two of one id in a batch would be one's answer for the other.
        """
        taken = http.request_id in self._under_way or is_ours(http.request_id)
        request_id = new_id() if taken else http.request_id
        self._under_way.add(request_id)
        return request_id

    def _only_model(self) -> str | None:
        """Return the model that the server began with, if it is one."""
        found = [name for name, _ in self._engine.names() if self._engine.describe(name, None)[0].loaded_at_startup]
        return found[0] if len(found) == 1 else None


def inference_app(engine: Answering, settings: Settings, keys: Keys | None, meters: Responses) -> InferenceApp:
    """Make the inference API.

    Args:
        keys: None where requests need none.
    """
    return InferenceApp(engine, settings, keys, meters)


def _named(inputs: tuple[Parameter, ...]) -> str:
    for one in inputs:
        if one.name == "model_name":
            return one.value.decode("utf-8", "replace")
    raise BadRequestError("Parameter model_name is required.")
