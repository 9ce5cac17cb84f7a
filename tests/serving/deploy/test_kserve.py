"""Archives as objects of KServe; tests/integration/test_kserve.py has them read by its own package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from archive_tool.errors import InputError
from serving.deploy.demands import Demand, Size
from serving.deploy.kserve import Wanted, documents, names_of, storage_of
from serving.deploy.pods import Deployed

DEPLOYED = Deployed("r/k:1", "ns", 1, 3, 2, 600, "reg", {"team": "a"})
MNIST = Demand("mnist", "1.0", 0, 1, 1, 1, 0, 1)
BERT = replace(MNIST, name="Bert_Base")
WANTED = Wanted("torchmar", DEPLOYED, [Size("1", "1Gi"), Size("4", "8Gi", 1)], "s3://b/{name}", "v2", "reader")


def made() -> tuple[Any, ...]:
    return tuple(documents(WANTED, names_of([MNIST, BERT]), [MNIST, BERT]))


def test_a_runtime_serves_the_formats_by_the_name_that_kserve_fills_in() -> None:
    runtime, *_ = made()
    spec = runtime["spec"]
    assert runtime["metadata"] == {"name": "torchmar", "namespace": "ns", "labels": {"team": "a"}}
    assert [one["name"] for one in spec["supportedModelFormats"]] == ["mar", "torchmar", "pytorch"]
    # Services of others that say pytorch and name no runtime stay where they are.
    assert [one.get("autoSelect", False) for one in spec["supportedModelFormats"]] == [True, True, False]
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"  # KServe puts a model's settings into the one of this name
    assert container["args"] == ["--model_name={{.Name}}", "--timeout=600"]
    assert "name" not in container["ports"][0]
    assert "env" not in container  # no keys: the image is one that trusts its network
    assert spec["imagePullSecrets"] == [{"name": "reg"}]


def test_a_service_each() -> None:
    _, mnist, bert = made()
    assert [one["metadata"]["name"] for one in (mnist, bert)] == ["mnist", "bert-base"]
    predictor = bert["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (1, 3)
    assert predictor["serviceAccountName"] == "reader"
    model = predictor["model"]
    assert (model["runtime"], model["modelFormat"], model["protocolVersion"]) == ("torchmar", {"name": "mar"}, "v2")
    assert model["storageUri"] == "s3://b/Bert_Base"
    assert model["resources"]["limits"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}
    # The model keeps its name, which the service cannot have.
    assert model["args"] == ["--model_name=Bert_Base", "--workers=2"]
    assert mnist["spec"]["predictor"]["model"]["args"] == ["--workers=2"]


def test_a_service_that_needs_no_arguments_has_none() -> None:
    wanted = replace(WANTED, deployed=replace(DEPLOYED, workers=None), sizes=WANTED.sizes[:1])
    _, mnist = documents(wanted, ["mnist"], [MNIST])
    assert "args" not in mnist["spec"]["predictor"]["model"]


def test_two_services_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="the models a_b and a-b would both be the InferenceService a-b"):
        names_of([replace(MNIST, name="a_b"), replace(MNIST, name="a-b")])


@pytest.mark.parametrize(
    "text",
    ["", "models", "s3://", "://x", "s3:/x", "s3://a b", "s3://a\n", "a-b://c", "s3://a/{nam}", "s3://{name}/{{x}}"],
)
def test_what_is_no_storage_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a URI of storage"):
        storage_of(text, [MNIST])


def test_several_archives_need_several_places() -> None:
    assert storage_of("pvc://m/mnist.mar", [MNIST]) == "pvc://m/mnist.mar"
    assert storage_of("hf://m/{name}", [MNIST, BERT]) == "hf://m/{name}"
    with pytest.raises(InputError, match="is the storage of 2 archives"):
        storage_of("pvc://m/mnist.mar", [MNIST, BERT])
