"""A live model, published in each format, answers over HTTP as it does here."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

import archive_tool
from archive_tool.publishing.exports import FORMATS
from archive_tool.publishing.result import Published
from handlers.tensors.codecs import read_npy, read_safetensors, write_npy, write_safetensors
from handlers.tensors.media_types import JSON, NPY, SAFETENSORS
from model_defs.mnist import MNISTNet

from .conftest import OPEN, ROOT, Sandbox, Server, usual_frontend
from .support import ask, at_once, grpc, infer_output, infer_request, predict, prediction_request, ready, register

# Slow: what is published is loaded in tests of the archive tool; here each format is served.
pytestmark = [pytest.mark.hides("torchvision"), pytest.mark.slow]

TOLERANCE = 1e-4
BATCHES = "backend: {mode: shared, max_batch_size: 8}\nminWorkers: 6\nmaxWorkers: 6\n"


@pytest.fixture(scope="module")
def net() -> MNISTNet:
    torch.manual_seed(0)
    return MNISTNet().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published(
    shared_sandbox: Sandbox, net: MNISTNet, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Published]:
    """Publish the model in every format; a C++ compiler takes the longest."""
    from torch._inductor import config  # takes seconds

    patch = pytest.MonkeyPatch()
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    # The compiler is not asked what it can do, which takes a compilation of its own.
    patch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")
    patch.setattr(config.cpp, "vec_isa_ok", True, raising=False)
    # They save time from the second package on, and cost it before the first.
    patch.setattr(config.aot_inductor, "precompile_headers", False, raising=False)
    with torch.no_grad():
        digits = net(images).argmax(1)
    batches = shared_sandbox.file("batches.yaml", BATCHES)
    try:
        return {
            one: archive_tool.publish(
                net,
                name=f"mnist_{one}",
                model_store=shared_sandbox.store,
                format=one,
                x_test=images,
                y_test=digits,
                config_file=batches if one == "eager" else None,
            )
            for one in FORMATS
        }
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox, published: dict[str, Published]) -> Iterator[Server]:
    models = [f"{one.name}={one.path.name}" for one in published.values()]
    # The envelope is not for these models, whose handler reads such requests itself.
    settings = "service_envelope=kservev2\nts_open_inference_protocol=true\n"
    config = shared_sandbox.file("config.properties", settings)
    running = shared_sandbox.start(*models, name="publish", options=("--ts-config", config, *OPEN))
    yield running
    shared_sandbox.torchmar("stop", "-q", "--name", "publish")


def outputs(net: MNISTNet, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(images)


@pytest.mark.parametrize("name", FORMATS)
def test_the_archive_answers_as_the_live_model(
    server: Server, published: dict[str, Published], net: MNISTNet, images: torch.Tensor, name: str
) -> None:
    model = f"{published[name].name}/1.0"
    assert published[name].metrics == {"accuracy": 1.0}
    assert published[name].largest_difference < TOLERANCE
    expected = outputs(net, images)
    for rows in (1, 6):
        body = json.dumps({"tensor_input": images[:rows].tolist()})
        answer = predict(server, model, body, Content_Type="application/json")
        assert answer.status == 200, answer
        found = torch.tensor(answer.json()["tensor_output"])
        torch.testing.assert_close(found, expected[:rows], rtol=TOLERANCE, atol=TOLERANCE)
    body = json.dumps({"instances": images[:2].tolist()})
    found = torch.tensor(predict(server, model, body, Content_Type="application/json").json()["predictions"])
    torch.testing.assert_close(found, expected[:2], rtol=TOLERANCE, atol=TOLERANCE)
    answer = predict(server, model, json.dumps({"tensor_input": [[1, 2]]}), Content_Type="application/json")
    assert answer.status == 400
    assert answer.json()["message"] == "the input 'images' is expected in the shape [any, 1, 28, 28], got [1, 2]"


def protocol(images: torch.Tensor, **more: object) -> dict[str, object]:
    entry = {"name": "images", "shape": list(images.shape), "datatype": "FP32", "data": images.flatten().tolist()}
    return {"id": "mine", "inputs": [entry], **more}


def with_binary_data(images: torch.Tensor) -> tuple[bytes, dict[str, str]]:
    document = protocol(images, parameters={"binary_data_output": True})
    (entry,) = document["inputs"]  # type: ignore[misc]
    data = images.numpy().tobytes()
    del entry["data"]
    head = json.dumps(document | {"inputs": [entry | {"parameters": {"binary_data_size": len(data)}}]}).encode()
    return head + data, {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}


def test_tensors_of_every_form_at_once(server: Server, net: MNISTNet, images: torch.Tensor) -> None:
    """Each is answered in its own form, or in the one that it accepts, whatever else is in the batch."""
    binary, header = with_binary_data(images)
    requests: list[tuple[str, bytes, dict[str, str]]] = [
        ("/predictions/mnist_eager", json.dumps({"tensor_input": images.tolist()}).encode(), {"Content-Type": JSON}),
        ("/predictions/mnist_eager", write_npy(images), {"Content-Type": NPY}),
        ("/predictions/mnist_eager", write_npy(images), {}),
        ("/predictions/mnist_eager", write_safetensors({"images": images}), {"Accept": f"{JSON};q=0.1, {SAFETENSORS}"}),
        ("/v2/models/mnist_eager/infer", json.dumps(protocol(images)).encode(), {"Content-Type": JSON}),
        ("/v2/models/mnist_eager/infer", binary, header),
        ("/predictions/mnist_eager", write_npy(images.double()), {"Content-Type": NPY}),
        ("/predictions/mnist_eager", write_npy(images), {"Content-Type": NPY, "Accept": "image/png"}),
        ("/predictions/mnist_eager", b"GIF89a", {"Content-Type": "image/gif"}),
    ]
    answers = at_once([lambda one=one: ask(server.inference, *one) for one in requests])  # type: ignore[misc]
    assert [answer.status for answer in answers] == [200] * 6 + [400, 406, 415], answers
    kinds = [JSON, NPY, NPY, SAFETENSORS, JSON, "application/octet-stream", JSON, JSON, JSON]
    assert [answer.header("content-type") for answer in answers] == kinds
    length = int(answers[5].header("inference-header-content-length") or 0)
    document = json.loads(answers[5].body[:length])
    for one in (answers[4].json(), document):
        assert {key: one[key] for key in ("model_name", "model_version", "id")} == {
            "model_name": "mnist_eager",
            "model_version": "1.0",
            "id": "mine",
        }
        assert (one["outputs"][0]["name"], one["outputs"][0]["shape"]) == ("output", [6, 10])
    found = [
        torch.tensor(answers[0].json()["tensor_output"]),
        read_npy(answers[1].body),
        read_npy(answers[2].body),
        read_safetensors(answers[3].body)["output"],
        torch.tensor(answers[4].json()["outputs"][0]["data"]).reshape(6, 10),
        torch.frombuffer(bytearray(answers[5].body[length:]), dtype=torch.float32).reshape(6, 10),
    ]
    for tensor in found:
        torch.testing.assert_close(tensor, outputs(net, images), rtol=TOLERANCE, atol=TOLERANCE)
    assert answers[6].json()["message"] == "the input 'images' is expected in the type float32, got float64"
    assert answers[7].json()["type"] == "NotAcceptableError"


def test_tensors_over_grpc(server: Server, net: MNISTNet, images: torch.Tensor) -> None:
    """An array in and out, and the Open Inference Protocol; an error has a status."""
    expected = outputs(net, images)
    answer = grpc(server, "Predictions", prediction_request("mnist_eager", {"data": write_npy(images)}))
    torch.testing.assert_close(read_npy(answer.predictions[0]), expected, rtol=TOLERANCE, atol=TOLERANCE)
    request = infer_request("mnist_eager", "mine", "images", images.shape, images.flatten().tolist())
    answer = grpc(server, "ModelInfer", request, open_inference=True)
    assert answer.status == 0, answer.message
    identifier, name, numbers = infer_output(answer.messages[0])
    assert (identifier, name) == ("mine", "output")
    torch.testing.assert_close(torch.tensor(numbers).reshape(6, 10), expected, rtol=TOLERANCE, atol=TOLERANCE)
    request = infer_request("mnist_eager", "mine", "pictures", [1], [1.0])
    assert grpc(server, "ModelInfer", request, open_inference=True).status != 0
    assert predict(server, "mnist_eager", write_npy(images)).status == 200  # its worker lives


def test_wrong_tensors_over_grpc_leave_the_worker_alive(server: Server, images: torch.Tensor) -> None:
    """The frontend makes a message of each answer of a batch, and would end the worker at one that it cannot read."""
    options = {"batch_size": "8", "max_batch_delay": "500"}
    assert register(server, "mnist_torchscript-1.0.mar", "mnist_together", **options).status == 200
    right = ("images", images.shape, images.flatten().tolist())
    wrong = {
        "pictures": ("pictures", [1], [1.0]),
        "got [1, 28]": ("images", [1, 28], [0.0] * 28),
        "and its data [1]": ("images", [1, 1, 28, 28], [1.0]),
    }
    together = 0
    for name in ("mnist_torchscript", "mnist_together"):
        (pid,) = ready(server, name)
        requests = [infer_request(name, "id", *one) for one in (right, *wrong.values(), right)]
        answers = at_once([lambda one=one: grpc(server, "ModelInfer", one, open_inference=True) for one in requests])  # type: ignore[misc]
        assert (answers[0].status, answers[-1].status) == (0, 0), answers
        for text, answer in zip(wrong, answers[1:-1], strict=True):
            # One that was alone in its batch has a status; among others, by Java, an output that is called error.
            assert text in answer.message or (answer.status, text in str(answer.messages)) == (0, True), answer
            together += answer.status == 0
        assert ready(server, name) == [pid]
    assert bool(together) == (usual_frontend() == "java")
    assert ask(server.management, "/models/mnist_together", method="DELETE").status == 200


def test_a_part_of_a_form_may_be_an_array(server: Server, net: MNISTNet, images: torch.Tensor) -> None:
    path = server.sandbox.file("images.npy", write_npy(images))
    status, text = server.curl("/predictions/mnist_eager", "-F", f"data=@{path};type={NPY}", "-H", f"Accept: {JSON}")
    assert status == 200, text
    found = torch.tensor(json.loads(text)["tensor_output"])
    torch.testing.assert_close(found, outputs(net, images), rtol=TOLERANCE, atol=TOLERANCE)


def test_arrays_are_sent_by_the_names_of_their_files(server: Server, images: torch.Tensor) -> None:
    box = server.sandbox
    files = [
        box.file("two.npy", write_npy(images[:2])),
        box.file("two.safetensors", write_safetensors({"images": images})),
    ]
    answers = box.torchmar("predict", "mnist_eager", *files, "--json", "--inference", server.inference).json()
    bodies = [base64.b64decode(answer["answer_base64"]) for answer in answers]
    assert read_npy(bodies[0]).shape == (2, 10)
    assert read_safetensors(bodies[1])["output"].shape == (6, 10)
    archive = box.store / "mnist_eager-1.0.mar"
    shown = box.torchmar("run", archive, files[0], "--header", f"Accept={JSON}", "-q").json()
    assert torch.tensor(shown["tensor_output"]).shape == (2, 10)


def test_what_the_page_shows_for_python_works(server: Server) -> None:
    text = (ROOT / "docs" / "publishing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    (shown,) = (block for block in blocks if "urllib" in block)
    code = shown.replace("http://localhost:8080/predictions/mnist", f"{server.inference}/predictions/mnist_eager")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "(2, 10)\n", done.stderr


@pytest.mark.parametrize("name", ["eager", "onnx"])
def test_what_is_there_to_copy_works(
    server: Server, published: dict[str, Published], net: MNISTNet, images: torch.Tensor, name: str
) -> None:
    there = replace(published[name], address=server.inference)
    expected = outputs(net, images[:1])
    environment = server.sandbox.env
    for command in (["bash", "-c", there.curl], [sys.executable, "-c", there.snippet]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=server.sandbox.root)
        assert done.returncode == 0, done.stderr
        text = done.stdout.replace("'", '"')  # the snippet prints a dict
        torch.testing.assert_close(torch.tensor(json.loads(text)["tensor_output"]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [pytest.param("eager", marks=pytest.mark.slow), "export"])
def test_the_stored_sample_passes_the_check(
    shared_sandbox: Sandbox, published: dict[str, Published], name: str
) -> None:
    shared_sandbox.torchmar("check", published[name].path).ok()


def test_the_source_is_in_the_archive(published: dict[str, Published]) -> None:
    with zipfile.ZipFile(published["eager"].path) as archive:
        assert archive.read("model_defs/mnist.py") == (ROOT / "model_defs" / "mnist.py").read_bytes()
