"""Standard input as a worker reads it: its end is the frontend's."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.serving.worker.frontend import ROOT

CODE = "from serving.worker.process import stdin; print(stdin.has_ended())"


@pytest.mark.parametrize(("kind", "ended"), [("open", False), ("ended", True), ("none", False), ("closed", False)])
def test_a_pipe_that_has_ended(kind: str, ended: bool) -> None:
    read, write = os.pipe()
    given = {"open": read, "ended": read, "none": subprocess.DEVNULL, "closed": None}[kind]
    if kind == "ended":
        os.close(write)
    command = [sys.executable, "-c", CODE]
    if kind == "closed":
        command = ["sh", "-c", 'exec "$@" <&-', "sh", *command]
    done = subprocess.run(command, cwd=ROOT, stdin=given, capture_output=True, text=True, check=False)
    os.close(read)
    if kind != "ended":
        os.close(write)
    assert (done.stdout, done.stderr) == (f"{ended}\n", "")
