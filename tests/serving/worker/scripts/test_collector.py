"""The frontend's answer once a minute, whatever is broken."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.worker import __file__ as worker_file
from serving.worker.scripts import collector

HOME = Path(worker_file).parent / "home"
SCRIPT = HOME / "ts" / "metrics" / "metric_collector.py"
# The grammar of Metric.java, from the contract.
GAUGE = re.compile(
    r"(?P<name>[A-Za-z0-9_\s]+)\.(?P<unit>[A-Za-z0-9_\s]+):(?P<value>[0-9\-.e]+)"
    r"\|#(?P<dimensions>[^|]*)\|#hostname:(?P<host>[^,]+),(?P<time>[0-9]+)"
)
HOST = {
    "CPUUtilization": "Percent",
    "MemoryUsed": "Megabytes",
    "MemoryAvailable": "Megabytes",
    "MemoryUtilization": "Percent",
    "DiskUsage": "Gigabytes",
    "DiskUtilization": "Percent",
    "DiskAvailable": "Gigabytes",
}
TABLE = "0, 35, 40000, 80000\n1, [N/A], 500, [N/A]\n2, [Not Supported], [N/A], 80000\nnoise\n"


def ask(
    pids: str, *arguments: str, path: str = "", options: tuple[str, ...] = ()
) -> tuple[list[str], list[str], list[str]]:
    """Run the script as the frontend does; return the gauges, the memory lines and the text on standard error."""
    done = subprocess.run(
        [sys.executable, *options, "ts/metrics/metric_collector.py", *arguments],
        cwd=HOME,
        env={"PATH": path or os.environ["PATH"], "PYTHONPATH": str(HOME)},
        input=pids,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.endswith("\n")
    lines = done.stdout.split("\n")[:-1]
    blank = lines.index("")
    assert lines.count("") == 1
    return lines[:blank], lines[blank + 1 :], done.stderr.splitlines()


def parsed(lines: list[str]) -> list[tuple[str, str, float, str]]:
    found = [GAUGE.fullmatch(line) for line in lines]
    assert all(found), lines
    return [(m["name"], m["unit"], float(m["value"]), m["dimensions"]) for m in found if m]


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture
def dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


@pytest.fixture
def nvidia_smi(tmp_path: Path) -> Path:
    """Return a folder with a stand-in for the program; what it prints is a real one's form."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\nprintf '%s' '{TABLE}'\n")
    program.chmod(0o755)
    return tmp_path


def test_the_script_tells_the_host_and_the_workers(sleeper: int, dead: int) -> None:
    gauges, memory, errors = ask(f"{sleeper},junk,{dead},, 1_0,-1\n", "--gpu", "0")
    figures = parsed(gauges)
    assert {name: unit for name, unit, _, _ in figures} == HOST
    assert all(dimensions == "Level:Host" for _, _, _, dimensions in figures)
    assert all(0 <= value <= 100 for _, unit, value, _ in figures if unit == "Percent")
    assert [line.split(":")[0] for line in memory] == [str(sleeper), str(dead), "-1"]
    assert int(memory[0].split(":")[1]) > 100_000
    assert memory[1:] == [f"{dead}:0", "-1:0"]
    assert errors == []


def test_the_script_imports_nothing_from_its_own_folder_and_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", SCRIPT],
        input="",
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "psutil" in imported
    assert not {name for name in imported if name.split(".")[0] in ("torch", "ts", "numpy")}


@pytest.mark.parametrize("text", ["", "\n", "x,y\n", "9" * 5000 + "\n", "\udcff\n"])
def test_lines_without_a_pid(text: str) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--gpu", "0"],
        input=text.encode("utf-8", "surrogateescape"),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout.endswith(b"\n\n")


def test_without_standard_input() -> None:
    command = f"exec '{sys.executable}' '{SCRIPT}' --gpu 0 <&-"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, check=True)
    assert done.stdout.endswith(b"\n\n")


@pytest.mark.parametrize("arguments", [(), ("--gpu",), ("--gpu", "many"), ("--what", "--gpu", "-1")])
def test_odd_arguments_do_not_stop_it(arguments: tuple[str, ...]) -> None:
    gauges, memory, _ = ask(f"{os.getpid()}\n", *arguments)
    assert len(gauges) == len(HOST)
    assert len(memory) == 1


def test_without_psutil_the_workers_are_still_told(sleeper: int) -> None:
    """-S hides all installed packages."""
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("this system tells the memory of a process through psutil only")
    gauges, memory, errors = ask(f"{sleeper}\n", "--gpu", "0", options=("-S",))
    assert gauges == []
    assert int(memory[0].removeprefix(f"{sleeper}:")) > 100_000
    (error,) = errors
    assert "psutil" in error


def test_gpu_figures(nvidia_smi: Path) -> None:
    gauges, _, errors = ask("\n", "--gpu", "3", path=f"{nvidia_smi}:{os.environ['PATH']}")
    figures = [figure for figure in parsed(gauges) if figure[0].startswith("GPU")]
    assert figures == [
        ("GPUMemoryUtilization", "Percent", 50.0, "Level:Host,device_id:0"),
        ("GPUMemoryUsed", "Megabytes", 40000.0, "Level:Host,device_id:0"),
        ("GPUUtilization", "Percent", 35.0, "Level:Host,device_id:0"),
        ("GPUMemoryUsed", "Megabytes", 500.0, "Level:Host,device_id:1"),
    ]
    assert (nvidia_smi / "calls").read_text() == "called\n"
    assert errors == []


def test_no_gpu_is_not_asked_for(nvidia_smi: Path) -> None:
    ask("\n", "--gpu", "0", path=f"{nvidia_smi}:{os.environ['PATH']}")
    assert not (nvidia_smi / "calls").exists()


def test_no_nvidia_smi(tmp_path: Path) -> None:
    gauges, memory, errors = ask(f"{os.getpid()}\n", "--gpu", "1", path=str(tmp_path))
    assert len(gauges) == len(HOST)
    assert len(memory) == 1
    assert errors == ["no GPU figures: nvidia-smi is not installed"]


def test_nvidia_smi_fails(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Driver/library\nversion mismatch'\nexit 18\n")
    program.chmod(0o755)
    gauges, memory, errors = ask(f"{os.getpid()}\n", "--gpu", "1", path=str(tmp_path))
    assert len(gauges) == len(HOST)
    assert len(memory) == 1
    assert errors == ["no GPU figures: nvidia-smi ended with 18: Driver/library version mismatch"]


def test_a_gauge_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*_: object) -> float:
        raise RuntimeError("no\ncounters")

    monkeypatch.setattr(psutil, "cpu_percent", broken)
    monkeypatch.setattr(psutil, "disk_usage", lambda _: SimpleNamespace(used=1, percent=float("nan"), free=1))
    names = {name for name, *_ in parsed(collector.gauges(0))}
    assert names == set(HOST) - {"CPUUtilization", "DiskUtilization"}
    assert capsys.readouterr().err.splitlines() == [
        "no CPUUtilization: no counters",
        "no DiskUtilization: the system says nan",
    ]


def test_without_a_host_name_the_workers_are_still_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        raise OSError("no name")

    monkeypatch.setattr("socket.gethostname", broken)
    assert collector.gauges(0) == []
    assert capsys.readouterr().err == "no host figures: no name\n"


def test_the_cpus_are_really_measured() -> None:
    """One busy process on however many CPUs; an unmeasured figure would be 0."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        time.sleep(0.2)
        figures = [{name: value for name, _, value, _ in parsed(collector.gauges(0))} for _ in range(3)]
        process.kill()
    assert any(figure["CPUUtilization"] > 0 for figure in figures)


@given(st.text(max_size=60) | st.text(alphabet="0123456789,. []N/Aeinf-\n", max_size=60))
def test_whatever_nvidia_smi_prints_no_bad_line_comes_of_it(text: str) -> None:
    """Any text gives lines that the frontend can read, or none."""
    for figure in collector._gpu_figures(text):
        assert GAUGE.fullmatch(collector._line(*figure))


@given(st.binary(max_size=40) | st.text(alphabet="0123456789,-+_ x\n", max_size=40).map(str.encode))
def test_only_pids_that_were_asked_for_are_answered(data: bytes) -> None:
    """A pid that the frontend did not send ends its collecting."""
    words = [word.strip() for word in data.split(b"\n")[0].decode("ascii", "replace").split(",")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data)))
        for pid in collector.read_pids():
            assert any(word.lstrip("-0") == str(abs(pid)).lstrip("0") for word in words)


def test_a_shared_backend_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {1: 10, 2: 20, 3: 30, 4: 0, 900: 101}
    asked: list[int] = []

    def memory_of(pid: int) -> int:
        asked.append(pid)
        return sizes[pid]

    monkeypatch.setattr(collector, "memory_of", memory_of)
    monkeypatch.setattr(collector, "backends", lambda _: {1: (900, 2), 2: (900, 2), 3: (3, 1), 4: (900, 2)})
    assert collector.memory([1, 2, 3, 4], frontend=7) == ["1:60", "2:70", "3:30", "4:0"]
    assert sorted(asked) == [1, 2, 3, 4, 900]


@pytest.mark.parametrize("answer", [OSError("refused"), ImportError("none"), {1: "ab"}, {1: (1, 2, 3)}, None])
def test_a_registry_that_does_not_answer_costs_the_shares_only(
    answer: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = pytest.importorskip("serving.worker.scripts.registry")

    def backends(_: int) -> object:
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(registry, "backends", backends)
    monkeypatch.setattr(collector, "memory_of", lambda _: 5)
    assert collector.memory([1], frontend=7) == ["1:5"]
    assert capsys.readouterr().err.startswith("the memory of shared processes is missing: ")


def test_memory_is_proportional(sleeper: int) -> None:
    found = collector.memory_of(sleeper)
    assert 0 < found <= psutil.Process(sleeper).memory_info().rss
    assert collector.memory_of(0) == collector.memory_of(-5) == 0


def test_memory_without_proc(sleeper: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert collector.memory_of(sleeper) == psutil.Process(sleeper).memory_info().rss
