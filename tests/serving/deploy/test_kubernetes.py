"""Archives as objects of Kubernetes; tests/integration/test_kserve.py has them checked by its schemas."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from archive_tool.errors import InputError
from serving.deploy.demands import Demand, Size
from serving.deploy.kubernetes import RUNNING, WAITING, Wanted, documents
from serving.deploy.pods import Deployed

DEPLOYED = Deployed("r/m:1", None, 2, 4, None, 600, None)
WANTED = Wanted("m", DEPLOYED, Size("1", "1Gi"), "m-key", monitor=True)
DEMAND = Demand("m", "1.0", 0, 1, 1, 1, 0, 1)


def made(wanted: Wanted = WANTED, *demands: Demand) -> dict[str, Any]:
    found = list(documents(wanted, demands or (DEMAND,)))
    return {str(one["kind"]): one for one in found}


def pod(wanted: Wanted = WANTED) -> Any:
    return made(wanted)["Deployment"]["spec"]["template"]["spec"]


def test_everything_is_made_and_finds_the_pods() -> None:
    found = made()
    kinds = ["Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "ServiceMonitor"]
    assert list(found) == kinds
    assert {one["metadata"]["name"] for one in found.values()} == {"m"}
    pods = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["ServiceMonitor"]["spec"]["selector"]["matchLabels"],
        pod()["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    assert all(one == selectors[0] and one.items() <= pods.items() for one in selectors)
    assert selectors[3].items() <= found["Service"]["metadata"]["labels"].items()
    # A selector may never change, and a version does.
    assert "app.kubernetes.io/version" not in selectors[0]
    assert pods["app.kubernetes.io/version"] == "1.0"
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == "m"


def test_ports_are_named_alike() -> None:
    found = made()
    (port,) = pod()["containers"][0]["ports"]
    (service,) = found["Service"]["spec"]["ports"]
    (scraped,) = found["ServiceMonitor"]["spec"]["endpoints"]
    assert port["name"] == service["targetPort"]
    assert scraped["port"] == service["name"]


def test_the_number_of_pods_is_the_autoscalers_where_there_is_one() -> None:
    found = made()
    assert "replicas" not in found["Deployment"]["spec"]
    autoscaler = found["HorizontalPodAutoscaler"]["spec"]
    assert (autoscaler["minReplicas"], autoscaler["maxReplicas"]) == (2, 4)
    fixed = made(replace(WANTED, deployed=replace(DEPLOYED, replicas=3, most=3)))
    assert "HorizontalPodAutoscaler" not in fixed
    assert fixed["Deployment"]["spec"]["replicas"] == 3


def test_pods_are_added_before_requests_wait_long() -> None:
    two = made(WANTED, replace(DEMAND, room=4), replace(DEMAND, name="n", room=1))
    metrics = two["HorizontalPodAutoscaler"]["spec"]["metrics"]
    targets = {one["pods"]["metric"]["name"]: one["pods"]["target"]["averageValue"] for one in metrics}
    assert targets == {WAITING: "5", RUNNING: "4000m"}
    assert "app.kubernetes.io/version" not in two["Deployment"]["metadata"]["labels"]  # whose?


def test_the_key_is_that_of_a_secret_and_never_written() -> None:
    (variable,) = pod()["containers"][0]["env"]
    assert variable == {
        "name": "TORCHMAR_INFERENCE_KEY",
        "valueFrom": {"secretKeyRef": {"name": "m-key", "key": "inference"}},
    }


def test_handlers_get_nothing_of_the_cluster() -> None:
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False
    assert pod()["volumes"] == [{"name": "tmp", "emptyDir": {}}]


def test_its_end_has_time() -> None:
    found = pod()
    (_, seconds) = found["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert found["terminationGracePeriodSeconds"] > int(seconds) + 30


@pytest.mark.parametrize("label", ["team", "app.kubernetes.io/version"])
def test_labels_of_the_user_are_on_every_object_and_pod(label: str) -> None:
    found = made(replace(WANTED, deployed=replace(DEPLOYED, labels={label: "x"}, namespace="ns", pull_secret="reg")))
    assert {one["metadata"]["labels"][label] for one in found.values()} == {"x"}
    assert {one["metadata"]["namespace"] for one in found.values()} == {"ns"}
    template = found["Deployment"]["spec"]["template"]
    assert template["metadata"]["labels"][label] == "x"
    assert template["spec"]["imagePullSecrets"] == [{"name": "reg"}]


@pytest.mark.parametrize("label", ["app.kubernetes.io/name", "app.kubernetes.io/instance"])
def test_labels_that_find_the_pods_are_nobody_elses(label: str) -> None:
    with pytest.raises(InputError, match=f"the label {label} is torchmar's"):
        made(replace(WANTED, deployed=replace(DEPLOYED, labels={label: "x"})))


def test_nothing_for_prometheus_without_its_operator() -> None:
    assert "ServiceMonitor" not in made(replace(WANTED, monitor=False))
