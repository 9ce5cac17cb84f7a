"""Which builder is asked, and how; the builders are scripts that play them."""

from __future__ import annotations

from pathlib import Path

import pytest

from archive_tool.errors import InputError, TorchmarError
from serving.image.building import build, command


def play(folder: Path, name: str, line: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_the_first_builder_that_is_installed_is_asked(programs: Path) -> None:
    with pytest.raises(InputError, match="none of docker, podman, buildah is installed") as error:
        command(Path("image"), "mine")
    assert "docker build --tag mine image" in str(error.value.hint)
    play(programs, "buildah", "true")
    assert command(Path("image"), "mine") == ["buildah", "build", "--format", "docker", "--tag", "mine", "image"]
    play(programs, "docker", "true")
    assert command(Path("image"), "mine") == ["docker", "build", "--tag", "mine", "image"]
    assert command(Path("image"), "mine", "buildah")[0] == "buildah"
    assert command(Path("-image"), "mine")[-1] == "./-image"
    with pytest.raises(InputError, match="podman is installed"):
        command(Path("image"), "mine", "podman")


def test_a_played_builder_gets_the_context_and_its_failure_is_told(programs: Path, tmp_path: Path) -> None:
    play(programs, "docker", f'echo "$@" > {tmp_path}/told; exit $(cat {tmp_path}/code)'.replace("cat", "/bin/cat"))
    (tmp_path / "code").write_text("0")
    build(tmp_path / "image", "mine:1.0")
    assert (tmp_path / "told").read_text() == f"build --tag mine:1.0 {tmp_path}/image\n"
    (tmp_path / "code").write_text("17")
    with pytest.raises(TorchmarError, match=r"docker could not build the image \(exit code 17\)"):
        build(tmp_path / "image", "mine:1.0")
