"""A worker's command line and environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.control.configuration.workers import command_of, environment_of, module_folder

HOME = Path("/opt/home")


def test_the_command_line() -> None:
    script, metrics = "/opt/home/ts/model_service_worker.py", ["--metrics-config", "/opt/home/ts/configs/metrics.yaml"]
    assert command_of(HOME, "/r/.ts.sock.9000") == [
        script, "--sock-type", "unix", "--sock-name", "/r/.ts.sock.9000", *metrics
    ]  # fmt: skip
    assert command_of(HOME, 9000) == [script, "--sock-type", "tcp", "--port", "9000", *metrics]
    assert command_of(HOME, 9000, "m.yaml", asynchronous=True)[5:] == ["--metrics-config", "m.yaml", "--async"]


def test_the_environment_is_the_one_given_and_says_where_modules_are(tmp_path: Path) -> None:
    found = environment_of(HOME, tmp_path, "sub/h.py:f", {"A": "1", "PYTHONPATH": "/mine"})
    assert found["A"] == "1"
    assert found["PYTHONPATH"] == f"sub:/mine:{tmp_path}:{HOME}"
    assert [found[f"TS_{name}"] for name in ("DECODE_INPUT_REQUEST", "IPEX_ENABLE", "IPEX_GPU_ENABLE")] == [
        "true",
        "false",
        "false",
    ]
    assert environment_of(HOME, tmp_path, None, {}, decode=False, ipex=True)["TS_DECODE_INPUT_REQUEST"] == "false"


def test_a_home_among_installed_packages_is_not_named(tmp_path: Path) -> None:
    home = Path("/usr/lib/python3/dist-packages/serving/worker/home")
    assert environment_of(home, tmp_path, None, {})["PYTHONPATH"] == str(tmp_path)


def test_a_folder_that_is_a_link_has_the_modules_beside_it_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "m").symlink_to(tmp_path / "real")
    path = environment_of(HOME, tmp_path / "links" / "m", None, {})["PYTHONPATH"].split(":")
    assert path == [str(tmp_path / "real"), str(tmp_path / "links"), str(HOME)]


@pytest.mark.parametrize(
    ("handler", "folder"), [(None, ""), ("h.py", ""), ("a/b/h.py:f", "a/b"), ("/a/h.py:f", "/a"), ("h.py:f", "h.py")]
)
def test_the_further_folder_that_a_handler_means(handler: str | None, folder: str) -> None:
    assert module_folder(handler) == folder
