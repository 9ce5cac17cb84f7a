"""What a build says before it compiles, and what becomes of the process; real compilation is in test_compiled.py."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import archive_tool
from archive_tool.building import aot as ahead_of_time
from archive_tool.errors import BuildError
from archive_tool.inspection.describe import describe
from archive_tool.issues import Kind
from archive_tool.metadata.record import Compiled, TensorSpec
from archive_tool.reading.archive import open_archive
from archive_tool.verification.verify import verify

FOUND = {
    "path": "model",
    "torch": "2.15.0",
    "platform": "linux-x86_64",
    "device": "cpu",
    "capability": ["avx2"],
    "dtype": "float32",
    "inputs": [{"name": "0", "dtype": "float32", "shape": [None, 3]}],
}


@pytest.fixture
def aot(options, tmp_path, monkeypatch):
    """Return a build with --aot as a function of the script that stands in for the compiler."""
    (tmp_path / "sample.json").write_text("[1, 2, 3]")

    def build(script, **more):
        path = tmp_path / "stand_in.py"
        path.write_text(script)
        monkeypatch.setattr(ahead_of_time, "_SCRIPT", path)
        return archive_tool.build(**{**options, "sample": ["sample.json"], "aot": True, **more})

    return build


STAND_IN = f"""
import json, os, sys
from pathlib import Path
folder, task_file, report_file = sys.argv[1:]
task = json.loads(Path(task_file).read_text())
place = Path(task["output"], "model", "data")
place.mkdir(parents=True)
(place / "code.so").write_bytes(b"code")
seen = {{"cwd": os.getcwd(), "task": task, "env": dict(os.environ), "files": sorted(os.listdir(folder))}}
Path({{seen!r}}).write_text(json.dumps(seen))
Path(report_file).write_text(json.dumps({{"compiled": {FOUND!r}, "warnings": ["so"], "difference": 0}}))
"""


def test_the_archive_holds_what_was_compiled_and_says_so(aot, tmp_path):
    seen_file = tmp_path / "seen.json"
    result = aot(STAND_IN.replace("{seen!r}", repr(str(seen_file))))
    seen = json.loads(seen_file.read_text())
    assert seen["files"] == ["MAR-INF", "h.py", "model.py", "weights.pt"]
    assert seen["cwd"] == str(Path(seen["task"]["output"]).parent / "model")
    assert "PYTHONPATH" not in seen["env"]
    for name in ("TMPDIR", "TORCHINDUCTOR_CACHE_DIR"):  # what a compiler leaves goes with them
        assert Path(seen["env"][name]).is_relative_to(Path("store").resolve())
    assert seen["task"]["handler"] == "h"
    assert seen["task"]["sdk"] is None
    (sample,) = seen["task"]["samples"]
    assert (sample["name"], sample["contentType"]) == ("MAR-INF/samples/0/input.json", "application/json")
    assert result.warnings == ("so",)
    assert "MAR-INF/compiled/model/data/code.so" in result.members
    assert result.manifest.record.compiled == Compiled(
        "MAR-INF/compiled/model",
        "2.15.0",
        "linux-x86_64",
        "cpu",
        ("avx2",),
        "float32",
        (TensorSpec("0", "float32", (None, 3)),),
    )
    assert [path.name for path in Path("store").iterdir()] == ["m.mar"]
    assert verify(result.path).kind is None
    with open_archive(result.path) as archive:
        assert describe(archive, archive.manifest)["manifest"]["torchmar"]["compiled"]["torch"] == "2.15.0"


def test_a_record_of_what_is_not_there(aot, tmp_path):
    script = STAND_IN.replace("{seen!r}", repr(str(tmp_path / "seen.json")))
    lost = aot(script.replace("'path': 'model'", "'path': 'gone'"))
    (issue,) = verify(lost.path).issues
    assert (issue.kind, issue.message) == (Kind.ALTERED, "the compiled model 'MAR-INF/compiled/gone' is missing")
    outside = aot(script.replace("'path': 'model'", "'path': '../x'"), force=True)
    (issue,) = verify(outside.path).issues
    assert issue.kind is Kind.UNSAFE
    assert "leads out of the archive" in issue.message


def test_a_built_in_handler_is_the_sdks(aot, tmp_path):
    script = STAND_IN.replace("{seen!r}", repr(str(tmp_path / "seen.json")))
    aot(script, handler="image_classifier")
    assert json.loads((tmp_path / "seen.json").read_text())["task"]["sdk"] == "ImageClassifier"


def test_the_config_goes_along(aot, tmp_path):
    (tmp_path / "c.yaml").write_text("batchSize: 3\n")
    script = STAND_IN.replace("{seen!r}", repr(str(tmp_path / "seen.json")))
    aot(script, config_file="c.yaml")
    assert json.loads((tmp_path / "seen.json").read_text())["task"]["config"] == {"batchSize": 3}


# ---- what is reported before -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": []}, "there is no sample"),
        ({"handler": "h.py:handle"}, "the handler is the function handle"),
        ({"runtime": "LSP", "handler": "TorchScriptHandler"}, "runtime LSP"),
    ],
)
def test_what_cannot_be_compiled_is_told_before_anything_is_done(aot, change, message):
    Path("h.py").write_text(Path("h.py").read_text() + "\n\ndef handle(data, context):\n    return data\n")
    with pytest.raises(BuildError, match=message) as raised:
        aot("raise SystemExit('it was started')", **change)
    assert "--aot" in (raised.value.where or raised.value.message)
    assert not any(Path("store").iterdir())


@pytest.mark.parametrize(
    ("members", "message", "hint"),
    [
        (
            ("constants.pkl", "data.pkl", "version", "code/x.py"),
            "TorchScript, which torch.export does not",
            "torch.export",
        ),
        (("data/aotinductor/model/x.so", "version"), "a package of AOTInductor, which is compiled", "leave --aot out"),
    ],
)
def test_programs_that_cannot_be_compiled(aot, members, message, hint):
    with zipfile.ZipFile("program.pt", "w") as archive:
        for name in members:
            archive.writestr(f"program/{name}", b"x")
    with pytest.raises(BuildError, match=f"program.pt is {message}") as raised:
        aot("raise SystemExit('it was started')", serialized_file="program.pt", model_file=None)
    assert hint in raised.value.hint
    assert not any(Path("store").iterdir())


def test_a_program_of_torch_export_is_tried(aot):
    with zipfile.ZipFile("program.pt2", "w") as archive:
        for name, content in {"archive_format": b"pt2", "models/model.json": b"{}", "version": b"0"}.items():
            archive.writestr(f"program/{name}", content)
    with pytest.raises(BuildError, match="ended with the exit code 1\nit was started"):
        aot("raise SystemExit('it was started')", serialized_file="program.pt2", model_file=None)


def test_ones_own_files_in_the_place_of_the_compiled_model(aot, tmp_path):
    (tmp_path / "own").write_text("x")
    with pytest.raises(BuildError, match="MAR-INF/compiled is the place of the compiled model"):
        aot("", extra_files=["own=MAR-INF/compiled/own"])


@pytest.mark.parametrize(
    ("variable", "message"), [("", "there is no C\\+\\+ compiler"), ("not-there-g++", "not-there-g\\+\\+ of the env")]
)
def test_without_a_compiler(aot, monkeypatch, tmp_path, variable, message):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", variable)
    with pytest.raises(BuildError, match=message) as raised:
        aot("")
    assert "install one" in raised.value.hint


# ---- the process -----------------------------------------------------------------------------------------------------


def test_what_the_process_refuses(aot, monkeypatch):
    script = """
import json, sys
from pathlib import Path
error = {"message": f"bad: {sys.argv[1]}/h.py", "hint": "do"}
Path(sys.argv[3]).write_text(json.dumps({"error": error}))
"""
    with pytest.raises(BuildError) as raised:
        aot(script)
    assert (raised.value.message, raised.value.where, raised.value.hint) == ("bad: h.py", "--aot", "do")
    assert not any(Path("store").iterdir())


def test_a_process_that_dies(aot):
    with pytest.raises(BuildError, match=r"ended with the exit code 3\nlast words"):
        aot("import sys; print('last words', file=sys.stderr); sys.exit(3)")
    assert not any(Path("store").iterdir())


def test_an_older_archive_stays_if_compiling_fails(aot, options):
    before = archive_tool.build(**options).path.read_bytes()
    with pytest.raises(BuildError):
        aot("", force=True)
    assert Path("store/m.mar").read_bytes() == before


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_neither_processes_nor_files(aot, options, tmp_path, signum):
    started = tmp_path / "started"
    script = f"""
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path({str(started)!r} + ".part").write_text(f"{{os.getpid()}} {{child.pid}}")
os.rename({str(started)!r} + ".part", {str(started)!r})
time.sleep(600)
"""
    (tmp_path / "stand_in.py").write_text(script)
    program = f"""
import sys
from pathlib import Path
from archive_tool.cli import entry as cli
from archive_tool.building import aot as ahead_of_time
ahead_of_time._SCRIPT = Path({str(tmp_path / "stand_in.py")!r})
sys.exit(cli.main(sys.argv[1:]))
"""
    arguments = ["build", "--model-name", "m", "--handler", "h.py", "--serialized-file", "weights.pt"]
    arguments += ["--model-file", "model.py", "--export-path", "store", "--sample", "sample.json", "--aot"]
    (tmp_path / "sample.json").write_text("[1]")
    root = str(Path(ahead_of_time.__file__).resolve().parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _wait(started.exists)
        pids = [int(pid) for pid in started.read_text().split()]
        process.send_signal(signum)
        assert process.wait(60) == 128 + signum
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert not any(Path("store").iterdir())
    _wait(lambda: not any(_lives(pid) for pid in pids))


def _wait(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_command_says_what_takes_long(aot, torchmar, monkeypatch, tmp_path):
    (tmp_path / "stand_in.py").write_text(STAND_IN.replace("{seen!r}", repr(str(tmp_path / "seen.json"))))
    monkeypatch.setattr(ahead_of_time, "_SCRIPT", tmp_path / "stand_in.py")
    arguments = ["build", "--model-name", "m", "--handler", "h.py", "--serialized-file", "weights.pt"]
    arguments += ["--model-file", "model.py", "--export-path", "store", "--sample", "sample.json", "--aot"]
    done = torchmar(*arguments)
    assert done.returncode == 0, done.stderr
    assert "compiling ahead of time" in done.stderr
    assert "warning: so" in done.stderr
    assert torchmar(*arguments, "-f", "-q").stderr == "warning: so\n"
