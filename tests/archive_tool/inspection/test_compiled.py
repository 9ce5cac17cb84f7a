"""Whether an archive's compiled model fits this machine, as `inspect` reports it without torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import archive_tool
from archive_tool.config.effective import understand
from archive_tool.inspection import compiled
from archive_tool.inspection.compiled import Fit, Torch, check, installed_torch
from archive_tool.metadata.manifest import Manifest
from handlers.optimization import machine
from handlers.optimization.aot import machine as seen_by_a_worker

CPU = torch.device("cpu")
PATH = "MAR-INF/compiled/model"
INPUTS = [{"name": "0", "dtype": "float32", "shape": [None, 3]}]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def record(**changes):
    return {"formatVersion": 1, "compiled": {"path": PATH, **seen_by_a_worker(CPU), "inputs": INPUTS} | changes}


def fit(config=None, **changes):
    document = {"runtime": "python", "model": {"modelName": "m", "handler": "h.py"}, "torchmar": record(**changes)}
    return check(Manifest.from_dict(document), understand(config))


def test_what_a_worker_here_would_serve_fits():
    """Compared is what torch itself says of this machine."""
    assert fit() == Fit(PATH, True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"torch": "2.0.1"}, f"it is for torch 2.0.1, and this is {torch.__version__.partition('+')[0]}"),
        ({"device": "cuda"}, "it is for cuda, and the device is cpu"),
        ({"platform": "linux-s390x"}, f"it is for linux-s390x, and this is {seen_by_a_worker(CPU)['platform']}"),
        ({"capability": ["quantum"]}, "it needs quantum, which this processor lacks"),
    ],
)
def test_what_is_for_another_machine_does_not(changes, reason):
    assert fit(**changes) == Fit(PATH, False, reason)


@pytest.mark.parametrize(
    ("config", "dtype", "fits"),
    [
        (b"optimize: {dtype: bfloat16}", "float32", False),
        (b"optimize: {dtype: bfloat16}", "bfloat16", True),
        (b"optimize: {channels_last: true}", "bfloat16", False),
        (b"optimize: {channels_last: true}", None, True),
        (b"optimize: {}", "bfloat16", True),
        (b"optimize: false", "bfloat16", True),
        (b"batchSize: 2", "bfloat16", True),
    ],
)
def test_numbers_of_another_type_than_the_config_asks_for(config, dtype, fits):
    found = fit(config, dtype=dtype)
    assert found.fits is fits
    assert ("optimize.dtype" in (found.reason or "")) is not fits


@pytest.mark.parametrize(
    ("config", "for_gpus", "gpus", "fits"),
    [
        (None, True, 0, True),
        (None, True, 1, False),
        (b"deviceType: cpu", True, 1, True),
        (None, False, 1, True),  # such a torch takes the processor, whatever it is given
        (None, True, None, None),
    ],
)
def test_the_device_that_a_worker_gets(monkeypatch, config, for_gpus, gpus, fits):
    monkeypatch.setattr(compiled, "installed_torch", lambda: Torch(torch.__version__, for_gpus))
    monkeypatch.setattr(compiled.obstacles, "gpus", lambda: gpus)
    found = fit(config)
    assert found.fits is fits
    assert (found.reason == "it is for cpu, and the device is cuda") is (fits is False)
    assert (found.reason == "it is for cpu, and whether there is a GPU here cannot be told") is (fits is None)


def test_what_only_torch_knows_stays_open(monkeypatch):
    monkeypatch.setattr(machine, "instruction_sets", lambda: None)
    reason = "it needs a, b, and whether this processor has it cannot be told"
    assert fit(capability=["a", "b"]) == Fit(PATH, None, reason)
    monkeypatch.setattr(compiled, "installed_torch", lambda: Torch("2.15.0+cu130", True))
    monkeypatch.setattr(compiled.obstacles, "gpus", lambda: 1)
    found = fit(torch="2.15.0+cu130", device="cuda", capability=["sm_90"])
    assert found == Fit(PATH, None, "it needs sm_90, and whether this GPU has it cannot be told")
    assert fit(torch="2.15.0+cu126", device="cuda", capability=["sm_90"]).fits is False


def test_without_torch(monkeypatch):
    monkeypatch.setattr(compiled, "installed_torch", lambda: None)
    assert fit() == Fit(PATH, False, "torch is not found here")


def test_an_archive_without_compiled_code():
    for ours in (None, {"formatVersion": 1}, {"formatVersion": 1, "compiled": 3}):
        document = {"runtime": "python", "model": {"modelName": "m"}} | ({"torchmar": ours} if ours else {})
        assert check(Manifest.from_dict(document), understand(None)) is None


# ---- which torch there is --------------------------------------------------------------------------------------------


def test_the_torch_that_is_here():
    assert installed_torch() == Torch(torch.__version__, bool(torch.version.cuda or torch.version.hip))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "__version__ = '2.15.0+cu132'\ncuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n",
            ("2.15.0+cu132", True),
        ),
        ("__version__ = '2.9.0+cpu'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n", ("2.9.0+cpu", False)),
        ('__version__ = "2.9.0+rocm6"\ncuda = None\nhip = "6.4"\n', ("2.9.0+rocm6", True)),
        ("nothing", None),
        (None, None),
    ],
)
def test_the_version_is_read_and_not_imported(tmp_path, text, expected):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('it was imported')\n")
    if text is not None:
        (tmp_path / "torch" / "version.py").write_text(text)
    root = Path(archive_tool.__file__).parents[1]
    code = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(root)!r}]\n"
        "from archive_tool.inspection.compiled import installed_torch\n"
        "found = installed_torch()\nprint((found.version, found.for_gpus) if found else None)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{expected}\n"


# ---- what is shown ---------------------------------------------------------------------------------------------------


@pytest.fixture
def made(make_zip, work):
    def make(**changes):
        document = {"runtime": "python", "model": {"modelName": "m", "handler": "h.py"}, "torchmar": record(**changes)}
        return make_zip([("h.py", b"x = 1"), ("MAR-INF/MANIFEST.json", json.dumps(document).encode())])

    return make


@pytest.mark.parametrize(
    ("changes", "shown", "fits", "reason"),
    [
        ({}, "fits this machine", True, None),
        (
            {"capability": ["\x1b[2J"]},
            "not for here, where the plain model serves: it needs \\x1b[2J, which this processor lacks",
            False,
            "it needs \x1b[2J, which this processor lacks",
        ),
    ],
)
def test_inspect(made, torchmar, changes, shown, fits, reason):
    done = torchmar("inspect", made(**changes))
    assert done.returncode == 0
    title, line = done.stdout[done.stdout.index("compiled ahead of time") :].splitlines()[:2]
    assert (title, line.split(maxsplit=1)) == ("compiled ahead of time", [PATH, shown])
    document = json.loads(torchmar("inspect", made(**changes), "--json").stdout)
    assert document["compiled"] == {"path": PATH, "fits": fits, "reason": reason}


def test_inspect_says_what_stays_open(made, torchmar, monkeypatch):
    monkeypatch.setattr(compiled.obstacles, "gpus", lambda: None)
    monkeypatch.setattr(compiled, "installed_torch", lambda: Torch(torch.__version__, True))
    assert "may fit this machine: it is for cpu, and whether there is a GPU" in torchmar("inspect", made()).stdout


def test_inspect_of_others_says_nothing_of_it(work, torchmar):
    archive_tool.build(model_name="m", handler="h.py", export_path="store")
    assert "compiled ahead of time" not in torchmar("inspect", "store/m.mar").stdout
    assert json.loads(torchmar("inspect", "store/m.mar", "--json").stdout)["compiled"] is None


def test_inspect_asks_without_torch(made):
    code = f"""
import sys
from archive_tool import open_archive
from archive_tool.inspection.describe import describe
with open_archive({str(made())!r}) as archive:
    assert describe(archive, archive.manifest)["compiled"]["fits"] is True
assert "torch" not in sys.modules
"""
    root = str(Path(archive_tool.__file__).parents[1])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""})
