"""The machine's metrics: with our collector, and with scripts that do what they should not."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from archive_tool.errors import InputError
from serving.frontend.metering import system
from serving.frontend.metering.lines import Entry
from serving.frontend.metering.server import ServerMeters
from serving.frontend.metering.system import SystemMetrics
from serving.frontend.settings import Settings

from .samples import samples

SettingsOf = Callable[..., Settings]
CPU = "CPUUtilization.Percent:{}|#Level:Host|#hostname:h,1"


def script(folder: Path, text: str) -> str:
    """Write a program that is run in place of the collector."""
    path = folder / "collector.py"
    path.write_text(text)
    return str(path)


async def until(done: Callable[[], object], metrics: SystemMetrics) -> None:
    """Collect until something is so."""
    running = asyncio.create_task(metrics.run())
    try:
        for _ in range(1200):
            if done():
                return
            assert not running.done()
            await asyncio.sleep(0.05)
        raise AssertionError("it did not happen")
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_our_collector(settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # as where the command is called by its path: another Python comes first
    settings = settings_of()
    meters = ServerMeters(settings)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as worker:
        metrics = SystemMetrics(settings, meters.host_entry, lambda: [worker.pid, -1])
        assert metrics.memory_of(worker.pid) == 0
        asyncio.run(until(lambda: metrics.memory_of(worker.pid), metrics))
        worker.communicate(b"\n")
    assert metrics.memory_of(worker.pid) > 1 << 20
    shown = {name.partition("{")[0]: value for name, value in samples(meters.text()).items()}
    assert 0 <= shown["CPUUtilization"] <= 100
    assert shown["MemoryUsed"] > 0
    assert shown["DiskAvailable"] > 0


def test_the_collector_is_started_as_torchserve_does(
    tmp_path: Path, settings_of: SettingsOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "ts" / "metrics").mkdir(parents=True)
    (home / "ts" / "metrics" / "metric_collector.py").write_text(
        "import json, os, sys\n"
        "told = [sys.argv, os.getcwd(), dict(os.environ), sys.stdin.read()]\n"
        "open(os.environ['TOLD'], 'w').write(json.dumps(told))\n"
    )
    told = tmp_path / "told"
    monkeypatch.setenv("TOLD", str(told))
    monkeypatch.setenv("SECRET_KEY", "hidden")
    monkeypatch.setenv("PYTHONPATH", "/their/own")
    settings = settings_of(home=home, python=sys.executable, blacklist_env_vars=".*KEY.*")
    metrics = SystemMetrics(settings, lambda entry: None, lambda: [7, 0, 12, -1], gpus=2)
    asyncio.run(until(told.exists, metrics))
    argv, folder, environ, asked = json.loads(told.read_text())
    assert argv == ["ts/metrics/metric_collector.py", "--gpu", "2"]
    assert folder == str(home)
    assert environ["PYTHONPATH"] == f"/their/own{os.pathsep}{home}"
    assert "SECRET_KEY" not in environ
    assert asked == "7,12\n"


def test_what_cannot_be_read_is_passed_over_and_collecting_goes_on(
    tmp_path: Path, settings_of: SettingsOf, caplog: pytest.LogCaptureFixture
) -> None:
    count = tmp_path / "count"
    command = script(
        tmp_path,
        f"import pathlib\npath = pathlib.Path({str(count)!r})\n"
        "n = len(path.read_text()) if path.exists() else 0\n"
        "path.write_text('x' * (n + 1))\n"
        f"print('junk')\nprint({CPU!r}.format(n))\nprint('')\n"
        "print('7:words')\nprint('99:5')\nprint('7')\nprint(f'8:{n}0')\nprint('-1:3')\nprint('7:1:2')\n",
    )
    settings = settings_of(python=sys.executable, system_metrics_cmd=f"{command}  --more", metric_time_interval="1")
    taken: list[Entry] = []
    metrics = SystemMetrics(settings, taken.append, lambda: [7, 8])
    asyncio.run(until(lambda: len(taken) >= 3, metrics))
    assert [entry.value for entry in taken[:3]] == [0, 1, 2]
    assert metrics.memory_of(8) >= 20
    assert [metrics.memory_of(pid) for pid in (7, 99, -1)] == [0, 0, 0]
    assert [one.getMessage() for one in caplog.records] == ["the collector printed what is no metric: 'junk'"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import sys\nsys.exit('what is wrong')", "the collector says: what is wrong"),
        ("import sys\nsys.exit(3)", "ended with 3"),
        ("import time\ntime.sleep(600)", "takes more than 0.5 s"),
        ("import os, time\nos.close(1)\nos.close(2)\ntime.sleep(600)", "takes more than 0.5 s"),
        ("while True: print('x' * 1000)", "prints more than"),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", "prints more than"),
        # What it starts holds its output.
        ("import subprocess\nsubprocess.Popen(['sleep', '613.7'])", "takes more than 0.5 s"),
    ],
)
def test_a_collector_that_fails_is_named_and_ended(
    tmp_path: Path, settings_of: SettingsOf, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    command = script(tmp_path, text)
    settings = settings_of(python=sys.executable, system_metrics_cmd=command)
    # Those that take too long do nothing before; the others begin, on a busy machine.
    metrics = SystemMetrics(settings, lambda entry: None, list, timeout_s=0.5 if "0.5 s" in message else 10)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    asyncio.run(until(lambda: message in caplog.text, metrics))
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert not [one for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "613.7"]]


def test_a_collector_that_cannot_be_started(settings_of: SettingsOf, caplog: pytest.LogCaptureFixture) -> None:
    metrics = SystemMetrics(settings_of(python="/nowhere/python"), lambda entry: None, list)
    asyncio.run(until(lambda: "the machine's metrics are missing" in caplog.text, metrics))
    assert "/nowhere/python" in caplog.text


def test_the_end_of_the_server_ends_the_collector(tmp_path: Path, settings_of: SettingsOf) -> None:
    started = tmp_path / "started"
    command = script(tmp_path, f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    metrics = SystemMetrics(settings_of(python=sys.executable, system_metrics_cmd=command), lambda entry: None, list)
    began = time.monotonic()
    asyncio.run(until(lambda: started.exists() and started.read_text(), metrics))
    assert not psutil.pid_exists(int(started.read_text()))
    assert time.monotonic() - began < system.TIMEOUT_S


def test_it_can_be_switched_off(settings_of: SettingsOf) -> None:
    settings = settings_of(python="/nowhere/python", disable_system_metrics="true")
    asyncio.run(SystemMetrics(settings, lambda entry: None, list).run())


def test_a_bad_pattern_is_named(settings_of: SettingsOf) -> None:
    with pytest.raises(InputError, match=r"not a regular expression: blacklist_env_vars=\("):
        SystemMetrics(settings_of(blacklist_env_vars="("), lambda entry: None, list)
