"""The wait, with a process, its logs and the management API all played here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from serving.client import ModelVersion
from serving.control.configuration.config import ModelSpec
from serving.control.following.waiting import Waiting
from serving.control.models.store import Selection
from serving.errors import ModelLoadError, NotRunningError, StartError

from .test_diagnosis import IMPORT_ERROR, logged


@dataclass
class Frontend:
    """A stand-in for process and management API: each look at the models gives the next answer, the last for ever."""

    answers: list[Sequence[ModelVersion] | None] = field(default_factory=lambda: [None])
    code: int | None = None
    looks: int = 0
    pid: int = 0

    def poll(self) -> int | None:
        return self.code

    def __enter__(self) -> Frontend:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def models(self) -> list[ModelVersion]:
        answer = self.answers[min(self.looks, len(self.answers) - 1)]
        self.looks += 1
        if answer is None:
            raise NotRunningError("nobody answers")
        self.now = answer
        return list({version.name: version for version in answer}.values())

    def describe(self, name: str) -> list[ModelVersion]:
        return [version for version in self.now if version.name == name]


def version(name: str, *, ready: int = 0, wanted: int = 1, number: str = "1.0") -> ModelVersion:
    status = ["READY"] * ready + ["UNLOADING"] * (wanted - ready)
    row = {
        "modelName": name,
        "modelVersion": number,
        "modelUrl": f"{name}.mar",
        "runtime": "python",
        "minWorkers": wanted,
        "maxWorkers": wanted,
        "batchSize": 1,
        "maxBatchDelay": 100,
        "responseTimeout": 120,
        "workers": [{"id": str(9000 + i), "status": text, "pid": 1} for i, text in enumerate(status)],
    }
    return ModelVersion.from_dict(row)


def wait(folder: Path, frontend: Frontend, *names: str, seconds: float = 20.0, told: list[str] | None = None) -> Any:
    selection = Selection(folder, tuple(ModelSpec(name, f"{name}.mar") for name in names))
    begun = time.monotonic()
    waiting = Waiting(
        frontend,  # type: ignore[arg-type]
        folder,
        selection,
        lambda: frontend,  # type: ignore[arg-type, return-value]
        begun,
        lambda _seconds, text: None if told is None else told.append(text),
    )
    return waiting.until_ready(begun + seconds)


def test_it_ends_when_the_last_model_is_ready_and_tells_what_it_waits_for(tmp_path: Path) -> None:
    ready = [version("a", ready=1), version("b", ready=1)]
    frontend = Frontend([None, [version("a"), version("b")], [version("a", ready=1), version("b")], ready])
    told: list[str] = []
    assert wait(tmp_path, frontend, "a", "b", told=told) == tuple(ready)
    assert told == ["starting the frontend", "loading a 1.0, b 1.0", "loading b 1.0"]


def test_every_version_is_waited_for(tmp_path: Path) -> None:
    half = [version("a", ready=1), version("a", number="2.0")]
    whole = [version("a", ready=1), version("a", ready=1, number="2.0")]
    assert wait(tmp_path, Frontend([half, half, whole]), "a", "a") == tuple(whole)


def test_without_names_whatever_wants_workers_is_waited_for(tmp_path: Path) -> None:
    idle = version("idle", wanted=0)
    assert wait(tmp_path, Frontend([[version("a"), idle], [version("a", ready=1), idle]]))[1] == idle


def test_a_model_that_the_frontend_did_not_take(tmp_path: Path) -> None:
    (tmp_path / "java.log").write_text("WARNING: noise\nnvidia-smi not available\nno disk\n\tat a.b.C\n")
    with pytest.raises(StartError, match="did not take b: no disk"):
        wait(tmp_path, Frontend([[version("a", ready=1)]]), "a", "b")


def test_a_model_that_is_late_is_told_with_what_its_worker_printed(tmp_path: Path) -> None:
    (tmp_path / "model_log.log").write_text(logged("W-9000-a_1.0", ["downloading"]))
    with pytest.raises(StartError, match=r"not ready after 0 s: loading a 1.0; last lines: downloading") as caught:
        wait(tmp_path, Frontend([[version("a")]]), "a", seconds=0.15)
    assert "--timeout" in (caught.value.hint or "")


def test_the_workers_own_error_ends_it(tmp_path: Path) -> None:
    (tmp_path / "model_log.log").write_text(logged("W-9000-a_1.0", IMPORT_ERROR))
    with pytest.raises(ModelLoadError, match="model a cannot be loaded: ModuleNotFoundError"):
        wait(tmp_path, Frontend([[version("a")]]), "a")


def test_after_one_failure_without_a_traceback_the_next_is_awaited(tmp_path: Path) -> None:
    line = "x [WARN ] W-9000-a_1.0 c.B - Load model failed: a, error: Worker died.\n"
    (tmp_path / "ts_log.log").write_text(line)
    with pytest.raises(StartError, match="not ready after"):
        wait(tmp_path, Frontend([[version("a")]]), "a", seconds=0.15)
    (tmp_path / "ts_log.log").write_text(line * 2)
    with pytest.raises(ModelLoadError, match="ended without an error"):
        wait(tmp_path, Frontend([[version("a")]]), "a")


@pytest.mark.parametrize("code", [143, -15])
def test_a_frontend_that_was_stopped(tmp_path: Path, code: int) -> None:
    with pytest.raises(StartError, match="stopped while it started"):
        wait(tmp_path, Frontend(code=code), "a")


def test_a_frontend_that_ended(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="the frontend ended with the exit code 1: it said nothing") as caught:
        wait(tmp_path, Frontend(code=1), "a")
    assert caught.value.hint is None
    (tmp_path / "java.log").write_text("java.lang.UnsupportedClassVersionError: version 55.0\n")
    with pytest.raises(StartError, match=r"exit code 1: .*version 55") as caught:
        wait(tmp_path, Frontend(code=1), "a")
    assert "JAVA_HOME" in (caught.value.hint or "")


@pytest.mark.parametrize("code", [137, -9])
def test_a_frontend_that_was_killed(tmp_path: Path, code: int) -> None:
    with pytest.raises(StartError, match=r"the frontend was killed \(by the system, for lack of memory\?\)"):
        wait(tmp_path, Frontend(code=code), "a")


def test_an_archive_behind_a_url_has_its_own_name(tmp_path: Path) -> None:
    loaded = replace(version("its-own", ready=1), url="https://host.example/x.mar")
    selection = Selection(tmp_path, (ModelSpec("", loaded.url),))
    frontend = Frontend([[version("its-own")], [loaded]])
    begun = time.monotonic()
    connect: Any = lambda: frontend  # noqa: E731
    process: Any = frontend
    waiting = Waiting(process, tmp_path, selection, connect, begun, lambda _seconds, _text: None)
    with pytest.raises(StartError, match=r"did not take https://host\.example/x\.mar"):
        waiting.until_ready(begun + 20.0)
    frontend.answers = [[loaded]]
    assert waiting.until_ready(begun + 20.0) == (loaded,)


def test_what_another_server_answers_at_our_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    """It listened there first, and has other models; ours says so, and ends, when it comes to listening."""
    frontend = Frontend([[version("of-another", ready=1)]])
    selection = Selection(tmp_path, (ModelSpec("a", "a.mar"),))
    begun = time.monotonic()
    looks = iter((True, True))

    def stranger() -> bool:
        if next(looks, None):
            return True
        frontend.code = 1
        (tmp_path / "frontend.log").write_text("The frontend cannot start: somebody listens there already: x\n")
        return True

    process: Any = frontend
    connect: Any = lambda: frontend  # noqa: E731
    nobody = lambda _seconds, _text: None  # noqa: E731
    waiting = Waiting(process, tmp_path, selection, connect, begun, nobody, stranger=stranger)
    with pytest.raises(StartError, match="somebody listens there already"):
        waiting.until_ready(begun + 20.0)
    frontend.code, frontend.answers = None, [[version("a", ready=1)]]
    waiting.stranger = lambda: False
    assert waiting.until_ready(begun + 20.0)[0].name == "a"
