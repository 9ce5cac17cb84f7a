"""KServe's own package, in an environment of its own: what it makes of our documents, its server, and its client.

``check`` reads documents from standard input. ``serve PORT`` answers as `Sums` below. ``ask URL`` prints what KServe's
client makes of the answers of a server of that model, by call, and the answers as they came.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import kserve
import kubernetes.client
import kubernetes_validate
import numpy as np
import orjson
import yaml
from kserve import InferInput, InferOutput, InferRequest, InferResponse

# Of Kubernetes: the last one that had no field which ours use, and the newest there is.
KUBERNETES = ("1.25", "1.37")
CLASSES = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
X = [[1.0, 2.5], [3.0, -4.0]]


class Sums(kserve.Model):
    """The sums of rows, in both protocols."""

    def __init__(self) -> None:
        super().__init__("sums")
        self.ready = True

    def predict(self, payload: Any, *_: object, **__: object) -> Any:
        if isinstance(payload, dict):
            return {"predictions": np.array(payload["instances"], dtype=np.float32).sum(1).tolist()}
        y = payload.inputs[0].as_numpy().sum(1)
        output = InferOutput("output", list(y.shape), "FP32")
        output.set_data_from_numpy(y, binary_data=bool((payload.parameters or {}).get("binary_data_output")))
        return InferResponse(payload.id, self.name, [output])


def check() -> None:
    """Check documents: by the schemas of Kubernetes, strictly, and by KServe's classes, which must know every field."""
    for name in dir(kubernetes.client):  # KServe's classes have parts of Kubernetes', which its reader does not find
        if not hasattr(kserve.models, name):
            setattr(kserve.models, name, getattr(kubernetes.client, name))
    for document in yaml.safe_load_all(sys.stdin):
        name = f"{document['kind']} {document['metadata']['name']}"
        if document["kind"] in CLASSES:
            client = kserve.ApiClient()
            reply = type("Reply", (), {"data": json.dumps(document)})
            read = client.sanitize_for_serialization(client.deserialize(reply, CLASSES[document["kind"]]))
            if document["kind"] == "InferenceService":
                assert read["spec"]["predictor"]["model"].pop("name") == ""  # which the class puts there
            assert read == document, name
        elif document["apiVersion"].startswith("monitoring.coreos.com/"):
            print(f"{name}: not checked")
            continue
        else:
            for version in KUBERNETES:
                kubernetes_validate.validate(document, version, strict=True)
        print(f"{name}: good")


def requests() -> dict[str, InferRequest]:
    """Return the requests of the second protocol: with numbers in JSON, and behind it."""
    found = {}
    for name, binary in (("v2 json", False), ("v2 binary", True)):
        x = InferInput("x", [2, 2], "FP32")
        x.set_data_from_numpy(np.array(X, dtype=np.float32), binary_data=binary)
        found[name] = InferRequest("sums", [x], "7", parameters={"binary_data_output": True} if binary else None)
    return found


async def ask(url: str) -> dict[str, Any]:
    """Return what KServe's client makes of a server's answers."""
    bodies: list[str] = []

    async def keep(reply: httpx.Response) -> None:
        bodies.append((await reply.aread()).decode("latin-1"))

    clients = {}
    for protocol in ("v1", "v2"):
        clients[protocol] = kserve.InferenceRESTClient(kserve.RESTConfig(protocol=protocol))
        clients[protocol]._client.event_hooks["response"].append(keep)
    one, two = clients["v1"], clients["v2"]
    calls: dict[str, Callable[[], Awaitable[Any]]] = {
        "live": lambda: two.is_server_live(url),
        "ready": lambda: two.is_server_ready(url),
        "v1 model": lambda: one.is_model_ready(url, "sums"),
        "v2 model": lambda: two.is_model_ready(url, "sums"),
        "v1 predict": lambda: one.infer(url, {"instances": X}, model_name="sums"),
        **{name: lambda asked=asked: two.infer(url, asked, model_name="sums") for name, asked in requests().items()},
        "v1 model that is not": lambda: one.is_model_ready(url, "other"),
        "v2 model that is not": lambda: two.is_model_ready(url, "other"),
        "v1 predict that is not": lambda: one.infer(url, {"instances": X}, model_name="other"),
        "v2 infer that is not": lambda: two.infer(url, requests()["v2 json"], model_name="other"),
        "v1 bad": lambda: one.infer(url, {"rows": X}, model_name="sums"),
    }
    found = {}
    for name, call in calls.items():
        try:
            made = await call()
        except httpx.HTTPStatusError as error:
            made = f"status {error.response.status_code}"
        found[name] = {"made": plain(made), "body": bodies.pop() if bodies else ""}
    return found


def plain(made: Any) -> Any:
    """Return what a client has made as JSON has it."""
    if isinstance(made, InferResponse):
        outputs = [[one.name, one.shape, one.datatype, one.as_numpy().tolist()] for one in made.outputs]
        return {"id": made.id, "model": made.model_name, "outputs": outputs}
    return json.loads(orjson.dumps(made))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check"]:
            check()
        case ["serve", port]:
            kserve.ModelServer(http_port=int(port), enable_grpc=False, workers=1).start([Sums()])
        case ["ask", url]:
            print(json.dumps(asyncio.run(ask(url))))
