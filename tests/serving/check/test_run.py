"""Archives in a real worker, from loading to the comparison of answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from archive_tool.building.samples import GivenSample
from archive_tool.errors import InputError, UnreadableArchiveError, UnsafeArchiveError
from serving.check import CheckOptions, Input, Result
from serving.check import check as run
from serving.errors import CheckError, ModelLoadError

from .conftest import ECHO, THREE_PARTS

ROOT = Path(__file__).resolve().parents[3]
Check = Callable[..., Result]

JSON = Input("in.json", b'{"a": 1}', "application/json")
ANY = Input("in", b"x")


def test_a_good_archive(check: Check) -> None:
    expected = b'{"got": {"a": 1}, "header": "application/json"}'
    samples = [GivenSample("in.json", b'{"a": 1}', expected), GivenSample("in.txt", b"two")]
    result = check(samples=samples, config="batchSize: 4\n", options={"repeat": 3})
    assert result.error is None, result.error
    assert (result.model, result.version, result.device) == ("m", "1.0", "cpu")
    assert result.load_seconds is not None
    assert result.load_seconds > 0
    first, second = result.inputs
    assert (first.name, first.status, first.expected, first.difference) == (
        "MAR-INF/samples/0/input.json",
        200,
        True,
        None,
    )
    assert len(first.seconds) == 4
    assert second.output == {"got": "two", "header": "text/plain"}
    assert not second.expected
    assert result.stdout == "initialized with 4 None\n"
    assert result.stderr == "asked\n" * 8
    assert 1_000_000 < result.memory <= result.peak


def test_inputs_in_the_place_of_the_samples(check: Check) -> None:
    result = check(ECHO, JSON, samples=[GivenSample("s", b"")])
    assert [one.name for one in result.inputs] == ["in.json"]


def test_without_inputs_only_loading_is_tried(check: Check) -> None:
    result = check()
    assert result.ok
    assert result.inputs == []
    assert result.stdout == "initialized with 1 None\n"


def test_another_answer_than_expected(check: Check) -> None:
    wrong = Input("in.json", b'{"a": 1}', "application/json", b'{"got": {"a": 2}, "header": "application/json"}')
    result = check(ECHO, wrong, JSON)
    assert isinstance(result.error, CheckError)
    assert result.error.message == "input in.json: another answer than expected: $.got.a is 1, 2 was expected"
    assert result.error.exit_code == 10
    assert [one.ok for one in result.inputs] == [False, True]  # the others are tried all the same


def test_the_tolerance(check: Check) -> None:
    source = "def handle(data, context): return [1.01] * len(data or [])"
    expected = Input("in", b"", expected=b"1.0")
    assert check(source, expected).error is not None
    assert check(source, expected, options={"tolerance": 0.02}).error is None


def test_the_tolerance_that_a_sample_states(check: Check) -> None:
    """Relative above 1, absolute below, as `publish` measures it; the command line's goes before it."""
    source = "def handle(data, context): return [[101, 0.015]] * len(data or [])"

    def tried(stated: float | None, wanted: float | None = None) -> bool:
        sample = GivenSample("in", b"", b"[100, 0.005]", tolerance=stated)
        return check(source, samples=[sample], options={"repeat": 0, "tolerance": wanted}).ok

    assert tried(0.02)
    assert not tried(0.009)
    assert not tried(None)
    assert not tried(0.02, wanted=0.02)


# ---- loading fails -------------------------------------------------------------------------------------------------


def test_a_handler_that_cannot_be_loaded(check: Check) -> None:
    source = """
        class Handler:
            def initialize(self, context):
                print("before")
                raise KeyError("labels")

            def handle(self, data, context): pass
    """
    result = check(source, ANY)
    error = result.error
    assert isinstance(error, ModelLoadError)
    assert error.message == "model m cannot be loaded: KeyError: 'labels'"
    assert error.where == "handler.py:5"
    assert 'File "handler.py", line 5, in initialize' in error.traceback
    assert error.exit_code == 6
    assert result.load_seconds is None
    assert result.inputs == []
    assert result.stdout.startswith("before\n")


def test_a_missing_module_has_a_hint(check: Check) -> None:
    error = check("import no_such_module\ndef handle(data, context): pass").error
    assert error is not None
    assert error.where == "handler.py:1"
    assert "pip install" in (error.hint or "")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("os._exit(3)", "its worker failed: it ended with the exit code 3"),
        ("os.kill(os.getpid(), 9)", "its worker failed: it was killed (by the system, for lack of memory?)"),
        ("sys.exit(4)", "the handler ended the process: sys.exit(4)"),
    ],
)
def test_a_worker_that_ends_while_it_loads(check: Check, line: str, words: str) -> None:
    error = check(f"import os, sys\nprint('last words', flush=True)\n{line}\ndef handle(data, context): pass").error
    assert isinstance(error, ModelLoadError)
    assert words in error.message
    assert "last words" in error.message or error.where == "handler.py:3"


def test_a_crash_of_native_code_names_the_line(check: Check) -> None:
    source = "import ctypes\ndef handle(data, context):\n    if data: ctypes.string_at(0)\n"
    result = check(source, ANY, JSON)
    error = result.error
    assert isinstance(error, CheckError)
    assert error.message == "input in: the worker failed: it crashed: SIGSEGV"
    assert error.where == "handler.py:3 (handle)"
    assert "native code" in (error.hint or "")
    assert [one.status for one in result.inputs] == [0]  # no one is left to ask
    loading = check("import ctypes\nctypes.string_at(0)\ndef handle(data, context): pass").error
    assert loading is not None
    assert loading.message == "model m cannot be loaded: its worker failed: it crashed: SIGSEGV"
    assert loading.where == "handler.py:2 (<module>)"


def test_a_handler_that_hangs_while_it_loads(check: Check) -> None:
    source = "import time\ndef wait():\n    time.sleep(3600)\nwait()\ndef handle(data, context): pass"
    error = check(source, options={"timeout_s": 0.5}).error
    assert error is not None
    assert error.message == "model m is not loaded after 0.5 s"
    assert error.where == "handler.py:3 (wait)"


def test_a_handler_that_hangs(check: Check) -> None:
    source = "def handle(data, context):\n    while data:\n        pass\n"
    result = check(source, ANY, options={"timeout_s": 2.5})  # which is for loading, too
    assert result.error is not None
    assert result.error.message == "input in: no answer after 2.5 s"
    assert (result.error.where or "").startswith("handler.py:")
    assert "--timeout" in (result.error.hint or "")
    assert 'File "handler.py", line' in result.error.traceback  # type: ignore[attr-defined]


def test_the_archives_own_timeouts(check: Check) -> None:
    source = "import time\ndef handle(data, context):\n    if data: time.sleep(3600)\n"
    error = check(source, ANY, config="responseTimeout: 1\n").error
    assert error is not None
    assert error.message == "input in: no answer after 1 s"


# ---- answers -------------------------------------------------------------------------------------------------------


def test_an_input_that_fails(check: Check) -> None:
    source = """
        def handle(data, context):
            if data and data[0]["body"] == b"x":
                print("about to fail")
                raise ValueError("no x")
            return ["fine"] * len(data or [])
    """
    result = check(source, ANY, JSON)
    error = result.error
    assert isinstance(error, CheckError)
    assert error.message == "input in: status 503: ValueError: no x"
    assert error.where == "handler.py:5"
    assert 'File "handler.py", line 5, in handle' in error.traceback
    assert [(one.status, one.ok) for one in result.inputs] == [(503, False), (200, True)]


def test_an_error_that_the_handler_answers(check: Check) -> None:
    source = """
        def handle(data, context):
            if data:
                context.set_response_status(415, "no", 0)
                return [{"code": 415, "message": "send a picture"}]
    """
    result = check(source, ANY)
    assert result.error is not None
    assert result.error.message == "input in: status 415: send a picture"
    assert result.inputs[0].output == {"code": 415, "message": "send a picture"}


def test_the_content_type_of_an_answer(check: Check) -> None:
    source = """
        def handle(data, context):
            if data:
                context.set_response_content_type(0, "image/png")
                return [bytes([255])]
    """
    (found,) = check(source, ANY).inputs
    assert (found.content_type, found.output) == ("image/png", b"\xff")


STREAM = """
    def handle(data, context):
        if data is None:
            return
        from ts.handler_utils.utils import send_intermediate_predict_response
        for part in ("a", "b"):
            send_intermediate_predict_response([part], context.request_ids, "part", 200, context)
        return ["c"]
"""


def test_a_stream(check: Check) -> None:
    # All of it that is needed here.
    torch = "Tensor = type('Tensor', (), {})\ndef get_num_threads(): return 1\ndef set_num_threads(count): pass\n"
    (found,) = check(STREAM, Input("in", b"x", expected=b"abc"), torch=torch).inputs
    assert (found.status, found.body, found.difference) == (200, b"abc", None)


def test_continuous_batching(check: Check) -> None:
    config = "continuousBatching: true\nbatchSize: 2\n"
    (found,) = check(THREE_PARTS, ANY, config=config, options={"repeat": 3}).inputs
    assert found.body == b"TrueFalseFalse"
    assert len(found.seconds) == 1


def test_sequences(check: Check) -> None:
    source = """
        def handle(data, context):
            return [context.get_sequence_id(0) for _ in data or []]
    """
    result = check(source, ANY, config="sequenceMaxIdleMSec: 1000\nsequenceBatching: true\n", options={"repeat": 3})
    assert result.inputs[0].output == "check-0"
    assert len(result.inputs[0].seconds) == 1


def test_the_asynchronous_mode(check: Check) -> None:
    source = """
        async def handle(data, context):
            return ["async"] * len(data or [])
    """
    result = check(source, ANY, config="asyncCommunication: true\n")
    assert result.error is None, result.error
    assert result.inputs[0].output == "async"
    failing = "async def handle(data, context):\n    pass\nraise ValueError('no')\n"
    error = check(failing, config="asyncCommunication: true\n").error
    assert isinstance(error, ModelLoadError)
    assert "ValueError: no" in error.message


def test_repetitions_end_in_time(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.check.run._REPEAT_S", 0.5)
    source = "import time\ndef handle(data, context):\n    time.sleep(0.2)\n    return [1] * len(data or [])\n"
    (found,) = check(source, ANY, options={"repeat": 100}).inputs
    assert 2 <= len(found.seconds) <= 5


# ---- the worker's surroundings -------------------------------------------------------------------------------------


def test_the_worker_is_as_the_frontend_starts_it(check: Check) -> None:
    source = """
        import os, sys, tempfile

        def handle(data, context):
            return [{
                "cwd": os.getcwd(), "path": sys.path, "argv": len(sys.argv), "tmp": tempfile.gettempdir(),
                "decode": os.environ["TS_DECODE_INPUT_REQUEST"], "dir": context.system_properties["model_dir"],
                "name": context.model_name, "manifest": context.manifest["model"]["modelName"],
            }] * len(data or [])
    """
    result = check(source, ANY)
    seen = result.inputs[0].output
    assert seen["cwd"] == seen["dir"] == seen["path"][0]
    assert (seen["argv"], seen["decode"], seen["name"], seen["manifest"]) == (1, "true", "m", "m")
    assert seen["tmp"].startswith(str(Path(seen["dir"]).parents[1]))


def test_paths_are_shown_as_names_in_the_archive(check: Check) -> None:
    source = "import sys\nprint(__file__)\nprint(__file__, file=sys.stderr)\ndef handle(data, context): pass\n"
    result = check(source)
    assert (result.stdout, result.stderr) == ("handler.py\n", "handler.py\n")


def test_samples_are_not_run_twice(check: Check) -> None:
    source = """
        calls = []

        def handle(data, context):
            calls.append(data)
            return [len(calls)] * len(data or [])
    """
    (found,) = check(source, samples=[GivenSample("in", b"x")]).inputs
    assert found.output == 2  # the first call is the initialization


def test_a_folder_of_modules_that_the_handlers_name_gives(check: Check) -> None:
    result = check("import helper\ndef run(data, context): return [helper.X] * len(data or [])", ANY,
                   handler="handler.py:run", helper="X = 5\n")  # fmt: skip
    assert result.inputs[0].output == 5


def test_a_tar_and_a_folder(make: Callable[..., Path], tmp_path: Path) -> None:
    from archive_tool import build

    make()
    for name in ("tgz", "no-archive"):
        inputs = tmp_path / "inputs"
        made = build(
            model_name="n",
            handler=inputs / "handler.py",
            extra_files=[inputs / "torch.py"],
            export_path=tmp_path,
            archive_format=name,
        )
        before = {path: path.stat().st_mtime_ns for path in made.path.rglob("*")}
        assert run(CheckOptions(made.path, (JSON,), repeat=0)).ok
        assert {path: path.stat().st_mtime_ns for path in made.path.rglob("*")} == before


def test_processes_that_the_handler_starts_end_too(check: Check, tmp_path: Path) -> None:
    source = f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        open({str(tmp_path / "pid")!r}, "w").write(str(child.pid))

        def handle(data, context): pass
    """
    assert check(source).ok
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_long_path_for_the_socket(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    deep = tmp_path / "t" / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    result = check(ECHO, JSON)
    assert list(deep.iterdir()) == []
    deep.rmdir()
    assert result.ok


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_nothing_is_left_after_a_signal(make: Callable[..., Path], tmp_path: Path, number: int) -> None:
    source = f"""
        import os, time
        open({str(tmp_path / "pid")!r}, "w").write(str(os.getpid()) + "\\n")
        time.sleep(3600)

        def handle(data, context): pass
    """
    command = [sys.executable, "-m", "archive_tool", "check", str(make(source))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path / "t")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().endswith("\n"):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate()
    assert process.returncode == 128 + number, err
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
    assert list((tmp_path / "t").iterdir()) == []


# ---- what cannot be checked ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:", "CPU", "cuda:99999"])
def test_devices_that_are_none(make: Callable[..., Path], device: str) -> None:
    with pytest.raises(InputError, match="is no device"):
        run(CheckOptions(make(), device=device))


def test_devices_that_are_not_here(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(InputError, match=r"no device cuda:2 here: 2 GPUs are found"):
        run(CheckOptions(make(), device="cuda:2"))


@pytest.mark.parametrize(("device", "number"), [("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_number_of_the_device(check: Check, monkeypatch: pytest.MonkeyPatch, device: str, number: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    result = check(options={"device": device})
    assert result.stdout == f"initialized with 1 {number}\n"
    assert result.device == device


def test_archives_that_need_more_than_one_process(check: Check) -> None:
    with pytest.raises(InputError, match="torchrun"):
        check(config="parallelType: tp\nparallelLevel: 2\n")


def test_other_runtimes(tmp_path: Path) -> None:
    from archive_tool import build

    made = build(model_name="n", handler="TorchScriptHandler", runtime="LSP", export_path=tmp_path)
    with pytest.raises(InputError, match="runtime LSP"):
        run(CheckOptions(made.path))


def test_archives_that_cannot_be_opened(tmp_path: Path) -> None:
    import zipfile

    with pytest.raises(UnreadableArchiveError):
        run(CheckOptions(tmp_path / "gone.mar"))
    for name, kind in (("h.py", InputError), ("../h.py", UnsafeArchiveError)):
        with zipfile.ZipFile(tmp_path / "m.mar", "w") as archive:
            archive.writestr(name, "")
        with pytest.raises(kind):
            run(CheckOptions(tmp_path / "m.mar"))


def test_a_sample_that_is_not_there(make: Callable[..., Path], tmp_path: Path) -> None:
    import zipfile

    make(samples=[GivenSample("in", b"x")])
    with zipfile.ZipFile(tmp_path / "m.mar") as source, zipfile.ZipFile(tmp_path / "n.mar", "w") as target:
        for name in source.namelist():
            if "samples" not in name:
                target.writestr(name, source.read(name))
    with pytest.raises(UnreadableArchiveError, match="MAR-INF/samples/0/input"):
        run(CheckOptions(tmp_path / "n.mar"))
