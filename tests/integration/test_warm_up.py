"""Samples of an archive, from `torchmar build` to a worker that is ready, under the real frontend."""

from __future__ import annotations

import json

import pytest

from .conftest import JAVA_FIRST, Server
from .support import model_log

pytestmark = pytest.mark.parametrize("frontend", JAVA_FIRST)

HANDLER = """
class Handler:
    def initialize(self, context):
        self.seen = []

    def handle(self, data, context):
        self.seen += [row["body"] for row in data]
        if "fail" in self.seen[-1]:
            raise ValueError("as wished")
        return [len(self.seen)] * len(data)
"""


def test_samples_are_run_before_a_worker_is_ready(light_server: Server) -> None:
    sandbox = light_server.sandbox
    sandbox.file("one.json", '{"n": 1}')
    sandbox.file("fail.json", '{"fail": 1}')
    samples = {"dedicated": ("one.json=1",), "shared": ("one.json", "one.json"), "failing": ("fail.json",)}
    for name, files in samples.items():
        mode = "shared" if name == "shared" else "dedicated"
        config = sandbox.file(f"{name}.yaml", f"minWorkers: 1\nmaxWorkers: 1\nbackend: {{mode: {mode}}}\n")
        options = [option for file in files for option in ("--sample", file)]
        sandbox.build(name, HANDLER, "--config-file", config, *options)
    checked = sandbox.torchmar("check", sandbox.store / "dedicated.mar", "--repeat", "0").ok()
    assert checked.out.count("as expected") == 1

    for name in samples:
        sandbox.torchmar("register", f"{name}.mar").ok()
    answers = {name: light_server.curl(f"/predictions/{name}", "--json", '{"n": 2}') for name in samples}
    assert answers == {"dedicated": (200, "2"), "shared": (200, "3"), "failing": (200, "2")}
    log = model_log(light_server)
    assert "Warmed up with 2 samples in " in log
    assert "Warm-up: 1 of 1 samples of failing failed" in log
    assert "The first: MAR-INF/samples/0/input.json: ValueError: as wished in failing_handler.py:9 (handle)" in log
    described = json.loads(sandbox.run("curl", "-sS", f"{light_server.management}/models/dedicated").ok().out)
    assert described[0]["workers"][0]["status"] == "READY"
