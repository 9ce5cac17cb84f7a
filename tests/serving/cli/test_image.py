"""torchmar image on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

import archive_tool
from archive_tool.cli import entry


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "h.py").write_text("def handle(data, context):\n    return data\n")
    archive_tool.build(model_name="echo", handler="h.py", export_path=tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))  # nothing builds here
    return tmp_path / "echo.mar"


def test_a_context_is_written_and_how_to_build_it_is_said(echo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["image", "echo.mar", "--tag", "mine:1"]) == 0
    assert capsys.readouterr().out == "image  1 archive\nbuild it: docker build --tag mine:1 image\n"
    assert (echo.parent / "image" / "model_store" / "echo.mar").read_bytes() == echo.read_bytes()
    assert entry.main(["image", "echo.mar"]) == 1
    assert "--force" in capsys.readouterr().err
    assert entry.main(["image", "echo.mar", "-f", "-q", "--for", "sagemaker", "--device", "cuda"]) == 0
    assert capsys.readouterr().out == ""
    text = (echo.parent / "image" / "Dockerfile").read_text()
    assert "TORCHMAR_TRUSTED_NETWORK=1" in text
    assert "--index-url" not in text


def test_images_of_platforms_need_no_archives(echo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["image"]) == 2
    assert "name the archives" in capsys.readouterr().err
    assert entry.main(["image", "--for", "kserve", "--output", "k"]) == 0
    assert not (echo.parent / "k" / "model_store").exists()


def test_what_is_wrong_is_said(echo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["image", "gone.mar"]) == 1
    assert "no such archive: gone.mar" in capsys.readouterr().err
    assert entry.main(["image", "echo.mar", "--base", "x\nUSER root"]) == 1
    assert "not the name of an image" in capsys.readouterr().err
    assert entry.main(["image", "echo.mar", "--for", "azure"]) == 2
    assert entry.main(["image", "echo.mar", "--build"]) == 1
    assert "none of docker, podman, buildah is installed" in capsys.readouterr().err
    assert (echo.parent / "image" / "Dockerfile").exists()  # to be built elsewhere


def test_a_played_builder_builds_it(echo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (echo.parent / "bin").mkdir()
    podman = echo.parent / "bin" / "podman"
    podman.write_text(f'#!/bin/sh\necho "$@" > {echo.parent}/told\n')
    podman.chmod(0o755)
    assert entry.main(["image", "echo.mar", "--build"]) == 0
    assert capsys.readouterr().out == "image  1 archive\nbuilt torchmar\n"
    assert (echo.parent / "told").read_text() == "build --format docker --tag torchmar image\n"
