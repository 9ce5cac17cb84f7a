"""The management API: models and their workers. A number that is not above 0, or an empty text, means the default."""

from __future__ import annotations

from typing import Any

import grpc

from serving.frontend.apps.answers import json_body, new_id
from serving.frontend.apps.management import customized, described, page_of
from serving.frontend.apps.parameters import Parameters, registration_of
from serving.frontend.engine import Call, Done, Engine
from serving.frontend.errors import BadRequestError, FrontendError
from serving.frontend.grpc.calls import Method
from serving.frontend.grpc.messages import ManagementResponse
from serving.frontend.grpc.statuses import RefusedError, inference_refusal
from serving.frontend.settings import Settings
from serving.protocol import Request

_DISABLED = "Model API disabled"


class Management:
    """The methods of the management API over an engine."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings
        self.methods: dict[str, Method] = {
            "DescribeModel": self._describe,
            "ListModels": self._list,
            "RegisterModel": self._register,
            "ScaleWorker": self._scale,
            "SetDefault": self._set_default,
            "UnregisterModel": self._unregister,
        }

    async def _describe(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (as every method)
        name, version = request.model_name, request.model_version or None
        if version == "all" or not request.customized:
            return _json([described(state) for state in self._engine.describe(name, version)])
        call = Call(name, version, Request(new_id(), {"describe": "True"}))
        try:
            document, _ = await customized(self._engine, call, self._settings.max_response_size)
        except FrontendError as error:
            raise inference_refusal(error) from error
        return _json([document])

    async def _list(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        limit = request.limit if request.limit > 0 else None
        return _json(page_of(self._engine, limit, max(0, request.next_page_token)))

    async def _register(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        self._need_model_api()
        given = {field.name: value for field, value in request.ListFields() if isinstance(value, str) or value > 0}
        wanted = registration_of(Parameters({**given, "synchronous": request.synchronous}))
        return _done(await self._engine.register(wanted))

    async def _scale(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        least = request.min_worker if request.min_worker > 0 else 1
        most = request.max_worker if request.max_worker > 0 else None
        name, version = request.model_name, request.model_version or None
        return _done(await self._engine.scale(name, version, least, most, synchronous=request.synchronous))

    async def _set_default(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        return _done(await self._engine.set_default(request.model_name, request.model_version))

    async def _unregister(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        self._need_model_api()
        if not request.model_name:
            raise BadRequestError("Parameter model_name is required.")
        return _done(await self._engine.unregister(request.model_name, request.model_version or None))

    def _need_model_api(self) -> None:
        if not self._settings.enable_model_api:
            kind = "org.pytorch.serve.archive.model.ModelException"
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, _DISABLED, kind)


def _json(document: Any) -> Any:
    return ManagementResponse(msg=json_body(document)[:-1].decode())


def _done(done: Done) -> Any:
    return ManagementResponse(msg=done.message)
