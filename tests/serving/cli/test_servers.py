from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner

from serving.cli import servers
from serving.cli.servers import env, home, start, status, stop
from serving.client import ModelSummary, TrafficShare
from serving.control import StateFolder
from serving.control.configuration.java import WORKER_SCRIPT
from serving.control.server import Started
from tests.serving.control.test_state import record

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("port", ["0", "65532", "x", "-1", "80.5"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    done = CliRunner().invoke(start, ["--port", port])
    assert done.exit_code == 2
    assert "neither 'auto' nor a port" in done.output


def test_env_prints_a_line_for_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    done = CliRunner().invoke(env)
    name, _, value = done.output.strip().removeprefix("export ").partition("=")
    assert name == "JAVA_HOME"
    assert (Path(value) / "bin" / "java").exists()


def test_home_prints_a_folder_with_our_worker() -> None:
    printed = Path(CliRunner().invoke(home).output.removesuffix("\n"))
    assert printed.is_absolute()
    assert printed.samefile(ROOT / "serving" / "worker" / "home")
    assert (printed / WORKER_SCRIPT).is_file()


def test_home_imports_neither_torch_nor_the_worker() -> None:
    code = (
        "import sys\nfrom archive_tool.cli.entry import main\nassert main(['home']) == 0\n"
        "print([name for name in ('torch', 'ts', 'serving.worker') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("worker", ["torchmar", "torchserve"])
def test_status_tells_whose_worker_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str) -> None:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    state = StateFolder("default")
    state.create()
    state.write(record(worker=worker))
    healthy = MagicMock()
    healthy.__enter__.return_value.ping.return_value = True
    monkeypatch.setattr(servers, "inference_client", lambda *_: healthy)
    assert f"  worker         {worker}\n" in CliRunner().invoke(status).output
    assert json.loads(CliRunner().invoke(status, ["--json"]).output)["worker"] == worker


@pytest.mark.parametrize(("arguments", "expected"), [([], False), (["--stock-worker"], True)])
def test_whose_worker_start_is_asked_for(monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: bool) -> None:
    begin = MagicMock()
    monkeypatch.setattr("serving.control.start", begin)
    assert CliRunner().invoke(start, ["-q", *arguments]).exit_code == 0
    assert begin.call_args.args[0].stock_worker is expected


@pytest.mark.parametrize("flags", [(), ("--enable-model-api",), ("--enable-model-api", "--disable-token-auth")])
def test_what_start_is_asked_to_leave_open(monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]) -> None:
    begin = MagicMock(side_effect=lambda *given: given[-1]("it is open"))
    monkeypatch.setattr("serving.control.start", begin)
    done = CliRunner().invoke(start, ["-q", *flags])
    options = begin.call_args.args[0]
    found = (options.enable_model_api, options.disable_token_auth)
    assert found == ("--enable-model-api" in flags, "--disable-token-auth" in flags)
    assert done.output == "warning: it is open\n"


@pytest.mark.parametrize(
    ("arguments", "expected"), [([], None), (["--frontend", "python"], "python"), (["--frontend", "java"], "java")]
)
def test_which_frontend_start_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], expected: str | None
) -> None:
    begin = MagicMock()
    monkeypatch.setattr("serving.control.start", begin)
    assert CliRunner().invoke(start, ["-q", *arguments]).exit_code == 0
    options = begin.call_args.args[0]
    assert (options.frontend, options.single_port) == (expected, False)
    assert CliRunner().invoke(start, ["--frontend", "rust"]).exit_code == 2


def test_status_tells_which_frontend_it_is_and_nothing_that_it_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    state = StateFolder("default")
    state.create()
    state.write(record(frontend="python", grpc_inference=""))
    healthy = MagicMock()
    healthy.__enter__.return_value.ping.return_value = True
    monkeypatch.setattr(servers, "inference_client", lambda *_: healthy)
    managed = MagicMock()
    share = TrafficShare(5, shadow=True, sticky_headers=())
    rows = [ModelSummary("mnist", "mnist.mar", {"2.0": share}), ModelSummary("other", "other.mar")]
    managed.__enter__.return_value.models.return_value = rows
    monkeypatch.setattr(servers, "management_client", lambda *_: managed)
    shown = CliRunner().invoke(status).output
    assert "  share          mnist 2.0: 5 % as copies\n" in shown
    assert json.loads(CliRunner().invoke(status, ["--json"]).output)["traffic"] == {
        "mnist": {"2.0": {"percent": 5, "shadow": True, "sticky_headers": []}}
    }
    assert "  frontend       python\n" in shown
    assert "grpc" not in shown


@pytest.mark.parametrize(
    ("addresses", "metrics", "curl"),
    [
        ({}, "http://127.0.0.1:3/metrics", "curl http://127.0.0.1:1/predictions/m -T FILE"),
        (
            {"inference": "unix:/a b/in.sock", "metrics": "unix:/a b/metrics.sock"},
            "unix:/a b/metrics.sock",
            "curl --unix-socket '/a b/in.sock' http://localhost/predictions/m -T FILE",
        ),
        ({"inference": "http://0.0.0.0:1", "metrics": ""}, "", "curl http://127.0.0.1:1/predictions/m -T FILE"),
        ({"inference": "http://[::]:1", "metrics": ""}, "", "curl http://[::1]:1/predictions/m -T FILE"),
    ],
)
def test_start_and_status_name_addresses_that_can_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: dict[str, str], metrics: str, curl: str
) -> None:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    state = StateFolder("default")
    state.create()
    served = record(**addresses)
    state.write(served)
    model = MagicMock(version="1.0", ready_workers=1)
    model.name = "m"
    begin = MagicMock(return_value=Started(served, (model,), 1.0, MagicMock()))
    monkeypatch.setattr("serving.control.start", begin)
    shown = CliRunner().invoke(start).output.splitlines()
    assert [line for line in shown if "metrics" in line] == ([f"  metrics     {metrics}"] if metrics else [])
    assert shown[-1] == f"try: {curl}"
    monkeypatch.setattr(servers, "inference_client", MagicMock())
    shown = [line for line in CliRunner().invoke(status).output.splitlines() if "metrics" in line]
    assert shown == ([f"  metrics        {metrics}"] if metrics else [])


def test_a_start_without_models_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("serving.control.start", MagicMock(return_value=Started(record(), (), 1.0, MagicMock())))
    assert CliRunner().invoke(start).output.splitlines()[-1].startswith("no model is served: ")


def test_stopping_all_of_none_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    done = CliRunner().invoke(stop, ["--all"])
    assert "no server is running" in str(done.exception)
