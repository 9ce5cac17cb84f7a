"""torchmar deploy kubernetes and torchmar deploy kserve on the command line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from archive_tool.cli import entry
from serving.cli.serve import serve
from tests.serving.deploy.archives import unpacked

IMAGE = ("--image", "registry.example.com/m:1.0")
STORAGE = ("--storage-uri", "s3://models/{name}")


@pytest.fixture
def archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mnist", "Big_Model"):
        (tmp_path / name).mkdir()
        config = "minWorkers: 2\nmaxWorkers: 2\ndeviceType: gpu\n" if name == "Big_Model" else None
        unpacked(tmp_path / name, config, modelName=name)


pytestmark = pytest.mark.usefixtures("archives")


def run(*arguments: str) -> int:
    return entry.main(["deploy", *arguments])


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[dict[str, Any], str]:
    """Run a command; return its objects by kind and name, and what it says beside them."""
    assert run(*arguments) == 0
    out, err = capsys.readouterr()
    return {f"{one['kind']} {one['metadata']['name']}": one for one in yaml.safe_load_all(out)}, err


def failed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    assert run(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_kubernetes_gets_what_the_archive_says(capsys: pytest.CaptureFixture[str]) -> None:
    found, said = printed(capsys, "kubernetes", "Big_Model", *IMAGE)
    (container,) = found["Deployment big-model"]["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "1536Mi", "nvidia.com/gpu": "1"}
    assert container["image"] == IMAGE[1]
    assert "memory is an estimate (1536Mi)" in said
    assert "kubectl create secret generic big-model-key --from-file=inference=/dev/stdin\n" in said


def test_kubernetes_gets_what_the_options_say(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--name both --namespace team --replicas 1 --max-replicas 1 --workers 3 --cpu 500m --memory 2Gi --gpus 0"
    options += " --timeout 60 --secret mine --pull-secret reg --label release=prometheus --no-monitor"
    found, said = printed(capsys, "kubernetes", "mnist", "Big_Model", *IMAGE, *options.split())
    assert list(found) == ["Deployment both", "Service both", "PodDisruptionBudget both"]
    spec = found["Deployment both"]["spec"]
    assert spec["replicas"] == 1
    (container,) = spec["template"]["spec"]["containers"]
    assert container["args"] == ["--workers=3", "--timeout=60"]
    assert container["resources"]["limits"] == {"cpu": "500m", "memory": "2Gi"}
    assert container["env"][0]["valueFrom"]["secretKeyRef"]["name"] == "mine"
    assert found["Service both"]["metadata"]["labels"]["release"] == "prometheus"
    assert "estimate" not in said
    assert "generic mine --from-file=inference=/dev/stdin -n team\n" in said


def test_kserve_gets_a_service_for_each_archive(capsys: pytest.CaptureFixture[str]) -> None:
    found, said = printed(capsys, "kserve", "mnist", "Big_Model", *IMAGE, *STORAGE)
    assert list(found) == ["ServingRuntime torchmar", "InferenceService mnist", "InferenceService big-model"]
    model = found["InferenceService big-model"]["spec"]["predictor"]["model"]
    assert model["storageUri"] == "s3://models/Big_Model"
    assert model["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert "memory is an estimate (mnist 1Gi, big-model 1536Mi)" in said


def test_kserve_gets_what_the_options_say(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--name digits --runtime mine --protocol v2 --service-account reader --memory 2Gi --quiet"
    found, said = printed(capsys, "kserve", "mnist", *IMAGE, *STORAGE, *options.split())
    assert list(found) == ["ServingRuntime mine", "InferenceService digits"]
    predictor = found["InferenceService digits"]["spec"]["predictor"]
    assert predictor["serviceAccountName"] == "reader"
    assert predictor["model"]["args"] == ["--model_name=mnist"]
    assert said == ""


@pytest.mark.parametrize(
    "words", [("kubernetes",), ("kserve", *STORAGE), ("kserve", *STORAGE, "--name", "x", "--workers", "3")]
)
def test_the_image_understands_its_arguments(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    kind, *options = words
    found, _ = printed(capsys, kind, "mnist", *IMAGE, *options, "--timeout", "60")
    (first, *services) = found.values()
    spec = first["spec"]["template"]["spec"] if kind == "kubernetes" else first["spec"]
    arguments = [*spec["containers"][0]["args"]]
    if kind == "kserve":
        (service,) = (one for one in services if one["kind"] == "InferenceService")
        arguments += service["spec"]["predictor"]["model"].get("args", [])
        arguments = [one.replace("{{.Name}}", service["metadata"]["name"]) for one in arguments]
    params = serve.make_context("serve", arguments).params
    assert params["timeout"] == 60
    assert params["model_name"] == (None if kind == "kubernetes" else "mnist")
    assert params["workers"] == (3 if "--workers" in options else None)


def test_the_documents_go_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("kubernetes", "mnist", *IMAGE, "--quiet") == 0
    text = capsys.readouterr().out
    for force in ((), ("--force",)):
        assert run("kubernetes", "mnist", *IMAGE, "--quiet", "--output", "m.yaml", *force) == 0
        assert capsys.readouterr() == ("", "")
        assert Path("m.yaml").read_text() == text
    assert "m.yaml exists already" in failed(capsys, "kubernetes", "mnist", *IMAGE, "--output", "m.yaml")


def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--image" in failed(capsys, "kubernetes", "mnist", code=2)
    assert "name what is deployed: --name" in failed(capsys, "kubernetes", "mnist", "Big_Model", *IMAGE, code=2)
    assert "for a single archive" in failed(capsys, "kserve", "a", "b", *IMAGE, *STORAGE, "--name", "x", code=2)
    assert "no such archive: gone.mar" in failed(capsys, "kubernetes", "gone.mar", *IMAGE)
    assert "not the name of an image" in failed(capsys, "kubernetes", "mnist", "--image", "a b")
    few = ("--replicas", "3", "--max-replicas", "2")
    assert "--max-replicas 2 is less than --replicas 3" in failed(capsys, "kubernetes", "mnist", *IMAGE, *few)
    bad = {
        "--name": "not a name in Kubernetes",
        "--namespace": "not a namespace",
        "--secret": "no secret can be called",
        "--pull-secret": "no secret can be called",
        "--label": "not a label",
        "--cpu": "not an amount of cpu",
        "--memory": "not an amount of memory",
    }
    for option, said in bad.items():
        assert said in failed(capsys, "kubernetes", "mnist", *IMAGE, option, "A b"), option
        assert said in failed(capsys, "kubernetes", "mnist", *IMAGE, option, ""), option


def test_the_document_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(entry.__file__).parents[2] / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    assert run("kubernetes", "mnist", "--image", "registry.example.com/mnist:1.0", "--quiet") == 0
    assert shown in capsys.readouterr().out


def test_a_command_that_there_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Did you mean kubernetes?" in failed(capsys, "kubernets", "mnist", code=2)
