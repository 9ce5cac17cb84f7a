"""Names; tests/integration/test_wrong_input.py registers what fails with a real frontend."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archive_tool.errors import InputError
from serving.control import StateFolder, registration
from serving.control.registration import Asked, check_model_api, explained, prepare, register
from serving.errors import ModelApiOffError, ModelLoadError, ReplyError

from .following.test_diagnosis import IMPORT_ERROR, logged
from .following.test_waiting import version
from .test_state import record


@pytest.mark.parametrize("text", ["", "enable_model_api=false\n"])
def test_a_server_without_the_model_api_says_how_to_start_it(tmp_path: Path, text: str) -> None:
    state = StateFolder("default", tmp_path)
    state.create()
    state.config.write_text(text)
    with pytest.raises(ModelApiOffError, match="its model API is off") as caught:
        check_model_api(record(), state)
    assert "torchmar start --enable-model-api" in (caught.value.hint or "")
    state.config.write_text("enable_model_api=true\n")
    check_model_api(record(), state)


def test_the_workers_error_takes_the_place_of_the_frontends(tmp_path: Path) -> None:
    def fail() -> None:
        (tmp_path / "model_log.log").write_text(logged("W-9001-bad_1.0", IMPORT_ERROR))
        raise ReplyError("Failed to start workers", status=500)

    with pytest.raises(ModelLoadError, match="not_there"), explained(record(log_folder=str(tmp_path)), "bad"):
        fail()


def test_what_a_worker_answered_counts_when_it_printed_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_LOG_DELAY_S", 0.2)

    def fail() -> None:
        line = "x [WARN ] W-9000-bad_1.0 c.B - Load model failed: bad, error: ValueError: no licence (bad.py:3)\n"
        (tmp_path / "ts_log.log").write_text(line)
        raise ReplyError("Failed to start workers", status=500)

    with (
        pytest.raises(ModelLoadError, match="ValueError: no licence"),
        explained(record(log_folder=str(tmp_path)), "bad"),
    ):
        fail()


@pytest.mark.parametrize("known", [True, False])
def test_other_errors_pass(tmp_path: Path, known: bool) -> None:
    server = record(log_folder=str(tmp_path)) if known else None
    with pytest.raises(ReplyError, match="no such model"), explained(server, "bad"):
        raise ReplyError("no such model", status=404 if known else 500)


def archive(folder: Path, config: str | None) -> Path:
    path = folder / "m-1.0.mar"
    model = {"modelName": "m", "modelVersion": "1.0", "handler": "h.py"} | ({"configFile": "c.yaml"} if config else {})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("h.py", "def handle(data, context): return data\n")
        if config:
            file.writestr("c.yaml", config)
        file.writestr("MAR-INF/MANIFEST.json", json.dumps({"runtime": "python", "model": model}))
    return path


@pytest.mark.parametrize(
    ("config", "own"),
    [("responseTimeout: 60", 60), ("minWorkers: 1\nmaxWorkers: 1", 120), ("responseTimeout: soon", 120)],
)
def test_a_response_timeout_that_the_archive_beats_is_refused(tmp_path: Path, config: str, own: int) -> None:
    path = archive(tmp_path, config)
    with pytest.raises(InputError, match=f"cannot be 30: responseTimeout .* is {own}") as caught:
        Asked(response_timeout_s=30).check(path)
    assert "write responseTimeout: 30" in (caught.value.hint or "")
    Asked(response_timeout_s=own).check(path)
    Asked(workers=2, batch_size=3, max_batch_delay_ms=4).check(path)


def test_without_a_configuration_the_archive_beats_nothing(tmp_path: Path) -> None:
    Asked(response_timeout_s=30).check(archive(tmp_path, None))


def test_what_is_refused_never_reaches_the_server(tmp_path: Path) -> None:
    path = archive(tmp_path, "responseTimeout: 60")
    state = StateFolder("default", tmp_path)
    state.create()
    state.config.write_text("allowed_urls=https://here/.*\n")
    server = record(model_store=str(tmp_path))
    with pytest.raises(InputError, match="responseTimeout"):
        prepare(server, state, path.name, Asked(response_timeout_s=30), None)
    with pytest.raises(InputError, match=r"no such archive: elsewhere/m-1\.0\.mar"):
        prepare(server, state, "elsewhere/m-1.0.mar", Asked(), None)
    with pytest.raises(InputError, match="allowed_urls=https://here"):
        prepare(server, state, "https://there/m-1.0.mar", Asked(), None)
    assert prepare(server, state, "https://here/m-1.0.mar", Asked(), None) == ("https://here/m-1.0.mar", None)
    assert prepare(server, state, str(path), Asked(), None) == ("m-1.0.mar", "m")
    assert prepare(server, state, path.name, Asked(), "other") == ("m-1.0.mar", "other")


class Frontend:
    """A stand-in for the management API of a frontend in which the archive's own configuration wins."""

    def __init__(self, **own: int) -> None:
        self.model = replace(version("m", ready=1), **own)  # type: ignore[arg-type]
        self.calls: list[Any] = []
        self.more = ""

    def register(self, archive: str, **options: Any) -> str:
        self.calls.append(options["workers"])
        return 'Model "m" Version: 1.0 registered with 1 initial workers' + self.more

    def describe(self, name: str, number: str) -> list[Any]:
        return [self.model] if (name, number) == ("m", "1.0") else []

    def scale(self, name: str, *, min_workers: int, version: str) -> None:
        self.calls.append((name, version, min_workers))

    def unregister(self, name: str, number: str) -> None:
        self.calls.append(f"unregister {name} {number}")


def asked_of(frontend: Frontend, asked: Asked) -> str:
    return register(frontend, "m.mar", asked)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("workers", "calls"), [(None, [1]), (1, [1]), (2, [2, ("m", "1.0", 2)]), (0, [0, ("m", "1.0", 0)])]
)
def test_the_workers_that_were_asked_for_win(workers: int | None, calls: list[Any]) -> None:
    frontend = Frontend()
    message = asked_of(frontend, Asked(workers))
    assert message == f'Model "m" Version: 1.0 registered with {1 if workers is None else workers} initial workers'
    assert frontend.calls == calls


@pytest.mark.parametrize(
    "asked", [Asked(response_timeout_s=30), Asked(batch_size=7), Asked(max_batch_delay_ms=7), Asked(7, batch_size=7)]
)
def test_what_the_frontend_did_not_take_is_an_error_and_is_taken_back(asked: Asked) -> None:
    frontend = Frontend()
    with pytest.raises(InputError, match=r"model-config\.yaml wins in TorchServe"):
        asked_of(frontend, asked)
    assert frontend.calls[-1] == "unregister m 1.0"
    assert asked_of(Frontend(response_timeout_s=30), Asked(response_timeout_s=30))


def test_without_workers_the_frontend_says_more() -> None:
    frontend = Frontend()
    frontend.more = ". Use scale workers API to add workers for the model."
    with pytest.raises(InputError, match="batch size cannot be 7"):
        asked_of(frontend, Asked(0, batch_size=7))
