"""torchmar serve on the command line; tests/integration/test_image.py starts real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

import archive_tool
from archive_tool.cli import entry


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
    assert "'high' is not" in failed(capsys, "--root", str(root), code=2)


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


def test_the_check_of_a_container_without_a_server(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no server 'default' is running" in failed(capsys, "--check", code=7)
