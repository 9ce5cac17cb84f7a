"""The virtual environment of a model: its own packages first, then all that the interpreter below it sees."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from serving.worker import __file__ as worker_file
from serving.worker.scripts import venv as model_venv

HOME = Path(worker_file).parent / "home"
SCRIPT = HOME / "ts" / "utils" / "setup_model_venv.py"


def site_packages(folder: Path) -> Path:
    (found,) = folder.glob("lib/python*/site-packages")
    return found


def interpreter(folder: Path) -> Path:
    return folder / "bin" / "python"


def clean(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **more}


def run(python: Path, code: str) -> str:
    command = [python, "-c", code]
    return subprocess.run(command, env=clean(), capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an interpreter without torchmar, whose packages come in each of the ways there are."""
    root = tmp_path_factory.mktemp("base é")
    folder = root / "env"
    venv.create(folder, symlinks=True)
    packages = site_packages(folder)
    (packages / "plain.py").write_text("WHERE = 'base'")
    (packages / "both.py").write_text("WHERE = 'base'")
    (packages / "hook.py").write_text("import sys, types\nsys.modules['hooked'] = types.ModuleType('hooked')\n")
    (packages / "hook.pth").write_text("import hook\n")
    linked = root / "linked"
    linked.mkdir()
    (linked / "editable.py").touch()
    (packages / "editable.pth").write_bytes(f"{linked}\n".encode())
    return folder


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what the script makes of it, run as the frontend does, over something that was there before."""
    root = tmp_path_factory.mktemp("model")
    target = root / "venv"
    target.mkdir()
    (target / "leftover").touch()
    (root / "of_the_model.py").touch()
    environ = clean(PYTHONPATH=f"{root}{os.pathsep}{HOME}")
    done = subprocess.run(
        [interpreter(base), SCRIPT, target], cwd=root, env=environ, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (site_packages(target) / "both.py").write_text("WHERE = 'model'")
    return target


@pytest.mark.slow  # pip, twice
def test_it_replaces_what_was_there(made: Path) -> None:
    assert not (made / "leftover").exists()


def test_it_has_pip(made: Path) -> None:
    assert str(site_packages(made)) in run(interpreter(made), "import pip; print(pip.__file__)")


@pytest.mark.parametrize("module", ["plain", "hooked", "editable"])
def test_what_the_base_sees_is_seen(made: Path, module: str) -> None:
    run(interpreter(made), f"import {module}")


def test_its_own_packages_come_first(made: Path) -> None:
    assert run(interpreter(made), "import both; print(both.WHERE)") == "model"


def test_the_path_holds_nothing_else_and_nothing_twice(made: Path, base: Path) -> None:
    path = run(interpreter(made), "import sys; print(ascii(sys.path))")
    entries: list[str] = eval(path)
    assert len(entries) == len(set(entries))
    inherited = entries[entries.index(str(site_packages(made))) + 1 :]
    assert inherited == [str(site_packages(base)), str(base.parent / "linked")]


def test_the_frontends_home_and_the_models_folder_are_not_inherited(made: Path) -> None:
    text = (site_packages(made) / model_venv.PTH_NAME).read_text()
    assert str(HOME) not in text
    assert str(made.parent) not in text


def failure(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    done = subprocess.run(command, env=clean(), capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    return done.returncode, line


@pytest.mark.parametrize("arguments", [(), ("a", "b")])
def test_one_argument_is_needed(arguments: tuple[str, ...]) -> None:
    assert failure(*arguments) == (2, "usage: setup_model_venv.py FOLDER")


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for target in (file, file / "venv"):
        code, line = failure(target)
        assert code == 1
        assert line.startswith(f"cannot make the virtual environment {target}: ")
    assert file.read_text() == "kept"


def test_nothing_half_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        output = b"Traceback\n/x/bin/python: No module named ensurepip\n"
        raise subprocess.CalledProcessError(1, ["python"], output)

    monkeypatch.setattr(model_venv._Builder, "_setup_pip", broken)
    assert model_venv.main([str(tmp_path / "venv")]) == 1
    assert list(tmp_path.iterdir()) == []
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "apt install python3-venv" in error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (subprocess.CalledProcessError(3, ["pip"], b"much\n\nthe cause\n"), "the cause"),
        (subprocess.CalledProcessError(3, ["pip"], stderr=b"other\n"), "other"),
        (subprocess.CalledProcessError(3, ["pip"]), "pip ended with 3"),
        (OSError("two\nlines"), "two lines"),
        (KeyError(), "KeyError"),
    ],
)
def test_the_reason_is_one_line(error: Exception, reason: str) -> None:
    assert model_venv._reason(error) == reason
