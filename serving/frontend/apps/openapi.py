"""The description of the APIs: one OpenAPI document of each, as ``OPTIONS /`` and ``/api-description`` give it."""

from __future__ import annotations

from typing import Any, Final

#: Prometheus' text format.
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer"}
_FLAG: Final = {"type": "boolean"}
_TEXT_OR_TEXTS: Final = {"oneOf": [_TEXT, {"type": "array", "items": _TEXT}]}


def inference_document(version: str) -> dict[str, Any]:
    """Describe the inference API.

    Args:
        version: of the server.
    """
    ask = "Asks the default version of a model."
    paths: dict[str, Any] = {
        "/": {"options": _described("apiDescription")},
        "/api-description": {"get": _described("api-description")},
        "/ping": {"get": _operation("ping", "Whether every model has the workers that it wants.", {200: "Status"})},
        "/livez": {"get": _operation("livez", "Whether the server runs.", {200: "Status"})},
        "/readyz": {
            "get": _operation(
                "readyz",
                "Whether every model has a ready worker and requests are taken.",
                {200: "Status", 503: "Status"},
            )
        },
        "/predictions/{model_name}": {"post": _ask("predictions", ask)},
        "/predictions/{model_name}/{model_version}": {
            "post": _ask("version_predictions", "Asks a version of a model.")
        },
        "/explanations/{model_name}": {"post": _ask("explanations", "Asks for an explanation.")},
        "/explanations/{model_name}/{model_version}": {
            "post": _ask("version_explanations", "Asks a version for an explanation.")
        },
        "/invocations": {
            "post": _ask("invocations", ask, _query("model_name", _TEXT, "May be a field of a form, too."))
        },
        "/models/{model_name}/invoke": {"post": _ask("invoke", ask)},
        "/{model_name}/predict": {"post": _ask("predict", ask) | {"deprecated": True}},
        "/{model_name}/{model_version}/predict": {"post": _ask("version_predict", ask) | {"deprecated": True}},
        "/v1/models/{model_name}:predict": {"post": _ask("v1_predict", ask)},
        "/v1/models/{model_name}:explain": {"post": _ask("v1_explain", "Asks for an explanation.")},
        **_paths_of_openai(),
        "/v2": {"get": _operation("v2", "About the server.", {200: "Object"})},
        "/v2/health/live": {"get": _operation("v2_live", "Whether the server runs.", {200: "Object"})},
        "/v2/health/ready": {
            "get": _operation("v2_ready", "Whether models can be asked.", {200: "Object", 503: "Object"})
        },
    }
    for prefix, id_ in (
        ("/v2/models/{model_name}", "v2"),
        ("/v2/models/{model_name}/versions/{model_version}", "v2_version"),
    ):
        paths[prefix] = {"get": _operation(f"{id_}_metadata", "About a model.", {200: "Object", 404: "Error"})}
        paths[f"{prefix}/ready"] = {
            "get": _operation(f"{id_}_model_ready", "Whether a model can be asked.", {200: "Object", 503: "Object"})
        }
        paths[f"{prefix}/infer"] = {"post": _ask(f"{id_}_infer", ask)}
        paths[f"{prefix}/explain"] = {"post": _ask(f"{id_}_explain", "Asks for an explanation.")}
    return _document("TorchServe APIs", version, paths)


def _paths_of_openai() -> dict[str, Any]:
    ready = {200: "Object", 404: "OpenAIError", 503: "OpenAIError"}
    return {
        "/v1/models": {
            "get": _operation("v1_models", "The models, by OpenAI's keys and by KServe's.", {200: "Object"})
        },
        "/v1/models/{model_name}": {"get": _operation("v1_model", "A model, once it can be asked.", ready)},
        "/v1/chat/completions": {
            "post": _ask_openai(
                "createChatCompletion",
                "The next message of a chat, as OpenAI's API has it.",
                {"messages": {"type": "array", "items": {"type": "object"}}},
            )
        },
        "/v1/completions": {
            "post": _ask_openai(
                "createCompletion", "What follows texts, as OpenAI's API has it.", {"prompt": _TEXT_OR_TEXTS}
            )
        },
        "/v1/embeddings": {
            "post": _ask_openai(
                "createEmbedding", "Vectors of texts, as OpenAI's API has them.", {"input": _TEXT_OR_TEXTS}
            )
        },
    }


def management_document(version: str) -> dict[str, Any]:
    """Describe the management API.

    Args:
        version: of the server.
    """
    paths = {
        "/": {"options": _described("apiDescription")},
        "/api-description": {"get": _described("api-description")},
        "/models": {"get": _list(), "post": _register()},
        **_paths_of_model(),
        "/v1/models/{model_name}": {
            "get": _operation("v1_ready", "Whether a model can be asked.", {200: "Object", 404: "Error"})
        },
        "/token": {
            "get": _operation(
                "token",
                "Makes a new key, which is in the key file then; needs the API key.",
                {200: "", 400: "Error"},
                _query(
                    "type", _TEXT | {"enum": ["inference", "management"]}, "The API that the key is for.", needed=True
                ),
            )
        },
    }
    return _document("TorchServe APIs", version, paths)


def metrics_document(version: str) -> dict[str, Any]:
    """Describe the metrics API.

    Args:
        version: of the server.
    """
    names = _query("name[]", _TEXT, "A sample that is wanted; may be repeated. Without it all are given.")
    metrics = _operation("metrics", "The metrics, in Prometheus' text format.", {400: "Error"}, names)
    metrics["responses"]["200"] = {"description": "OK", "content": {METRICS_TYPE: {"schema": _TEXT}}}
    paths = {
        "/": {"options": _described("apiDescription")},
        "/api-description": {"get": _described("api-description")},
        "/metrics": {"get": metrics},
    }
    return _document("TorchServe APIs", version, paths)


def model_document(name: str) -> dict[str, Any]:
    """How a model is asked: what ``OPTIONS /predictions/{name}`` gives."""
    paths = {
        path: {"post": _ask(id_, f"A predict entry point for model: {name}.")}
        for path, id_ in (
            (f"/predictions/{name}", "predictions"),
            (f"/v1/models/{name}:predict", "v1_predict"),
            (f"/v2/models/{name}/infer", "v2_infer"),
        )
    }
    return _document(f"RESTful API for: {name}", "1.0.0", paths)


def model_management_document(name: str, version: str) -> dict[str, Any]:
    """How a model is managed: what ``OPTIONS /models/{name}`` gives."""
    return _document(f"RESTful Management API for: {name}", version, _paths_of_model())


# ---- operations of the management API --------------------------------------------------------------------------------


def _paths_of_model() -> dict[str, Any]:
    return {
        "/models/{model_name}": {"get": _describe(""), "put": _scale(""), "delete": _unregister("")},
        "/models/{model_name}/{model_version}": {
            "get": _describe("version_"),
            "put": _scale("version_"),
            "delete": _unregister("version_"),
        },
        "/models/{model_name}/{model_version}/set-default": {
            "put": _operation(
                "setDefault", "Sends requests that name no version to this one.", {200: "Status", 404: "Error"}
            )
        },
        "/models/{model_name}/{model_version}/traffic": {
            "put": _operation(
                "setTraffic",
                "Gives a version a share of the requests that name none, or copies of them.",
                {200: "Status", 400: "Error", 404: "Error"},
                _query("percent", _NUMBER | {"minimum": 0, "maximum": 100}, "Of these requests.", needed=True),
                _query("shadow", _FLAG | {"default": False}, "Whether it gets copies, whose answers nobody sees."),
                _query(
                    "sticky_header",
                    _TEXT,
                    "Headers, with commas between: the same value of the first that a request has, the same version.",
                ),
            )
        },
    }


def _list() -> dict[str, Any]:
    return _operation(
        "listModels",
        "The models, by their names.",
        {200: "Object"},
        _query("limit", _NUMBER | {"default": 100, "maximum": 100}, "How many."),
        _query("next_page_token", _NUMBER, "nextPageToken of the page before."),
    )


def _register() -> dict[str, Any]:
    return _operation(
        "registerModel",
        "Takes a model; the parameters may be the members of a JSON body, too.",
        {
            200: "Status",
            202: "Status",
            400: "Error",
            404: "Error",
            405: "Error",
            409: "Error",
            500: "Error",
            507: "Error",
        },
        _query("url", _TEXT, "Archive of the model store, or a URL that allowed_urls matches.", needed=True),
        _query("model_name", _TEXT, "In place of the manifest's."),
        _query("handler", _TEXT, "In place of the manifest's."),
        _query("runtime", _TEXT | {"enum": ["python", "python3", "LSP"]}, "In place of the manifest's."),
        _query("batch_size", _NUMBER | {"minimum": 1}, "Most requests of a batch."),
        _query("max_batch_delay", _NUMBER | {"minimum": 0}, "Milliseconds that a batch is held open."),
        _query("initial_workers", _NUMBER | {"minimum": 0}, "Workers to start."),
        _query("response_timeout", _NUMBER | {"minimum": 1}, "Seconds that a worker may take for a batch."),
        _query("startup_timeout", _NUMBER | {"minimum": 1}, "Seconds that a worker may take to load the model."),
        _query("synchronous", _FLAG | {"default": True}, "Whether the workers are waited for."),
        _query("s3_sse_kms", _FLAG | {"default": False}, "Whether S3 has the archive encrypted by KMS."),
    )


def _describe(prefix: str) -> dict[str, Any]:
    return _operation(
        f"{prefix}describeModel",
        "Describes a version of a model; the version may be all.",
        {200: "Array", 404: "Error", 503: "Error"},
        _query("customized", _FLAG | {"default": False}, "Whether the handler is asked what it says of the model."),
    )


def _scale(prefix: str) -> dict[str, Any]:
    return _operation(
        f"{prefix}setAutoScale",
        "Gives a version of a model as many workers.",
        {200: "Status", 202: "Status", 206: "Status", 400: "Error", 404: "Error", 500: "Error", 507: "Error"},
        _query("min_worker", _NUMBER | {"default": 1, "minimum": 0}, "Workers at the least."),
        _query("max_worker", _NUMBER | {"minimum": 0}, "Workers at the most; as many as at the least."),
        _query("synchronous", _FLAG | {"default": False}, "Whether the workers are waited for."),
    )


def _unregister(prefix: str) -> dict[str, Any]:
    return _operation(
        f"{prefix}unregisterModel",
        "Ends the workers of a version of a model and forgets it.",
        {200: "Status", 403: "Error", 404: "Error", 405: "Error", 408: "Error"},
    )


# ---- the parts of a document -----------------------------------------------------------------------------------------


def _document(title: str, version: str, paths: dict[str, Any]) -> dict[str, Any]:
    for path, operations in paths.items():
        names = [name for name in ("model_name", "model_version") if f"{{{name}}}" in path]
        for operation in operations.values():
            given = [{"in": "path", "name": name, "required": True, "schema": _TEXT} for name in names]
            operation["parameters"] = given + operation.get("parameters", [])
    status = {"type": "object", "properties": {"status": _TEXT}, "required": ["status"]}
    error = {"code": _NUMBER, "type": _TEXT, "message": _TEXT}
    return {
        "openapi": "3.0.1",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": {
                "Status": status,
                "Error": {"type": "object", "properties": error, "required": list(error)},
                "OpenAIError": {"type": "object", "properties": {"error": {"type": "object"}}, "required": ["error"]},
                "Object": {"type": "object"},
                "Array": {"type": "array", "items": {"type": "object"}},
            }
        },
    }


def _operation(id_: str, description: str, responses: dict[int, str], *query: dict[str, Any]) -> dict[str, Any]:
    """Describe an operation; of each response by its schema's name, empty for no body."""
    found = {}
    for status, schema in responses.items():
        response: dict[str, Any] = {"description": "OK" if status < 400 else "Refused or failed"}
        if schema:
            response["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        found[f"{status}"] = response
    operation: dict[str, Any] = {"operationId": id_, "description": description, "responses": found}
    if query:
        operation["parameters"] = list(query)
    return operation


def _ask(id_: str, description: str, *query: dict[str, Any]) -> dict[str, Any]:
    binary = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
    headers = (
        ("x-request-id", _TEXT, "Names the request; it is echoed."),
        (
            "x-request-timeout-seconds",
            {"type": "number"},
            "What has not begun by then gets 504, or the model's default answer.",
        ),
        ("x-request-priority", _TEXT | {"enum": ["high", "normal", "low"]}, "Who comes first of those that wait."),
    )
    errors = {400: "Error", 404: "Error", 413: "Error", 500: "Error", 503: "Error", 504: "Error", 507: "Error"}
    given = [{"in": "header", "name": name, "schema": schema, "description": text} for name, schema, text in headers]
    operation = _operation(id_, description, errors, *given, *query)
    operation["requestBody"] = {"description": "Each model says what it takes.", "content": binary}
    operation["responses"]["200"] = {"description": "What the model answered.", "content": binary}
    return operation


def _ask_openai(id_: str, description: str, needed: dict[str, Any]) -> dict[str, Any]:
    """Describe an operation of OpenAI's; of what its document may hold only what it must."""
    errors = dict.fromkeys((400, 401, 404, 413, 500, 503, 504, 507), "OpenAIError")
    operation = _operation(id_, description, {200: "Object", **errors})
    needed = {"model": _TEXT, **needed}
    schema = {"type": "object", "properties": needed, "required": list(needed)}
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if id_ != "createEmbedding":
        operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": _TEXT}
    return operation


def _described(id_: str) -> dict[str, Any]:
    return _operation(id_, "This document.", {200: "Object"})


def _query(name: str, schema: dict[str, Any], description: str, *, needed: bool = False) -> dict[str, Any]:
    return {"in": "query", "name": name, "required": needed, "schema": schema, "description": description}
