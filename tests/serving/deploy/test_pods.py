"""The container of an image, as Kubernetes and KServe are told to run it."""

from __future__ import annotations

import re

from serving.control import server as control
from serving.deploy.pods import END_S, PORT, Deployed, container
from serving.frontend import server as frontend
from serving.image.dockerfile import Wanted, dockerfile

DEPLOYED = Deployed("r/m:1", None, 2, 4, None, 601, None)


def test_a_pod_is_not_killed_before_it_ends_by_itself() -> None:
    assert END_S > control._GRACE_S >= frontend.GRACE_S + frontend.NOTICE_S


def test_its_start_is_ended_by_torchmar_serve_and_not_by_kubernetes() -> None:
    """The former says why."""
    probe = container("c", DEPLOYED, [], {})["startupProbe"]
    assert probe["periodSeconds"] * (probe["failureThreshold"] - 1) > DEPLOYED.timeout_s


def test_it_has_no_rights() -> None:
    # What the policy "restricted" of Kubernetes asks for, and a root that is read-only.
    assert container("c", DEPLOYED, [], {})["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_it_is_what_the_image_says() -> None:
    image = dockerfile(Wanted("plain", "cpu", None, "w.whl", (), archives=True, config=False))
    made = container("c", DEPLOYED, ["--workers=2"], {})
    assert f"EXPOSE {PORT}\n" in image
    # runAsNonRoot starts no image whose user has a name alone.
    assert re.search(r"^USER [1-9][0-9]*$", image, re.MULTILINE)
    assert [mount["mountPath"] for mount in made["volumeMounts"]] == ["/tmp"]
    assert 'VOLUME ["/tmp"]' in image
    assert "command" not in made  # the entry point is the image's
    assert made["args"] == ["--workers=2"]
    assert all(made[f"{name}Probe"]["httpGet"]["port"] == PORT for name in ("startup", "readiness", "liveness"))


def test_what_is_not_said_is_left_out() -> None:
    assert DEPLOYED.of_models() == []
    assert DEPLOYED.of_pods() == ["--timeout=601"]
    assert DEPLOYED.metadata("x") == {"name": "x"}
    assert DEPLOYED.pull_secrets() == {}
    more = Deployed("r/m:1", "ns", 1, 1, 3, 60, "reg", {"team": "a"})
    assert more.of_models() == ["--workers=3"]
    assert more.metadata("x", own="b") == {"name": "x", "namespace": "ns", "labels": {"own": "b", "team": "a"}}
    assert more.pull_secrets() == {"imagePullSecrets": [{"name": "reg"}]}
