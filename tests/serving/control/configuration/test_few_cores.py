"""The frontend's settings on few cores."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serving import cores
from serving.control import StartOptions
from serving.control.configuration import few_cores
from serving.control.configuration.few_cores import COLLECTOR, THREADS
from serving.control.configuration.java import java_home
from serving.control.preparing import configured

ON = {"TORCHMAR_FEW_CORES": "1"}


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available", lambda: 2)


@pytest.mark.parametrize(
    ("environ", "count", "expected"),
    [
        ({}, 2, False),
        ({"TORCHMAR_FEW_CORES": "0"}, 2, False),
        (ON, 2, True),
        (ON, 1, True),
        (ON, 3, False),
    ],
)
def test_it_is_for_few_cores_and_must_be_asked_for(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], count: int, expected: bool
) -> None:
    monkeypatch.setattr(cores, "available", lambda: count)
    assert few_cores.applies(environ) is expected
    assert few_cores.vm_options(["-Xmx1g"], environ) == ((COLLECTOR, "-Xmx1g") if expected else ("-Xmx1g",))
    assert few_cores.properties({}, environ) == (THREADS if expected else {})


@pytest.mark.parametrize("variable", ["", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"])
@pytest.mark.parametrize(
    "option",
    [
        "-XX:+UseG1GC",
        "-XX:-UseSerialGC",
        "-XX:+UseZGC",
        "-XX:MaxGCPauseMillis=50",
        "-XX:ParallelGCThreads=2",
        "-XX:G1HeapRegionSize=4m",
        "-XX:Flags=f",
        "@f",
    ],
)
def test_a_collector_of_the_users_stays(option: str, variable: str) -> None:
    environ = ON | ({variable: f"-Xmx1g {option}"} if variable else {})
    given = ("-Xmx2g",) if variable else ("-Xmx2g", option)
    assert few_cores.vm_options(given, environ) == given


def test_java_takes_the_collector() -> None:
    command = [str(java_home() / "bin" / "java"), *few_cores.vm_options(["-Xmx64m"], ON), "-version"]
    assert subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0


def test_threads_of_the_users_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(few_cores.VARIABLE, "1")
    config = tmp_path / "config.properties"
    config.write_text("number_of_netty_threads=3\nenable_envvars_config=true\n")
    found = configured(StartOptions(ts_config=config), lambda _: None, given_keys=False)
    assert (found["number_of_netty_threads"], found["netty_client_threads"]) == ("3", "1")
    monkeypatch.setenv("TS_NETTY_CLIENT_THREADS", "5")
    assert configured(StartOptions(ts_config=config), lambda _: None, given_keys=False)["netty_client_threads"] == "5"
