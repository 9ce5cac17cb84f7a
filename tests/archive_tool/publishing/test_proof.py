"""Archives that do not answer as they should."""

import time

import psutil
import pytest
import torch

import archive_tool
from archive_tool.errors import BuildError
from archive_tool.publishing import proof

HANDLER = """
class Handler:
    def initialize(self, context):
        self.config = context.model_yaml_config
        assert context.manifest["model"]["modelName"] == "m"
        assert context.system_properties["gpu_id"] is None

    def handle(self, data, context):
        request = data[0]["body"]
        if request["do"] == "fail":
            context.set_response_status(code=418, idx=0)
            return [{"message": "no coffee"}]
        if request["do"] == "exit":
            raise SystemExit(3)
        if request["do"] == "start":
            import pathlib, subprocess, sys
            left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            pathlib.Path(request["file"]).write_text(str(left.pid))
        if request["do"] == "config":
            return [{"tensor_output": [self.config["handler"]["value"]]}]
        return [{"tensor_output": request["give"]}]
"""


@pytest.fixture
def archive(tmp_path):
    (tmp_path / "h.py").write_text(HANDLER)
    (tmp_path / "model-config.yaml").write_text("handler:\n  value: 7\n")
    built = archive_tool.build(
        model_name="m", handler=tmp_path / "h.py", config_file=tmp_path / "model-config.yaml", export_path=tmp_path
    )
    return built.path


def ended(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def prove(archive, *trials, tolerance=1e-3):
    return proof.prove(archive, "h", trials, tolerance=tolerance)


def give(value, **expected):
    return {"do": "give", "give": value}, {name: torch.tensor(tensor) for name, tensor in expected.items()}


def test_good_answers(archive):
    assert prove(
        archive,
        give([1.0, 2.0], y=[1.0, 2.0]),
        give([1.0, 2.001], y=[1.0, 2.0]),
        give({"a": [1], "b": [[True]]}, a=[1], b=[[True]]),
        give([], y=torch.zeros(0, 3).tolist()),
        ({"do": "config"}, {"y": torch.tensor([7])}),
    ) == pytest.approx(0.0005)


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        (give([1.1], y=[1.0]), "largest difference is 0.1, and 0.001 is allowed"),
        (give([2], y=[3]), "largest difference"),
        (give([float("nan")], y=[1.0]), "largest difference is inf"),
        (give([[1.0]], y=[1.0]), r"gives 'y' in the shape \[1, 1\], and the live one gives it in \[1\]"),
        (give({"b": [1]}, a=[1]), "gives b, and the live one a"),
        (give({"a": [1], "b": [1]}, a=[1]), "gives a, b, and the live one a"),
        (({"do": "fail"}, {}), "answers its own example with 418: no coffee"),
        (({"do": "exit"}, {}), "ended with the exit code 3"),
        (({}, {}), "cannot be loaded: KeyError: 'do'"),
    ],
)
def test_bad_answers(archive, trial, reason):
    with pytest.raises(BuildError, match=reason):
        prove(archive, trial)


def test_what_a_handler_starts_ends_with_the_proof(archive, tmp_path):
    request, expected = give([1.0], y=[1.0])
    prove(archive, (request | {"do": "start", "file": str(tmp_path / "pid")}, expected))
    left = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 20
    while not (gone := ended(left)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert gone


def test_modules_of_this_session_are_missed(archive, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "only_here.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    (tmp_path / "h2.py").write_text("import only_here\ndef handle(data, context): return data\n")
    built = archive_tool.build(model_name="m2", handler=tmp_path / "h2.py", export_path=tmp_path)
    with pytest.raises(BuildError, match="No module named 'only_here'"):
        proof.prove(built.path, "h2", [], tolerance=0)


def test_names_of_our_own_modules_are_the_archives(tmp_path):
    (tmp_path / "source.py").write_text("value = [5]\n")
    (tmp_path / "h3.py").write_text(
        "import source\nclass Handler:\n    def initialize(self, context): pass\n"
        "    def handle(self, data, context): return [{'tensor_output': source.value}]\n"
    )
    built = archive_tool.build(
        model_name="m3", handler=tmp_path / "h3.py", extra_files=[tmp_path / "source.py"], export_path=tmp_path
    )
    assert proof.prove(built.path, "h3", [({}, {"y": torch.tensor([5])})], tolerance=0) == 0
