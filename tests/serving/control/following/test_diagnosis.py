from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.control.following.diagnosis import LogWatch, hint_for, read_failure

EXTRACTED = "/tmp/torchmar-ab/models/0123456789abcdef0123456789abcdef"
# As TorchServe's worker prints a handler with an import that fails: the second traceback is its own doing.
IMPORT_ERROR = f"""\
model_name: bad, batchSize: 1
Backend worker process died.
Traceback (most recent call last):
  File "/site-packages/ts/model_loader.py", line 108, in load
    module, function_name = self._load_handler_file(handler)
  File "{EXTRACTED}/bad.py", line 7, in <module>
    import not_there
ModuleNotFoundError: No module named 'not_there'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/site-packages/ts/model_service_worker.py", line 301, in <module>
    worker.run_server()
ModuleNotFoundError: No module named 'ts.torch_handler.bad'
""".splitlines()
SYNTAX_ERROR = f"""\
Backend worker process died.
Traceback (most recent call last):
  File "/site-packages/ts/model_loader.py", line 108, in load
    module, function_name = self._load_handler_file(handler)
  File "{EXTRACTED}/bad.py", line 3
    def handle(data, context:
              ^
SyntaxError: '(' was never closed
""".splitlines()
LONG_MESSAGE = f"""\
Failed to load model net, exception weights do not fit
Traceback (most recent call last):
  File "{EXTRACTED}/handler.py", line 12, in initialize
    self.load()
  File "{EXTRACTED}/handlers/loading/load.py", line 99, in load
    raise error
handlers.errors.CheckpointMismatchError: weights do not fit
  missing: fc.bias
  unexpected: head.bias
Backend worker process died.
Traceback (most recent call last):
  File "/site-packages/ts/model_service_worker.py", line 201, in handle_connection
    raise RuntimeError()
RuntimeError: 500 - Unknown exception
""".splitlines()

# As our worker prints them.
SUMMARY = f"""\
[PID]4711
Torch worker started.
reading the weights
Traceback (most recent call last):
  File "{EXTRACTED}/net_handler.py", line 3, in look
    fetch()
OSError: the handler's own log tells of this one

Traceback (most recent call last):
  File "/site-packages/serving/worker/loading/loader.py", line 80, in load
    service.initialize(context)
  File "{EXTRACTED}/net_handler.py", line 12, in initialize
    self.load()
  File "{EXTRACTED}/handlers/loading/load.py", line 99, in load
    raise error
handlers.errors.CheckpointMismatchError: weights do not fit
  missing: fc.bias
  unexpected: head.bias

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/site-packages/serving/worker/loading/loader.py", line 84, in load
    raise HandlerError("initialize failed") from error
serving.worker.loading.failures.HandlerError: initialize failed
Failed to load model net: CheckpointMismatchError: weights do not fit
  in net_handler.py:12 (initialize)
  hint: build the archive with the weights of this model

""".splitlines()
# Without a line, a hint, or a name of an exception: one of the worker's own errors.
BRIEF = """\
Traceback (most recent call last):
  File "/site-packages/serving/worker/loading/settings.py", line 40, in read
    raise ConfigError(problem, where="model-config.yaml")
serving.worker.loading.failures.ConfigError: backend.mode is neither shared nor dedicated: fast
Failed to load model net: backend.mode is neither shared nor dedicated: fast
  in model-config.yaml

[PID]4712
Torch worker started.
""".splitlines()


def test_our_workers_summary_holds_and_the_traceback_adds_what_it_left_out(tmp_path: Path) -> None:
    failure = read_failure("net", SUMMARY)
    assert failure is not None
    assert failure.cause.splitlines() == [
        "CheckpointMismatchError: weights do not fit",
        "  missing: fc.bias",
        "  unexpected: head.bias",
    ]
    assert (failure.file, failure.line) == ("net_handler.py", 12)
    assert "head.bias" in failure.traceback
    assert "initialize failed" not in failure.traceback
    assert "the handler's own log" not in failure.traceback
    error = failure.error(tmp_path)
    assert error.where == "net_handler.py:12"
    assert (error.hint or "").startswith("build the archive with the weights of this model; the whole log: ")


def test_our_workers_own_errors_are_read(tmp_path: Path) -> None:
    failure = read_failure("net", BRIEF)
    assert failure is not None
    error = failure.error(tmp_path)
    assert error.message == "model net cannot be loaded: backend.mode is neither shared nor dedicated: fast"
    assert error.where == "model-config.yaml"
    assert "Torch worker started" not in failure.traceback


@pytest.mark.parametrize("end", range(len(SUMMARY)))
def test_a_summary_in_the_middle_of_being_written_is_awaited(end: int) -> None:
    assert read_failure("net", SUMMARY[:end]) is None


def test_a_summary_under_another_form_of_traceback_is_enough() -> None:
    group = ["  + Exception Group Traceback (most recent call last):", '  |   File "x.py", line 1']
    lines = [*SUMMARY[: SUMMARY.index("") + 1], *group, *SUMMARY[-4:]]
    failure = read_failure("net", lines)
    assert failure is not None
    assert (failure.cause, failure.file, failure.line) == (
        "CheckpointMismatchError: weights do not fit",
        "net_handler.py",
        12,
    )


def test_the_first_cause_is_found_not_what_followed_from_it() -> None:
    failure = read_failure("bad", IMPORT_ERROR)
    assert failure is not None
    assert failure.cause == "ModuleNotFoundError: No module named 'not_there'"
    assert (failure.file, failure.line) == ("bad.py", 7)
    assert failure.traceback.splitlines() == [
        "Traceback (most recent call last):",
        '  File "bad.py", line 7, in <module>',
        "    import not_there",
        "ModuleNotFoundError: No module named 'not_there'",
    ]


def test_a_syntax_error_has_its_line() -> None:
    failure = read_failure("bad", SYNTAX_ERROR)
    assert failure is not None
    assert failure.cause == "SyntaxError: '(' was never closed"
    assert (failure.file, failure.line) == ("bad.py", 3)


def test_a_message_of_several_lines_is_kept_and_the_users_own_frame_is_named() -> None:
    failure = read_failure("net", LONG_MESSAGE)
    assert failure is not None
    assert failure.cause.splitlines() == [
        "handlers.errors.CheckpointMismatchError: weights do not fit",
        "  missing: fc.bias",
        "  unexpected: head.bias",
    ]
    assert (failure.file, failure.line) == ("handler.py", 12)


@pytest.mark.parametrize("end", range(len(IMPORT_ERROR[:8])))
def test_a_traceback_in_the_middle_of_being_written_is_awaited(end: int) -> None:
    assert read_failure("bad", IMPORT_ERROR[:end]) is None


@given(st.lists(st.sampled_from([*IMPORT_ERROR, *LONG_MESSAGE, *SUMMARY, "", "noise"]), max_size=40))
def test_any_log_gives_a_failure_with_a_cause_or_none(lines: list[str]) -> None:
    failure = read_failure("net", lines)
    assert failure is None or failure.cause


def logged(worker: str, lines: list[str], pipe: str = "stdout") -> str:
    return "".join(f"2026-01-01T00:00:00,000 [INFO ] {worker}-{pipe} MODEL_LOG - {line}\n" for line in lines)


def test_the_log_of_each_model_is_told_apart(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    with (tmp_path / "model_log.log").open("a") as log:
        log.write(logged("W-9000-good_1.0", ["hello"]))
        log.write(logged("W-9001-bad_1.0", IMPORT_ERROR))
        log.write(logged("W-9002-very_bad_1.0", SYNTAX_ERROR))
    watch.poll()
    assert watch.failure("good") is None
    assert watch.lines_of("good") == ["hello"]
    bad, very_bad = watch.failure("bad"), watch.failure("very_bad")
    assert bad is not None
    assert very_bad is not None
    assert bad.cause.startswith("ModuleNotFoundError")
    assert very_bad.cause.startswith("SyntaxError")


def test_only_new_lines_count_unless_asked(tmp_path: Path) -> None:
    (tmp_path / "model_log.log").write_text(logged("W-9000-bad_1.0", IMPORT_ERROR))
    late, early = LogWatch(tmp_path), LogWatch(tmp_path, from_begin=True)
    late.poll()
    early.poll()
    assert late.failure("bad") is None
    assert early.failure("bad") is not None


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    text = logged("W-9000-bad_1.0", ["whole line"])
    (tmp_path / "model_log.log").write_text(text[:60])
    watch.poll()
    assert watch.lines_of("bad") == []
    (tmp_path / "model_log.log").write_text(text)
    watch.poll()
    assert watch.lines_of("bad") == ["whole line"]


def test_without_a_traceback_the_frontends_words_and_the_last_lines_are_told(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    (tmp_path / "ts_log.log").write_text("x [WARN ] W-9000-m_1.0 c.B - Load model failed: m, error: Worker died.\n")
    lines = ["[PID]12", "Torch worker started.", "segmentation fault"]
    (tmp_path / "model_log.log").write_text(logged("W-9000-m_1.0", lines))
    watch.poll()
    assert watch.times_failed("m") == 1
    assert watch.failure("m") is None
    error = watch.bare_failure("m").error(tmp_path)
    assert "ended without an error" in error.message
    assert error.message.endswith("last lines: segmentation fault")


def test_a_warning_on_the_other_pipe_does_not_break_a_traceback(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    middle = SUMMARY.index("    self.load()")
    text = logged("W-9000-net_1.0", SUMMARY[:middle])
    text += logged("W-9000-net_1.0", ["UserWarning: old", "  warn()"], "stderr")
    (tmp_path / "model_log.log").write_text(text + logged("W-9000-net_1.0", SUMMARY[middle:]))
    watch.poll()
    assert watch.failure("net") == read_failure("net", SUMMARY)
    assert watch.lines_of("net")[middle] == "UserWarning: old"


def test_a_summary_whose_traceback_was_lost_is_told(tmp_path: Path) -> None:
    watch = LogWatch(tmp_path)
    (tmp_path / "model_log.log").write_text(logged("W-9000-net_1.0", SUMMARY[-4:-1]))
    watch.poll()
    assert watch.failure("net") is None
    failure = watch.bare_failure("net")
    assert (failure.cause, failure.line) == ("CheckpointMismatchError: weights do not fit", 12)


@pytest.mark.parametrize(
    ("told", "cause", "where"),
    [
        ("ValueError: bad (42) (net.py:7)", "ValueError: bad (42)", "net.py:7"),
        ("ValueError: bad (42)", "ValueError: bad (42)", None),
        ("Worker died.", "its worker ended without an error (killed, out of memory, sys.exit, or a crash of", None),
        ("Unknown exception", "its worker ended without an error", None),
    ],
)
def test_without_a_log_of_the_worker_its_answer_is_told(
    tmp_path: Path, told: str, cause: str, where: str | None
) -> None:
    watch = LogWatch(tmp_path)
    (tmp_path / "ts_log.log").write_text(f"x [WARN ] W-9000-m_1.0 c.B - Load model failed: m, error: {told}\n")
    watch.poll()
    error = watch.bare_failure("m").error(tmp_path)
    assert error.message.startswith(f"model m cannot be loaded: {cause}")
    assert error.where == where


def test_a_missing_module_comes_with_a_hint() -> None:
    assert "not_there" in hint_for("ModuleNotFoundError: No module named 'not_there.sub'")
    assert hint_for("ValueError: x") == ""
