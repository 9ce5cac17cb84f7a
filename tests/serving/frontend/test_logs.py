"""The log files, and that what reads them finds in them what was logged."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.following import logs as reader
from serving.control.following.diagnosis import MODEL_LINE, LogWatch
from serving.control.following.forms import EVENT_CHARS, JSON, TEXT, Access, Form, as_text
from serving.control.following.reasons import reason
from serving.frontend import logs
from serving.frontend.logs import FILES_KEPT, LINE_CHARS, LINES_PER_SECOND, LogFiles

WORKER = "W-9000-mnist_1.0"


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LogFiles]:
    with logs.installed(LogFiles(tmp_path)) as files:
        yield files


def lines(folder: Path, name: str = "model_log") -> list[str]:
    return (folder / f"{name}.log").read_text().split("\n")[:-1]


def test_what_workers_print_is_found_by_model(tmp_path: Path) -> None:
    with logs.installed(LogFiles(tmp_path)):
        logs.model_line(WORKER, "stdout", "hello")
        logs.model_line("W-9001-other_2.0", "stderr", "Zürich \udcff")
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} \[INFO \] W-9000-mnist_1\.0-stdout MODEL_LOG - hello", lines(tmp_path)[0]
    )
    assert [event.printed for event in reader.read(tmp_path, "mnist")] == ["hello"]
    assert [event.pipe for event in reader.read(tmp_path, "other")] == ["stderr"]
    assert reader.models(tmp_path) == ["mnist_1.0", "other_2.0"]
    assert lines(tmp_path)[1].endswith("[WARN ] W-9001-other_2.0-stderr MODEL_LOG - Zürich \\udcff")


def test_what_the_server_logs_stands_beside_it_with_its_traceback(tmp_path: Path) -> None:
    with logs.installed(LogFiles(tmp_path)):
        logging.getLogger("serving.frontend.server").info("Model server started.")
        logging.getLogger("serving.frontend.local").info("not shown, as with Java")
        logging.getLogger("uvicorn.error").warning("a client has sent nonsense")
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            logging.getLogger("asyncio").exception("It failed")
        logs.model_line(WORKER, "stdout", "after")
    events = reader.read(tmp_path)
    assert [event.text.split(" - ")[-1].splitlines()[0] for event in events] == [
        "Model server started.",
        "It failed",
        "after",
    ]
    _, first, *_, last = events[1].text.splitlines()
    assert (first, last) == ("    Traceback (most recent call last):", "    RuntimeError: broken")
    assert "[INFO ] main serving.frontend.server" in events[0].text


def test_a_failed_load_is_explained(tmp_path: Path) -> None:
    summary = [
        "Failed to load model mnist: FileNotFoundError: no such file: labels.txt",
        "  in h.py:12 (initialize)",
        "",
    ]
    with logs.installed(LogFiles(tmp_path)):
        for line in summary:
            logs.model_line(WORKER, "stdout", line)
        logging.getLogger("x").error("Load model failed: %s, error: %s", "mnist", "Worker died.")
    watch = LogWatch(tmp_path, from_begin=True)
    watch.poll()
    failure = watch.failure("mnist")
    assert failure is not None
    assert (failure.cause, failure.file) == ("FileNotFoundError: no such file: labels.txt", "h.py")
    assert watch.times_failed("mnist") == 1


def test_why_a_model_was_not_taken_is_found(tmp_path: Path) -> None:
    with logs.installed(LogFiles(tmp_path)):
        logging.getLogger("x").error("Failed to load model: %s: %s", "a.mar", "It holds no manifest.")
        logging.getLogger("x").error("Failed to load model: %s: %s", "b.mar", "Another reason.")
    assert reason(tmp_path, {}, "a.mar").text == "It holds no manifest."


@given(st.text(max_size=200))
def test_no_text_of_a_worker_can_look_like_another_event(text: str) -> None:
    """Whatever it prints, each line of the log begins with a time and the worker's name."""
    with pytest.MonkeyPatch.context() as patch:
        put: list[str] = []
        log = object.__new__(LogFiles)
        patch.setattr(log, "_put", lambda _, event: put.append(event), raising=False)
        patch.setattr(log, "_seconds", {}, raising=False)
        patch.setattr(log, "_form", TEXT, raising=False)
        log.model_line(WORKER, "stdout", text)
    found = [MODEL_LINE.match(line) for whole in put for line in whole.splitlines()]
    assert all(match and match["worker"] == WORKER for match in found)
    assert len(found) == max(1, len(text.splitlines()))


FORGED = "2026-01-01T00:00:00,000 [INFO ] main serving.frontend.server - Model server started."


@pytest.mark.parametrize("form", [TEXT, JSON])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_text_in_any_log_can_look_like_another_event(tmp_path: Path, end: str, form: Form) -> None:
    """Such as the message with which a worker refuses its model, or a name in a metric."""
    with logs.installed(LogFiles(tmp_path, form=form)) as files:
        logging.getLogger("x").error("Load model failed: %s, error: %s", "m", f"no{end}{FORGED}{end}{end}")
        files.event("INFO", f"a{end}{FORGED}", f"b{end}{FORGED}", "c")
        for name in ("access_log", "ts_metrics", "model_metrics"):
            files.access(Access("a", "GET", f"/x{end}{FORGED}", "HTTP/1.1", 200, 0.1, f"{end}{FORGED}"))
            logging.getLogger({"ts_metrics": "TS_METRICS"}.get(name, "MODEL_METRICS")).info("a%s%s", end, FORGED)
        logs.model_line(WORKER, "stdout", f"a{end}{FORGED}")
    for path in tmp_path.iterdir():
        told = path.read_text().splitlines()
        assert any(FORGED in line for line in told)
        assert not any(line.startswith(FORGED) for line in told), path.name
    assert len(reader.read(tmp_path)) == 4  # two of the frontend's, two lines of the worker
    assert reason(tmp_path, {}, "other").text  # it reads them, too


def test_an_event_is_bounded(tmp_path: Path) -> None:
    begun = time.monotonic()
    with logs.installed(LogFiles(tmp_path)):
        logging.getLogger("x").error("%s", "\n" * 6_000_000)
    assert (tmp_path / "ts_log.log").stat().st_size < 6 * EVENT_CHARS
    assert "more characters left out)" in lines(tmp_path, "ts_log")[-1]
    assert time.monotonic() - begun < 10


def test_a_long_line_is_cut_and_says_so(files: LogFiles, tmp_path: Path) -> None:
    logs.model_line(WORKER, "stdout", "x" * (LINE_CHARS + 7))
    files.close()
    assert lines(tmp_path)[0].endswith("x (7 more characters left out)")
    assert len(lines(tmp_path)[0]) < LINE_CHARS + 200


def test_a_worker_that_floods_the_log_is_bounded_and_the_others_are_not(files: LogFiles, tmp_path: Path) -> None:
    for _ in range(3 * LINES_PER_SECOND):
        logs.model_line(WORKER, "stdout", "again")
    logs.model_line("W-9001-other_1.0", "stdout", "heard")
    logs.worker_ended(WORKER)
    files.close()
    found = lines(tmp_path)
    assert any(line.endswith("heard") for line in found)
    told = sum(int(match[1]) for line in found if (match := re.search(r"\((\d+) lines of this worker were left", line)))
    assert sum(line.endswith("again") for line in found) + told == 3 * LINES_PER_SECOND
    assert told > 0


def test_full_files_are_packed_and_only_so_many_are_kept(tmp_path: Path) -> None:
    files = LogFiles(tmp_path, file_bytes=4000)
    for number in range(40):
        for _ in range(10):
            files.model_line(WORKER, "stdout", f"{number:02d}{'x' * 80}")
        while files._waiting_bytes:  # the size is looked at for what is written at once
            threading.Event().wait(0.001)
    files.close()
    packed = sorted(path.name for path in tmp_path.glob("model_log.*.log.gz"))
    assert len(packed) == FILES_KEPT
    assert {path.name for path in tmp_path.iterdir()} == {*packed, "model_log.log"}
    found = [event.printed[:2] for event in reader.read(tmp_path, "mnist")]
    assert found == sorted(found)
    assert found[-1] == "39"


def test_metrics_have_files_of_their_own(files: LogFiles, tmp_path: Path) -> None:
    logging.getLogger("TS_METRICS").info("CPUUtilization.Percent:0.0|#Level:Host|#hostname:x,timestamp:1")
    logging.getLogger("MODEL_METRICS").info("HandlerTime.Milliseconds:1.0")
    files.close()
    assert lines(tmp_path, "ts_metrics")[0].endswith(
        " - CPUUtilization.Percent:0.0|#Level:Host|#hostname:x,timestamp:1"
    )
    assert lines(tmp_path, "model_metrics")[0].endswith(" - HandlerTime.Milliseconds:1.0")
    assert not (tmp_path / "ts_log.log").exists()


def test_the_console_shows_them_and_may_go_away(tmp_path: Path) -> None:
    console = io.StringIO()
    files = LogFiles(tmp_path, console)
    files.event("INFO", "main", "x", "one")
    while "one" not in console.getvalue():
        threading.Event().wait(0.001)
    console.close()
    files.event("INFO", "main", "x", "two")
    files.close()
    assert [line[-3:] for line in lines(tmp_path, "ts_log")] == ["one", "two"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_terminal_gets_no_commands(is_terminal: bool, tmp_path: Path) -> None:
    class Console(io.StringIO):
        def isatty(self) -> bool:
            return is_terminal

    console = Console()
    files = LogFiles(tmp_path, console)
    files.model_line(WORKER, "stdout", "\x1b[2Jone")
    files.close()
    assert lines(tmp_path, "model_log")[0].endswith(" - \x1b[2Jone")
    assert console.getvalue().endswith(" - \\x1b[2Jone\n" if is_terminal else " - \x1b[2Jone\n")


def test_a_disk_that_cannot_be_written_to_ends_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = LogFiles(tmp_path)
    (tmp_path / "model_log.log").mkdir()
    files.model_line(WORKER, "stdout", "lost")
    files.event("INFO", "main", "x", "kept")
    files.close()
    assert lines(tmp_path, "ts_log")[0].endswith("kept")
    assert capfd.readouterr().err.count("cannot be written") == 1


def test_lines_that_come_faster_than_they_are_written_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "WAITING_BYTES", 1000)
    gate = threading.Event()
    written = LogFiles._write
    monkeypatch.setattr(LogFiles, "_write", lambda *given: (gate.wait(), written(*given)))
    files = LogFiles(tmp_path)
    for _ in range(100):
        files.event("INFO", "main", "x", "y" * 100)
    gate.set()
    while files._waiting_bytes:
        threading.Event().wait(0.001)
    files.event("INFO", "main", "x", "last")
    files.close()
    found = lines(tmp_path, "ts_log")
    told = sum(int(match[1]) for line in found if (match := re.search(r"(\d+) lines were left out", line)))
    assert sum(line.endswith("y") for line in found) + told == 100
    assert told > 50


def test_nothing_is_logged_where_no_files_are_installed() -> None:
    logs.model_line(WORKER, "stdout", "nowhere")
    logs.worker_ended(WORKER)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_lines_that_a_full_disk_does_not_take_are_counted_and_the_next_ones_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard error, which may lie on the same disk, is played."""

    class Full(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("sys.stderr", Full())
    (tmp_path / "model_log.log").symlink_to("/dev/full")
    files = LogFiles(tmp_path)
    files.model_line("W-9000-m_1.0", "stdout", "lost")
    deadline = time.monotonic() + 30
    while not files._dropped and time.monotonic() < deadline:
        time.sleep(0.01)
    (tmp_path / "model_log.log").unlink()
    files.model_line("W-9000-m_1.0", "stdout", "kept")
    files.close()
    assert (tmp_path / "model_log.log").read_text().endswith("MODEL_LOG - kept\n")
    assert "1 lines were left out: the disk was slow, or full" in (tmp_path / "ts_log.log").read_text()


def test_json_lines_are_read_as_text_is(tmp_path: Path) -> None:
    def fill(folder: Path, form: Form) -> None:
        with logs.installed(LogFiles(folder, form=form)) as files:
            logging.getLogger("serving.frontend.server").info("Model server started.")
            logs.model_line(WORKER, "stdout", 'Zürich \udcff {"time": "x"}')
            logs.model_line(WORKER, "stderr", "Traceback (most recent call last):")
            logging.getLogger("x").error("Load model failed: mnist, error: ValueError: no\nsecond line")
            files.access(Access("127.0.0.1:5", "GET", "/ping", "HTTP/1.1", 200, 0.0123, "mine", {"model": "mnist"}))

    shown = []
    for name, form in (("text", TEXT), ("json", JSON)):
        fill(tmp_path / name, form)
        events = reader.read(tmp_path / name)
        assert all(event.time for event in events)
        shown.append([(event.text[23:], event.worker, event.pipe, event.printed) for event in events])
        watch = LogWatch(tmp_path / name, from_begin=True)
        watch.poll()
        assert watch.times_failed("mnist") == 1
        assert reader.models(tmp_path / name) == ["mnist_1.0"]
        assert "Load model failed" in reason(tmp_path / name, {}).text
    assert sorted(shown[0]) == sorted(shown[1])  # of equal milliseconds one may come first, or the other
    documents = [json.loads(line) for line in lines(tmp_path / "json", "access_log")]
    assert documents[0].pop("time")
    assert documents == [
        {
            "client": "127.0.0.1:5",
            "method": "GET",
            "target": "/ping",
            "protocol": "HTTP/1.1",
            "status": 200,
            "ms": 12.3,
            "request_id": "mine",
            "model": "mnist",
        }
    ]
    printed = json.loads(lines(tmp_path / "json")[0])
    assert (printed["model"], printed["version"], printed["level"]) == ("mnist", "1.0", "INFO")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d", printed["time"])


@given(st.text(max_size=200))
def test_whatever_stands_in_a_file_is_read(text: str) -> None:
    assert isinstance(as_text(text), str)
    assert isinstance(as_text('{"time": "' + text), str)
    assert as_text(JSON.event("INFO", "main", "x", text)).split(" x - ")[0].endswith("[INFO ] main")
