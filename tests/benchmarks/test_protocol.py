from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "protocol.py"


def test_the_script_runs_both_contenders_and_prints_a_ratio_a_case() -> None:
    command = [sys.executable, SCRIPT, "--rounds", "1", "--share", "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    rows = [line for line in done.stdout.splitlines() if re.match(r"\| \d+ requests?", line)]
    assert len(rows) == 3
    assert all(float(row.split("|")[4]) > 0 for row in rows)
