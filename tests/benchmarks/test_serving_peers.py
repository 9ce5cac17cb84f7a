from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks.serving_bench import servers, workloads
from benchmarks.serving_bench.contenders import KINDS, Contender
from benchmarks.serving_bench.peers import environment, server
from benchmarks.serving_bench.servers import BenchmarkError
from benchmarks.serving_bench.workloads import Workload, noop

MOSEC, FASTAPI, SHARED = (Contender.parse(kind) for kind in ("mosec", "fastapi", "shared"))


def options_of(command: list[str]) -> dict[str, str]:
    end = command.index("--bodies")
    return dict(zip(command[3:end:2], command[4:end:2], strict=True))


def test_each_peer_is_told_the_same_but_for_what_is_mosecs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "python", lambda: Path("/e/bin/python"))
    bodies = [Path("a.png"), Path("b.png")]
    mosec, fastapi = (
        server.start_command(each, 1, 8080, "/predictions/m", Path("/f"), bodies) for each in (MOSEC, FASTAPI)
    )
    assert mosec[:3] == ["/e/bin/python", "-m", "benchmarks.serving_bench.peers.mosec_app"]
    assert fastapi[2] == "benchmarks.serving_bench.peers.fastapi_app"
    assert mosec[-3:] == fastapi[-3:] == ["--bodies", "a.png", "b.png"]
    assert (options_of(mosec)["--batch"], options_of(mosec)["--wait"]) == ("32", "0")
    own = options_of(mosec).keys() - options_of(fastapi).keys()
    assert own == {"--address", "--path", "--timeout", "--log-level"}


def test_other_requirements_have_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = environment.folder()
    assert first.is_relative_to(tmp_path / "torchmar")
    assert environment.folder() == first
    monkeypatch.setattr(environment, "REQUIREMENTS", ("mosec",))
    assert environment.folder() != first


def test_a_version_is_that_of_the_peers_own_package_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, version in (("mosec", "7.1"), ("uvicorn", "99.0")):
        info = environment.folder() / "lib" / "python3.x" / "site-packages" / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    found = environment.versions("mosec", "uvicorn", "torch", "nothing-of-that-name")
    assert found.startswith("mosec 7.1, uvicorn 99.0, torch ")
    assert "nothing" not in found


def test_without_their_environment_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Path:
        raise BenchmarkError("no network here")

    monkeypatch.setattr(environment, "python", fail)
    assert serving.available((SHARED,)) == ((SHARED,), [])
    left, problems = serving.available((MOSEC, SHARED, FASTAPI))
    assert left == (SHARED,)
    assert "no network here" in problems[0]
    assert problems[0] in capsys.readouterr().err
    with pytest.raises(BenchmarkError, match="no network here"):
        serving.available((MOSEC, FASTAPI))


def test_a_run_of_nobody_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Path:
        raise BenchmarkError("no network here")

    monkeypatch.setattr(environment, "python", fail)
    monkeypatch.setattr(serving.machine, "compile_packages", lambda: None)
    monkeypatch.setattr(serving, "end_at_signals", lambda: None)
    arguments = ["serving.py", "--contenders", "mosec", "--workloads", "noop", "--output-dir", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    assert serving.main() == 1
    assert "error: mosec and FastAPI are left out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_peer_cannot_be_scaled() -> None:
    with pytest.raises(BenchmarkError, match="fastapi cannot be scaled"):
        servers.Server(FASTAPI, "m", "http://127.0.0.1:1", None, "m-1", 1.0).scale(2)


def test_every_contender_is_told_apart() -> None:
    usual = [Contender.parse(text) for text in serving.CONTENDERS.split(",")]
    assert len({contender.label for contender in usual}) == len(usual)
    assert {contender.kind for contender in usual} == set(KINDS)
    assert [contender.label for contender in usual if contender.is_peer] == [
        "mosec, batchSize 32 after 0 ms",
        "mosec, batchSize 32 after 1 ms",
        "fastapi",
    ]


@pytest.mark.slow  # makes a virtual environment
def test_what_pip_says_is_said_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(BenchmarkError, match=r"pip could not install mosec.*No matching distribution found for mosec"):
        environment.python()
    assert list(environment.folder().parent.iterdir()) == []


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make the environment, from a registry of packages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        made = environment.python()
        assert made.is_file()
        assert environment.python() == made
        yield


@pytest.mark.slow  # installs packages
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("_made")
@pytest.mark.parametrize(("kind", "name"), [("mosec:1:1:1", "noop"), ("mosec", "mnist"), ("fastapi", "mnist")])
def test_a_peer_answers_and_leaves_no_process(
    kind: str, name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "mnist":
        weights = request.getfixturevalue("mnist_weights") / "mnist_sd.pt"
        monkeypatch.setattr(workloads, "_train", lambda folder: shutil.copy(weights, folder))
    workload = workloads.WORKLOADS[name](tmp_path)
    problems: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="tmbench-") as short,  # for sockets
        server.serving(Contender.parse(kind), workload, Path(short, "s"), 1, problems) as started,
    ):
        asked = [path.read_bytes() for path in workload.bodies]
        answers = [workload.essence(started.ask(body)) for body in asked]
        memory = started.memory()
    if workload.name == "noop":
        assert answers == ["300"]
    else:
        digits = [path.name[0] for path in workload.bodies]
        assert sum(map(str.__eq__, answers, digits)) > 0.8 * len(digits)
    assert (memory.frontend_mb > 0, memory.backend_mb > 0) == (kind.startswith("mosec"), True)
    assert min(started.ready_s, started.start_processor_s) > 0
    assert (problems, servers.marked_processes(started.mark)) == ([], [])


@pytest.mark.slow
@pytest.mark.usefixtures("_made")
def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    workload = noop(tmp_path)
    handler = tmp_path / "noop_handler.py"
    handler.write_text("def handle(data, context):\n    raise ValueError('not today')\n")
    broken = Workload("noop", "", {"handler": handler}, workload.bodies, bytes.decode)
    problems: list[str] = []
    with pytest.raises(BenchmarkError, match="not today"), server.serving(FASTAPI, broken, tmp_path / "s", 1, problems):
        pass
    assert not problems
