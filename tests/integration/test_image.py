"""`torchmar serve`, the entry point of images, for real: a folder of the test stands in for a container's root."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from serving.control.configuration.ports import choose_free

from .conftest import BIN, Sandbox

BROKEN = """
class Broken:
    def initialize(self, context):
        raise ValueError("no weights")

    def handle(self, data, context):
        return data
"""
KEY = "a-key-of-the-users-own"
TRUSTED = {"TORCHMAR_TRUSTED_NETWORK": "1"}

pytestmark = pytest.mark.hides("torch")


@dataclass
class Container:
    """A server without a container, whose borders are those of the sandbox."""

    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while "started in " not in (said := self.log.read_text()):
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
        answer = self.client.request(method, path, content=body, headers=headers)
        return answer.status_code, answer.text


@contextlib.contextmanager
def container(sandbox: Sandbox, *arguments: str, **environ: str) -> Iterator[Container]:
    (port,) = choose_free("127.0.0.1", 1)
    root, log = sandbox.root / "root", sandbox.root / "container.log"
    root.mkdir(exist_ok=True)
    environment = {**sandbox.env, "SAGEMAKER_BIND_TO_PORT": str(port), **environ}
    environment.pop("TORCHMAR_FRONTEND", None)  # it is no question here
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(BIN / "torchmar"), "serve", *arguments, "--root", str(root)],
            cwd=sandbox.root,
            env=environment,
            stdout=output,
            stderr=output,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            found = Container(process, log, client)
            found.wait_until_ready()
            yield found
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 128 + signal.SIGTERM, log.read_text()
    finally:
        process.kill()
        process.wait()


def test_sagemaker(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    model = sandbox.root / "root" / "opt" / "ml" / "model"
    shutil.copytree(sandbox.store, model)
    with container(sandbox, "serve", **TRUSTED) as box:
        assert box.ask("GET", "/ping") == (200, '{\n  "status": "Healthy"\n}\n')
        status, text = box.ask("POST", "/invocations", b"hello")
        assert (status, json.loads(text)["version"]) == (200, "1.0")
        assert box.ask("GET", "/readyz")[0] == 200
        assert "ts_inference_requests" in box.ask("GET", "/metrics")[1]
        # Nothing outside can change anything, or ask what is on the socket inside.
        for method, path in (("GET", "/models"), ("POST", "/models?url=x.mar"), ("DELETE", "/models/echo")):
            assert box.ask(method, path)[0] == 404, (method, path)
        assert sandbox.torchmar("models", "echo", "--json").json()[0]["name"] == "echo"
        assert sandbox.torchmar("serve", "--check").ok().out == "ready\n"
        assert box.log.read_text().count("warning: ") == 1
    assert sandbox.torchmar("serve", "--check").code == 7


@pytest.mark.slow  # three servers more
def test_sagemaker_loads_models_itself(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    for name in ("one", "two"):
        shutil.copytree(sandbox.store, sandbox.root / "root" / "opt" / "ml" / "models" / name / "model")
    sandbox.build("broken", BROKEN)
    broken = sandbox.root / "root" / "opt" / "ml" / "models" / "broken" / "model"
    broken.mkdir(parents=True)
    shutil.copy(sandbox.store / "broken.mar", broken)

    def load(box: Container, name: str) -> int:
        document = {"model_name": name, "url": str(broken.parent.parent / name / "model")}
        return box.client.post("/models", json=document).status_code

    with container(sandbox, "serve", **TRUSTED, SAGEMAKER_MULTI_MODEL="true") as box:
        assert box.ask("GET", "/ping")[0] == 200
        assert box.ask("GET", "/readyz")[0] == 200
        assert "SageMaker may load what lies below" in box.log.read_text()
        assert "no model is served yet: SageMaker loads" in box.log.read_text()
        assert [load(box, name) for name in ("one", "two", "one")] == [200, 200, 409]
        assert box.ask("POST", "/models/two/invoke", b"x")[0] == 200
        assert load(box, "broken") == 500
        assert [one["modelName"] for one in box.client.get("/models").json()["models"]] == ["one", "two"]
        assert box.ask("DELETE", "/models/one")[0] == 200
        assert box.ask("POST", "/models/one/invoke", b"x")[0] == 404
        assert load(box, "one") == 200
        assert box.ask("POST", "/models/one/invoke", b"x")[0] == 200


@pytest.mark.slow  # a server more
def test_kserve_in_torchserves_layout(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    models = sandbox.root / "root" / "mnt" / "models"
    shutil.copytree(sandbox.store, models / "model-store")
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {"named": {"1.0": SETTINGS}}}
    (models / "config").mkdir()
    (models / "config" / "config.properties").write_text(CONFIG + f"model_snapshot={json.dumps(snapshot)}\n")
    # What would open the management API to everybody, and move the one port that KServe asks.
    (elsewhere,) = choose_free("127.0.0.1", 1)
    moved = {f"TS_{api}_ADDRESS": f"http://127.0.0.1:{elsewhere}" for api in ("MANAGEMENT", "INFERENCE", "METRICS")}
    with container(sandbox, "--model_name=named", "--model_dir", str(models), **TRUSTED, **moved) as box:
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{elsewhere}/models")
        status, text = box.ask("GET", "/v1/models/named")  # with what OpenAI's clients read of a model, too
        assert (status, {"name": "named", "ready": True}.items() <= json.loads(text).items()) == (200, True)
        assert box.ask("GET", "/v2/models/named/ready")[0] == 200
        body = json.dumps({"instances": [{"data": 1}]}).encode()
        status, text = box.ask("POST", "/v1/models/named:predict", body, **{"Content-Type": "application/json"})
        assert (status, json.loads(text)["version"]) == (200, "1.0")
        assert box.ask("POST", "/models", b"{}")[0] == 404
        said = box.log.read_text()
        assert "enable_model_api=true of the configuration is not used" in said


SETTINGS = {"defaultVersion": True, "marName": "echo.mar", "minWorkers": 1, "maxWorkers": 1}
SETTINGS |= {"batchSize": 1, "maxBatchDelay": 10, "responseTimeout": 120}
# As KServe's documentation has it, and the model API on.
CONFIG = """\
inference_address=http://0.0.0.0:8085
management_address=http://0.0.0.0:8085
metrics_address=http://0.0.0.0:8082
grpc_inference_port=7070
grpc_management_port=7071
enable_metrics_api=true
enable_envvars_config=true
enable_model_api=true
install_py_dep_per_model=true
job_queue_size=10
model_store=/mnt/models/model-store
"""


@pytest.mark.slow  # a server more
def test_an_image_of_ones_own_asks_for_the_key_of_its_environment(sandbox: Sandbox) -> None:
    told = "import os\n\ndef handle(data, context):\n    return [repr(dict(os.environ))] * len(data or [])\n"
    sandbox.build("told", told)
    shutil.copytree(sandbox.store, sandbox.root / "root" / "srv" / "model_store")
    with container(sandbox, TORCHMAR_INFERENCE_KEY=KEY) as box:
        assert box.ask("POST", "/predictions/told", b"x")[0] == 400
        assert box.ask("GET", "/v1/models/told")[0] == 401  # a route of OpenAI's, too
        assert box.ask("GET", "/readyz")[0] == 200
        key = {"Authorization": f"Bearer {KEY}"}
        status, text = box.ask("POST", "/predictions/told", b"x", **key)
        assert status == 200
        assert "PATH" in text
        assert KEY not in text  # handlers do not see it
        assert box.ask("GET", "/v1/models/told", **key)[0] == 200
        assert sandbox.torchmar("keys", "--inference").ok().out == f"{KEY}\n"
        assert sandbox.torchmar("models").ok().out.count("told") == 2
        assert "warning" not in box.log.read_text()


@pytest.mark.slow  # a server more
def test_a_pod_is_what_torchmar_deploy_says(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    shutil.copytree(sandbox.store, sandbox.root / "root" / "srv" / "model_store")
    words = ("--image", "r.example.com/echo:1", "--workers", "2", "--timeout", "120", "--quiet")
    printed = sandbox.torchmar("deploy", "kubernetes", sandbox.store / "echo.mar", *words).ok().out
    objects = {one["kind"]: one["spec"] for one in yaml.safe_load_all(printed)}
    pod = objects["Deployment"]["template"]["spec"]
    (made,) = pod["containers"]
    given = {one["name"]: KEY for one in made["env"]}
    with container(sandbox, *made["args"], **given) as box:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert box.ask("GET", made[probe]["httpGet"]["path"])[0] == 200, probe
        assert box.ask("POST", "/predictions/echo", b"x", Authorization=f"Bearer {KEY}")[0] == 200
        assert len(sandbox.torchmar("models", "echo", "--json").json()[0]["workers"]) == 2
        status, text = box.ask("GET", objects["ServiceMonitor"]["endpoints"][0]["path"])
        assert status == 200
        for one in objects["HorizontalPodAutoscaler"]["metrics"]:
            assert f"\n{one['pods']['metric']['name']}{{" in text
        begun = time.monotonic()
    assert time.monotonic() - begun < pod["terminationGracePeriodSeconds"]


def test_a_model_that_cannot_be_loaded_ends_the_container(sandbox: Sandbox) -> None:
    sandbox.build("broken", BROKEN)
    shutil.copytree(sandbox.store, sandbox.root / "root" / "srv" / "model_store")
    done = sandbox.torchmar(
        "serve", "--root", sandbox.root / "root", "--http-port", str(choose_free("127.0.0.1", 1)[0])
    )
    assert done.code == 6
    assert "no weights" in done.err
    assert list(sandbox.temp.iterdir()) == []
