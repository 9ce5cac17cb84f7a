"""What is settled before a server is started."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import archive_tool
from archive_tool.errors import InputError
from serving.control import StartOptions, StateFolder, preparing, start
from serving.control.configuration.config import ModelSpec, write_properties
from serving.control.configuration.java import torchserve_home, worker_home
from serving.control.configuration.vmargs import STOCK_HOME
from serving.control.preparing import Prepared, _home
from serving.errors import StartError

from .configuration.test_vmargs import make_home


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the path of another program's home, relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    make_home(tmp_path / "other")
    return "other"


def test_our_worker_is_the_default() -> None:
    assert _home(StartOptions(), None, "") == worker_home()


def test_a_home_of_the_configuration_wins_and_vmargs_over_the_key(tmp_path: Path, other: str) -> None:
    assert _home(StartOptions(), other, "") == tmp_path / other
    assert _home(StartOptions(), None, other) == tmp_path / other
    assert _home(StartOptions(), STOCK_HOME, other) == worker_home()


def test_the_command_line_wins_over_the_configuration(other: str) -> None:
    options = StartOptions(stock_worker=True)
    assert _home(options, other, other) == _home(options, "nowhere", "") == torchserve_home()


def test_the_python_frontend_needs_torchserve_for_its_worker_alone(
    monkeypatch: pytest.MonkeyPatch, other: str, tmp_path: Path
) -> None:
    def missing() -> Path:
        raise StartError("TorchServe's frontend is not installed")

    monkeypatch.setattr("serving.control.configuration.java.torchserve_home", missing)
    assert _home(StartOptions(), None, "", "python") == worker_home()
    assert _home(StartOptions(), other, "", "python") == tmp_path / other
    with pytest.raises(StartError, match="not installed"):
        _home(StartOptions(stock_worker=True), None, "", "python")
    with pytest.raises(StartError, match="not installed"):
        _home(StartOptions(), None, "", "java")


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Prepared]]:
    """Return what prepares a start, with a configuration, in a state folder; nothing is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHMAR_FRONTEND", raising=False)
    folders: list[Path] = []

    def prepare(text: str = "", warn: Callable[[str], None] = lambda _: None, **options: Any) -> Prepared:
        (tmp_path / "config.properties").write_text(text)
        state = StateFolder("default", tmp_path)
        state.create()
        given = StartOptions(**{"model_store": tmp_path, "models": ("none",), "port": "auto"} | options)
        found = preparing.prepare(given, state, warn)
        folders.append(found.runtime_folder)
        return found

    yield prepare
    for folder in folders:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("option", "variable", "text", "expected"),
    [
        (None, "", "", "java"),
        (None, "", "torchmar_frontend=python\n", "python"),
        (None, "java", "torchmar_frontend=python\n", "java"),
        (None, "python", "", "python"),
        ("java", "python", "torchmar_frontend=python\n", "java"),
    ],
)
def test_the_frontend_is_chosen(
    prepared: Callable[..., Prepared],
    monkeypatch: pytest.MonkeyPatch,
    option: str | None,
    variable: str,
    text: str,
    expected: str,
) -> None:
    monkeypatch.setenv("TORCHMAR_FRONTEND", variable)
    found = prepared(text, frontend=option)
    assert (found.launch.name, found.properties["torchmar_frontend"]) == (expected, expected)


def test_a_restored_server_has_the_frontend_that_it_had(prepared: Callable[..., Prepared], tmp_path: Path) -> None:
    snapshot = {"model_snapshot": '{"models": {}}', "torchmar_frontend": "python"}
    state = StateFolder("default", tmp_path)
    state.create()
    write_properties(state.last_models, snapshot)
    assert prepared(models=()).launch.name == "java"
    assert prepared(models=(), restore=True).launch.name == "python"
    assert prepared(models=(), restore=True, frontend="java").launch.name == "java"


@pytest.mark.parametrize("name", ["m", "a=b", "a,b", "a b", "a,b=c", "=", "Zürich", "-x", "all", "none"])
def test_a_model_is_restored_whatever_it_is_called(
    prepared: Callable[..., Prepared], tmp_path: Path, name: str
) -> None:
    """Over REST a model has any name that a log can hold."""
    (tmp_path / "h.py").write_text("def handle(data, context):\n    return data\n")
    archive_tool.build(model_name="m", handler=str(tmp_path / "h.py"), export_path=tmp_path, force=True)
    told = {"defaultVersion": True, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
    text = json.dumps({"models": {name: {"1.0": told | {"maxBatchDelay": 100}}}})
    state = StateFolder("default", tmp_path)
    state.create()
    write_properties(state.last_models, {"model_snapshot": text, "torchmar_frontend": "python"})
    assert prepared(models=(), restore=True).selection.models == (ModelSpec(name, "m.mar"),)


def test_java_is_not_looked_for_with_the_python_frontend(
    prepared: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert prepared(frontend="python").launch.name == "python"
    with pytest.raises(StartError, match="has no bin/java"):
        prepared(frontend="java")


def test_what_is_javas_alone_is_told_or_refused(prepared: Callable[..., Prepared], tmp_path: Path) -> None:
    told: list[str] = []
    prepared("netty_client_threads=1\nvmargs=-Xmx4g\njob_queue_size=5\n", told.append, frontend="python")
    assert [text.split()[1] for text in told] == ["netty_client_threads", "vmargs"]
    told.clear()
    prepared("netty_client_threads=1\nvmargs=-Xmx4g\n", told.append, frontend="java")
    assert told == []
    (tmp_path / "plugins").mkdir()
    with pytest.raises(InputError, match="plugins are written in Java"):
        prepared("plugins_path=plugins\n", frontend="python")


def test_a_single_port_is_that_of_the_inference_api(prepared: Callable[..., Prepared]) -> None:
    properties = prepared(frontend="python", single_port=True).properties
    assert len({properties[f"{api}_address"] for api in ("inference", "management", "metrics")}) == 1
    with pytest.raises(InputError, match="needs more than a single port"):
        prepared(frontend="java", single_port=True)


def test_a_timeout_that_is_no_number_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.properties").write_text("default_response_timeout=soon\n")
    state = StateFolder("default", tmp_path)
    with pytest.raises(InputError, match="default_response_timeout=soon"):
        start(StartOptions(model_store=tmp_path, port="auto"), state)
    assert not state.logs.exists()


ON_RAY = StartOptions(frontend="ray", settings={"inference_address": "http://0.0.0.0:8080"})


def test_a_configuration_that_nobody_named_opens_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.properties").write_text("disable_token_authorization=true\nvmargs=-Xmx1g\nio_ratio=50\n")
    warned: list[str] = []
    properties = preparing.configured(ON_RAY, warned.append, given_keys=False)
    assert properties["disable_token_authorization"] == "false"
    assert [text.partition(" does")[0] for text in warned] == ["disable_token_authorization=true of config.properties"]
    # On loopback none is needed anyway, and there is nothing to say.
    here = replace(ON_RAY, settings={"inference_address": "http://127.0.0.1:8080"})
    assert preparing.configured(here, warned.append, given_keys=False)["disable_token_authorization"] == "true"
    assert len(warned) == 1


def test_an_error_of_a_setting_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("config.properties")
    file.write_text("disable_token_authorization=true\n")
    with pytest.raises(StartError, match="refusing to listen") as caught:
        preparing.configured(replace(ON_RAY, ts_config=file), print, given_keys=False)
    assert caught.value.where == "config.properties"
    for text in ("plugins_path=x", "client_auth=required"):
        file.write_text(f"{text}\n")
        with pytest.raises(InputError) as refused:
            preparing.configured(StartOptions(frontend="python"), print, given_keys=False)
        assert "config.properties" in str(refused.value)
