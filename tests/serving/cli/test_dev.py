"""torchmar dev on the command line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from archive_tool.cli import entry

ROOT = Path(__file__).resolve().parents[3]
HANDLER = """
import os

def handle(data, context):
    return [f"{os.getpid()} first"] * len(data or [])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_the_start_to_ctrl_c(tmp_path: Path, number: int) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "h.py").write_text(HANDLER)
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    command = [sys.executable, "-m", "archive_tool", "dev", "h.py", "--port", "auto", "--extra-files", "torch.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "t"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = re.match(r"h\.py: curl (http://127\.0\.0\.1:\d+)/predictions/h -T FILE \(", process.stdout.readline())
        assert found
        url = f"{found[1]}/predictions/h"
        first = httpx.post(url, timeout=120).text
        assert first.endswith(" first")
        (tmp_path / "h.py").write_text(HANDLER.replace("first", "second"))
        # By itself, too, so that the model is loaded before the first request.
        while not (line := process.stdout.readline()).startswith("reloaded h in "):
            assert line
        second = httpx.post(url, timeout=120).text
        assert second.endswith(" second")
        process.send_signal(number)
        _, err = process.communicate()
        assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    deadline = time.monotonic() + 30
    while any(psutil.pid_exists(int(text.split()[0])) for text in (first, second)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert list((tmp_path / "t").iterdir()) == []


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry.main(["dev"]) == 2
    assert entry.main(["dev", str(tmp_path), "--port", "x"]) == 2
    assert entry.main(["dev", str(tmp_path)]) == 1
    assert "torchmar init" in capsys.readouterr().err
    (tmp_path / "h.py").touch()
    assert entry.main(["dev", str(tmp_path / "h.py"), "--device", "gpu"]) == 1


def test_what_run_and_check_accept_by_name_dev_accepts_anyway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["dev", str(tmp_path / "gone.py"), "--allow-pickle", "model.pt"]) == 1
    assert "gone.py does not exist" in capsys.readouterr().err
