"""A load test that the console of a real server runs: to its end, as the command that it names, and killed with it."""

from __future__ import annotations

import html
import json
import re

import httpx
import psutil
import pytest

from .conftest import OPEN, Sandbox
from .support import kill, wait_until

pytestmark = [pytest.mark.hides("torch"), pytest.mark.parametrize("frontend", ["python"])]

# It takes its time: one that takes none keeps both processors busy with nothing but the load.
HANDLER = """
import time


class Seven:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        time.sleep(0.01)
        return ["7" for _ in data]
"""


def test_it_ends_by_itself_by_a_click_and_with_the_server(sandbox: Sandbox) -> None:
    sandbox.build("loaded", HANDLER)
    server = sandbox.start("--models", "loaded=loaded.mar", options=OPEN)
    frontend = psutil.Process(server.pid)

    def senders() -> list[psutil.Process]:
        return [one for one in frontend.children() if "serving.bench.generator" in one.cmdline()]

    with httpx.Client(base_url=f"{server.management}/console/load", timeout=150) as client:

        def page() -> str:
            return client.get("").text

        def send(path: str, **fields: str) -> None:
            mark = re.search(r'name="mark" value="(\w+)"', client.get(path).text)
            assert mark
            client.post(path, data={"mark": mark[1], **fields}).raise_for_status()

        def start(seconds: str) -> None:
            send("/loaded", text="1", loop="connections", connections="2", seconds=seconds)

        client.follow_redirects = True
        start("0.7")
        wait_until(lambda: '<th scope="row">2 connections</th>' in page(), "the table")
        command = re.search(r'<pre class="command" tabindex="0" aria-label="The same test">([^<]*)</pre>', page())
        assert command
        done = sandbox.run("sh", "-c", f"{html.unescape(command[1])} --warm-up 0 --json").ok()
        (run,) = json.loads(done.out)["runs"]
        assert (run["load"], run["errors"]) == ("2 connections", {})
        start("300")
        wait_until(senders, "a process that sends the load")
        send("")
        wait_until(lambda: 'id="running"' not in page(), "its end")
        assert "The load test was stopped." in page()
        assert not senders()
        start("300")
        wait_until(senders, "a process that sends the load")
        (sender,) = senders()
        wait_until(sender.net_connections, "its connections")  # before that it has not said with whom it ends
    sender.suspend()  # so it does not see the end of its input
    kill(server.pid)
    sender.wait(30)
