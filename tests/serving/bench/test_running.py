from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import psutil
import pytest

from serving.bench import running
from serving.bench.loads import Load
from serving.bench.running import figures_of, run
from serving.bench.tally import Figures, Second
from serving.errors import ServingError

from .answering import Server


def load_of(server: Server, model: str = "good", seconds: float = 0.5) -> Load:
    return Load(server.place, server.requests(model), 2, seconds)


def generators() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "serving.bench.generator" in one.cmdline()]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_load_runs_in_a_process_of_its_own(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "serving.py").write_text("raise SystemExit('another one')")  # where the caller stands says nothing

    async def main() -> list[Second | Figures]:
        return [told async for told in run(load_of(server))]

    *seconds, figures = import_module(loop).run(main())
    assert isinstance(figures, Figures)
    assert figures.good == sum(one.good for one in seconds if isinstance(one, Second)) > 0
    assert 0 < figures.own_core < 1.1
    assert not generators()


def test_the_figures_alone(server: Server) -> None:
    assert asyncio.run(figures_of(load_of(server))).good > 0


def test_an_event_ends_a_load(server: Server) -> None:
    async def main() -> Figures:
        stop = asyncio.Event()
        async for told in run(load_of(server, seconds=600), stop):
            if isinstance(told, Figures):
                return told
            stop.set()
        raise AssertionError

    assert asyncio.run(main()).good > 0


def test_an_event_that_is_set_before_a_load_begins_leaves_it_its_figures(server: Server) -> None:
    async def main() -> list[Second | Figures]:
        stop = asyncio.Event()
        stop.set()
        return [told async for told in run(load_of(server, seconds=600), stop)]

    assert isinstance(asyncio.run(main())[-1], Figures)


def test_who_looks_no_more_ends_the_load(server: Server) -> None:
    async def main() -> None:
        telling = run(load_of(server, seconds=600))
        await anext(telling)
        assert generators()
        await telling.aclose()
        assert not generators()

    asyncio.run(main())


@pytest.mark.parametrize("body", [b"x", bytes(1 << 20)], ids=["under way", "not yet read"])
def test_a_generator_that_does_not_answer_is_killed_when_it_is_stopped(
    server: Server, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr(running, "_GRACE_S", 0.5)
    load = replace(load_of(server, seconds=600), requests=server.requests("good", body))

    async def main() -> None:
        stop = asyncio.Event()
        telling = run(load, stop)
        told = asyncio.ensure_future(anext(telling))
        while not generators():
            await asyncio.sleep(0)
        if len(body) == 1:
            await told
            told = asyncio.ensure_future(anext(telling))
        (generator,) = generators()
        generator.suspend()
        stop.set()
        with pytest.raises(ServingError, match="did not end when it was stopped, and was killed"):  # noqa: PT012
            while True:  # a second may be on its way
                await asyncio.wait_for(told, 20)
                told = asyncio.ensure_future(anext(telling))
        assert not generators()

    asyncio.run(main())


@pytest.mark.parametrize("still", [False, True])
def test_a_generator_whose_starter_is_gone_ends(server: Server, still: bool) -> None:
    program = (
        "import asyncio, sys; from serving.bench.loads import Load; from serving.bench.running import figures_of; "
        "asyncio.run(figures_of(Load.from_json(sys.stdin.read())))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, cwd=Path.cwd()) as starter:
        assert starter.stdin is not None
        starter.stdin.write(load_of(server, seconds=600).to_json().encode())
        starter.stdin.close()
        deadline = time.monotonic() + 60
        while not server.seen and time.monotonic() < deadline:
            time.sleep(0.05)
        (child,) = psutil.Process(starter.pid).children()
        if still:
            child.suspend()
        starter.kill()
    child.wait(30)
    assert not child.is_running()


def test_a_generator_that_fails_says_why(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ServingError, match=r"load generator failed: .*IndexError"):
        asyncio.run(figures_of(replace(load_of(server), requests=())))
    monkeypatch.setattr(running.sys, "executable", "/bin/false")
    with pytest.raises(ServingError, match="exit code 1"):
        asyncio.run(figures_of(load_of(server)))


def test_a_generator_is_no_part_of_the_terminals_job(server: Server) -> None:
    """An interrupt from the keyboard is for who started it: that one ends the load, and has the figures."""

    async def main() -> None:
        telling = run(load_of(server, seconds=600))
        await anext(telling)
        assert os.getsid(generators()[0].pid) != os.getsid(0)
        await telling.aclose()

    asyncio.run(main())
