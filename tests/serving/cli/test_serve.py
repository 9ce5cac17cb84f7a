"""torchmar serve on the command line; tests/integration/test_image.py starts real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

import archive_tool
from archive_tool.cli import entry
from serving.control import StartOptions
from serving.control.configuration.config import HTTP_KEYS, effective, read_properties


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SAGEMAKER_MULTI_MODEL", "TORCHMAR_TRUSTED_NETWORK", "SAGEMAKER_BIND_TO_PORT", "PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "root" / "mnt" / "models").mkdir(parents=True)
    return tmp_path / "root"


def failed(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    assert entry.main(["serve", *arguments]) == code
    return capsys.readouterr().err


def test_what_cannot_be_served_is_said(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no model" in failed(capsys, "serve", "--root", str(root))
    assert "there is no model" in failed(capsys, "--root", str(root), "--model_name=x", "--http_port=8080")
    assert "no such folder" in failed(capsys, "--root", str(root), "--model_dir", str(root / "gone"))
    assert "train" in failed(capsys, "train", code=2)  # SageMaker's other word
    assert "--http-port" in failed(capsys, "--http_port", "0", code=2)
    monkeypatch.setenv("SAGEMAKER_BIND_TO_PORT", "high")
    told = failed(capsys, "--root", str(root), code=2)
    assert "SAGEMAKER_BIND_TO_PORT in the environment: 'high' is not" in told
    assert "--http-port" in failed(capsys, "--http-port", "0", code=2), "what is typed wins, and is named"


def test_multi_model_calls_need_a_trusted_network(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAGEMAKER_MULTI_MODEL", "true")
    assert "the network is not said to be trusted" in failed(capsys, "--root", str(root))
    monkeypatch.setenv("TORCHMAR_TRUSTED_NETWORK", "yes")
    assert "neither 0 nor 1" in failed(capsys, "--root", str(root))


def test_a_trusted_network_and_keys_do_not_go_together(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "h.py").write_text("def handle(data, context):\n    return data\n")
    archive_tool.build(model_name="m", handler=root / "h.py", export_path=root / "mnt" / "models")
    monkeypatch.setenv("TORCHMAR_TRUSTED_NETWORK", "1")
    monkeypatch.setenv("TORCHMAR_INFERENCE_KEY", "a-key-of-the-users-own")
    told = failed(capsys, "--root", str(root))
    assert "the environment gives keys, and says that the network is trusted" in told
    monkeypatch.delenv("TORCHMAR_TRUSTED_NETWORK")
    monkeypatch.setenv("TORCHMAR_INFERENCE_KEY", "short")
    told = failed(capsys, "--root", str(root))
    assert "requests need a key, which KServe does not send" in told
    assert "can be guessed" in told


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[StartOptions, str]]:
    """Return what a server would be started with, and what would be said if it served no model."""
    found: list[tuple[StartOptions, str]] = []

    def in_foreground(options: StartOptions, state: object, *, empty: str) -> None:
        found.append((options, empty))

    monkeypatch.setattr("serving.cli.servers.in_foreground", in_foreground)
    return found


def test_the_environment_moves_no_address_of_a_container(
    root: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[StartOptions, str]]
) -> None:
    models = root / "mnt" / "models"
    (models / "model-store").mkdir()
    (models / "config").mkdir()
    (models / "config" / "config.properties").write_text("enable_envvars_config=$$YES$$\njob_queue_size=7\n")
    monkeypatch.setenv("YES", "true")
    for key in (*HTTP_KEYS, "grpc_inference_address"):
        monkeypatch.setenv(f"TS_{key.upper()}", "http://0.0.0.0:9999")
    monkeypatch.setenv("TS_JOB_QUEUE_SIZE", "9")
    monkeypatch.setenv("TS_LOAD_MODELS", "x.mar")
    assert entry.main(["serve", "--root", str(root), "--http-port", "8085"]) == 0
    ((options, _),) = asked
    assert options.ts_config is not None
    properties = effective(read_properties(options.ts_config), port=None, workers=None)
    assert properties["inference_address"] == properties["metrics_address"] == "http://0.0.0.0:8085"
    assert properties["management_address"].startswith("unix:")
    assert properties["job_queue_size"] == "9"  # all else may come from it, as in TorchServe
    assert properties["load_models"] == "x.mar"
    assert options.models == ()


def test_a_container_without_models_says_where_they_come_from(
    root: Path, monkeypatch: pytest.MonkeyPatch, asked: list[tuple[StartOptions, str]]
) -> None:
    (root / "mnt" / "models" / "model-store").mkdir()
    assert entry.main(["serve", "--root", str(root)]) == 0
    monkeypatch.setenv("SAGEMAKER_MULTI_MODEL", "true")
    monkeypatch.setenv("TORCHMAR_TRUSTED_NETWORK", "1")
    assert entry.main(["serve", "--root", str(root)]) == 0
    (_, mounted), (_, later) = asked
    assert mounted == f"no model is served: {root / 'mnt' / 'models'} holds none"
    assert later == f"no model is served yet: SageMaker loads what lies below {root / 'opt' / 'ml' / 'models'}"


def test_the_check_of_a_container_without_a_server(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no server 'default' is running" in failed(capsys, "--check", code=7)
