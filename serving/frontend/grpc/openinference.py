"""The Open Inference Protocol: the server's and the models' state, as over HTTP, and inference with tensors."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from serving.frontend.apps import openinference
from serving.frontend.apps.answers import new_id
from serving.frontend.apps.exchange import whole_body
from serving.frontend.engine import Engine
from serving.frontend.errors import BadRequestError, FrontendError
from serving.frontend.grpc import messages
from serving.frontend.grpc.calls import Method
from serving.frontend.grpc.inference import ask
from serving.frontend.grpc.statuses import inference_refusal, missing
from serving.frontend.grpc.tensors import request_body, response_of
from serving.frontend.settings import Settings
from serving.protocol import Parameter, Request

#: Bytes of a request above which a thread writes its JSON.
_LARGE: Final = 16_384


class OpenInference:
    """The methods of the protocol over an engine."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings
        self._version = openinference.version_of(settings)
        self.methods: dict[str, Method] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model,
            "ModelInfer": self._infer,
        }

    async def _live(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (as every method)
        return self._told("ServerLive", openinference.Target("live"))

    async def _ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        return self._told("ServerReady", openinference.Target("ready"))

    async def _server(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        return self._told("ServerMetadata", openinference.Target("server"))

    async def _model_ready(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        if not request.name:
            raise missing("name")
        return self._told("ModelReady", openinference.Target("model-ready", request.name, request.version or None))

    async def _model(self, request: Any, context: Any) -> Any:  # noqa: ARG002
        if not request.name:
            raise missing("model_name")
        return self._told("ModelMetadata", openinference.Target("metadata", request.name, request.version or None))

    def _told(self, method: str, target: openinference.Target) -> Any:
        """Answer as over HTTP, with those fields that the response has."""
        made = messages.message(messages.OPEN_INFERENCE.methods_by_name[method].output_type.full_name)
        document, _ = openinference.document_of(self._engine, target, self._version)
        return made(**{name: value for name, value in document.items() if name in made.DESCRIPTOR.fields_by_name})

    async def _infer(self, request: Any, context: Any) -> Any:
        if not request.model_name:
            raise missing("model_name")
        if request.raw_input_contents:
            raise inference_refusal(
                BadRequestError("raw_input_contents are not read here: send contents of the inputs")
            )
        # Writing numbers takes a microsecond each, which others must not wait for.
        large = request.ByteSize() > _LARGE
        content = await asyncio.to_thread(request_body, request) if large else request_body(request)
        body = Parameter("body", content, "application/json")
        asked, most = Request(new_id(), {}, (body,)), self._settings.max_response_size
        try:
            answer = await ask(self._engine, request.model_name, request.model_version, asked, context, most)
        except FrontendError as error:
            raise inference_refusal(error) from error
        return response_of(await whole_body(answer, most))
