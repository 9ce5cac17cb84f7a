"""The users of examples/locust, played by the real Locust."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.bench.answering import answering

ROOT = Path(__file__).resolve().parents[2]
LOCUST = shutil.which("locust") or shutil.which("locust", path=str(Path(sys.executable).parent))


@pytest.mark.slow
@pytest.mark.skipif(LOCUST is None, reason="locust is not installed")
def test_locusts_users_send_every_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.json"):
        (tmp_path / name).write_text(name)
    settings = {"TORCHMAR_MODEL": "good", "TORCHMAR_FILES": str(tmp_path / "*"), "TORCHMAR_TOKEN": "secret"}
    with answering() as server:
        options = ["--headless", "--users", "2", "--spawn-rate", "2", "--run-time", "6s", "--json"]
        file = ROOT / "examples" / "locust" / "locustfile.py"
        command = [str(LOCUST), "-f", str(file), *options, "--host", server.address]
        env = {**os.environ, **settings}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["name"] == "good"
    assert row["num_requests"] >= 2
    assert row["num_failures"] == 0
    assert set(server.seen) == {b"a.png", b"b.json"}
    assert server.heard["authorization"] == "Bearer secret"
    assert server.heard["content-type"] in ("image/png", "application/json")
