"""Names; tests/integration/test_wrong_input.py registers what fails with a real frontend."""

from __future__ import annotations

from pathlib import Path

import pytest

import archive_tool
from serving.control import StateFolder, registration
from serving.control.registration import check_model_api, explained, model_name_of
from serving.errors import ModelApiOffError, ModelLoadError, ReplyError

from .test_diagnosis import IMPORT_ERROR, logged
from .test_state import record


def test_the_manifests_name_counts_not_the_files(tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return data\n")
    built = archive_tool.build(model_name="inside", handler=str(tmp_path / "handler.py"), export_path=str(tmp_path))
    moved = built.path.rename(tmp_path / "outside.mar")
    assert model_name_of(moved) == "inside"


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
