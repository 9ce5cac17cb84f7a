"""One model that is really compiled into its archive, which takes many seconds, and all that becomes of it."""

import json
import logging
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import archive_tool
from handlers import BaseHandler, LoadError
from handlers.fake_context import FakeContext
from handlers.loading import programs, unpacking
from handlers.loading.load import describe, load_program
from handlers.optimization import aot

# A compiler on a busy machine may take minutes. What can be shown without it is in optimization/test_aot.py and
# loading/test_unpacking.py.
pytestmark = [pytest.mark.timeout(1200), pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def _is_asked_nothing():
    """Keep the compiler from being asked what it can do: that takes a compilation of its own, here and in children."""
    from torch._inductor import config  # takes seconds

    known = {"cpp.vec_isa_ok": True} if hasattr(config.cpp, "vec_isa_ok") else {}
    with pytest.MonkeyPatch.context() as patch, config.patch(known):
        patch.setenv("TORCHINDUCTOR_VEC_ISA_OK", "1")
        yield


def build(parts, store, **more):
    options = {
        "model_name": "ahead",
        "handler": parts / "h_ahead.py",
        "model_file": parts / "net_ahead.py",
        "serialized_file": parts / "net.pt",
        "sample": [str(parts / "sample.json")],
        "export_path": store,
    }
    return archive_tool.build(**options | more)


@pytest.fixture(scope="module")
def built(compiled_ahead, tmp_path_factory):
    """Build the archive; return its path, manifest, the names of its members and that of the compiled code."""
    (path,) = (compiled_ahead / "store").iterdir()
    with archive_tool.open_archive(path) as opened:
        found = SimpleNamespace(path=path, manifest=opened.manifest, members=[member.name for member in opened.members])
        found.code = code_of(opened.extract(tmp_path_factory.mktemp("built") / "model"))
    assert leftovers(found) == []
    return found


def code_of(folder):
    """Return the file name of an extracted archive's compiled code, which lies in a folder or in a package."""
    place = compiled_in(folder)
    names = [path.name for path in place.rglob("*")] if place.is_dir() else zipfile.ZipFile(place).namelist()
    (code,) = (Path(name).name for name in names if name.endswith(".so"))
    return code


def compiled_in(folder):
    """Return where an extracted archive has its compiled model: unpacked, if this torch loads it so."""
    manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
    return folder / manifest["torchmar"]["compiled"]["path"]


def leftovers(built):
    """Return what loaders have left of this code where they unpack; other tests may be loading theirs."""
    places = {Path("/tmp"), Path(tempfile.gettempdir())}
    folders = [
        folder for place in places for kind in ("aotinductor_*", "torchmar-aot-*") for folder in place.glob(kind)
    ]
    return [folder for folder in folders if any(folder.rglob(built.code))]


@pytest.fixture
def folder(built, tmp_path):
    """Yield the archive, extracted; forget its modules at the end."""
    with archive_tool.open_archive(built.path) as archive:
        yield archive.extract(tmp_path / "model")
    for name in ("net_ahead", "h_ahead"):
        sys.modules.pop(name, None)


@pytest.fixture
def load(folder, monkeypatch):
    """Load the extracted archive with a handler; another manifest and config may be given."""
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    def now(change=None, config=None):
        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text())
        manifest["torchmar"]["compiled"] |= change or {}
        handler = BaseHandler()
        handler.initialize(FakeContext(folder, manifest=manifest, config=config))
        return handler

    return now


def plain(folder):
    """Return the model, to be called directly."""
    from handlers.loading.load import load_eager

    return load_eager(folder / "net_ahead.py", folder / "net.pt").eval()


def test_the_record_says_for_what_it_was_compiled(built):
    compiled = built.manifest.record.compiled
    here = aot.machine(torch.device("cpu"))
    assert (compiled.torch, compiled.platform, compiled.device) == (here["torch"], here["platform"], "cpu")
    assert list(compiled.capability) == here["capability"]
    assert compiled.dtype == "float32"
    assert [one.shape for one in compiled.inputs] == [(None, 8)]
    unpacked = any(name.startswith(f"{compiled.path}/") and name.endswith(".so") for name in built.members)
    assert unpacked is unpacking.takes_folders()
    assert unpacked or compiled.path in built.members


def test_torch_takes_folders_if_it_says_so(folder, tmp_path):
    with zipfile.ZipFile(packed(folder, tmp_path)) as archive:
        archive.extractall(tmp_path / "unpacked")
    try:
        unpacking.load(tmp_path / "unpacked")
    except (AssertionError, RuntimeError):
        assert not unpacking.takes_folders()
    else:
        assert unpacking.takes_folders()


def test_it_serves_batches_of_any_size_after_the_first_was_compared(load, folder, caplog):
    caplog.set_level(logging.INFO)
    handler = load()
    assert "Loaded the model compiled ahead of time for cpu in float32; the first request tells" in caplog.text
    model = plain(folder)
    for rows in (1, 2, 5):
        given = torch.randn(rows, 8)
        with torch.no_grad():
            torch.testing.assert_close(handler.inference(given), model(given), rtol=1e-4, atol=1e-5)
    assert handler.model.serving == "the model compiled ahead of time for cpu in float32"
    assert "differs from the plain model by" in caplog.text
    # A view that lies otherwise in memory than the compiler saw.
    turned = torch.randn(8, 3).t()
    with torch.no_grad():
        torch.testing.assert_close(handler.inference(turned), model(turned), rtol=1e-4, atol=1e-5)


def test_inputs_that_it_was_not_compiled_for_have_the_plain_models_answer(load, caplog):
    handler = load()
    handler.inference(torch.randn(2, 8))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        handler.inference(torch.randn(2, 9))
    assert (
        "The plain model answers inputs that the compiled one does not take; it takes float32 [any, 8]" in caplog.text
    )
    assert handler.inference(torch.randn(2, 8)).shape == (2, 4)


def test_elsewhere_the_plain_model_serves_and_the_log_says_why(load, caplog):
    caplog.set_level(logging.INFO)
    handler = load({"torch": "2.0.0"})
    assert type(handler.model).__name__ == "Net"
    assert "Not serving the model compiled ahead of time: it is for torch 2.0.0" in caplog.text
    handler = load(config={"optimize": {"dtype": "bfloat16"}})
    assert "it computes in float32, and optimize.dtype in model-config.yaml is bfloat16" in caplog.text
    assert handler.inference(torch.randn(1, 8)).shape == (1, 4)


def test_damaged_code_is_told_and_the_plain_model_serves(load, folder, caplog):
    place = compiled_in(folder)
    code = next(place.rglob("*.so")) if place.is_dir() else place
    code.write_bytes(b"\x7fELF")
    handler = load()
    assert type(handler.model).__name__ == "Net"
    assert "Not serving the model compiled ahead of time" in caplog.text
    assert caplog.records[-1].levelno == logging.WARNING


def test_code_that_gives_something_else_is_left_at_the_first_request(load, folder, monkeypatch, caplog):
    real = programs.load_compiled
    monkeypatch.setattr(programs, "load_compiled", lambda path, device: lambda *given: real(path, device)(*given) + 1.0)
    handler = load()
    given = torch.randn(2, 8)
    with torch.no_grad():
        torch.testing.assert_close(handler.inference(given), plain(folder)(given))
    assert handler.model.serving == "plain"
    assert "differs by" in caplog.text


def test_it_runs_on_the_stock_worker(folder, archives, caplog):
    caplog.set_level(logging.INFO)
    worker = archives.load(folder, "h_ahead.py")
    body = json.loads((folder / "MAR-INF/samples/0/input.json").read_text())
    reply = worker.predict(body, body)
    with torch.no_grad():
        expected = plain(folder)(torch.tensor([body]))[0]
    for item in reply.items:
        torch.testing.assert_close(torch.tensor(item.json()), expected, rtol=1e-4, atol=1e-5)
    assert worker.handler.model.serving.startswith("the model compiled ahead of time")


# ---- what stays behind -----------------------------------------------------------------------------------------------


@pytest.fixture
def package(folder, tmp_path):
    """Return the same code as a package in a file, as `publish` writes it."""
    return packed(folder, tmp_path)


def packed(folder, to):
    place = compiled_in(folder)
    if place.is_file():
        return place
    (data,) = place.rglob("data")
    path = to / "package.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for file in data.parent.rglob("*"):
            if file.is_file():
                archive.write(file, f"model/{file.relative_to(data.parent).as_posix()}")
    return path


@pytest.mark.parametrize("folders", [True, False])
def test_a_package_in_a_file_leaves_nothing_behind_once_it_is_loaded(built, package, folder, monkeypatch, folders):
    """So a process that is killed leaves nothing either."""
    if folders and not unpacking.takes_folders():
        pytest.skip("this torch loads no folders")
    monkeypatch.setattr(unpacking, "takes_folders", lambda: folders)  # every torch loads files
    loaded = programs.load_compiled(package, torch.device("cpu"))
    assert leftovers(built) == []
    given = torch.randn(3, 8)
    with torch.no_grad():
        torch.testing.assert_close(loaded(given), plain(folder)(given), rtol=1e-4, atol=1e-5)


def test_the_one_in_the_archive_leaves_nothing_behind_either(built, folder):
    loaded = programs.load_compiled(compiled_in(folder), torch.device("cpu"))
    assert leftovers(built) == []
    assert loaded(torch.zeros(2, 8)).shape == (2, 4)


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_behind(built, folder, package):
    program = f"""
import signal, sys, torch
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from handlers.loading import programs
for place in {[str(compiled_in(folder)), str(package)]!r}:
    print(programs.load_compiled(Path(place), torch.device("cpu"))(torch.zeros(2, 8)).shape, flush=True)
import time; time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        for _ in range(2):
            assert process.stdout.readline() == "torch.Size([2, 4])\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    assert leftovers(built) == []


def test_a_folder_without_a_package(tmp_path):
    with pytest.raises(LoadError, match="cannot be loaded"):
        programs.load_compiled(tmp_path, torch.device("cpu"))


def test_a_package_takes_any_number_of_rows(package, folder):
    loaded = load_program(package, torch.device("cpu"))
    for rows in (1, 5):
        inputs = torch.randn(rows, 8, generator=torch.Generator().manual_seed(rows))
        with torch.no_grad():
            torch.testing.assert_close(loaded(inputs), plain(folder)(inputs), rtol=1e-4, atol=1e-4)
    assert describe(loaded) == "AOTInductor package for cpu"


def test_a_package_for_another_device(package):
    with pytest.raises(LoadError, match="was compiled for cpu, and this worker's device is meta"):
        load_program(package, torch.device("meta"))


def test_a_damaged_package(package, tmp_path):
    damaged = tmp_path / "damaged.pt2"
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"\x7fELF" if name.endswith(".so") else source.read(name))
    with pytest.raises(LoadError, match="cannot be loaded"):
        load_program(damaged, torch.device("cpu"))


# ---- further compilations --------------------------------------------------------------------------------------------


@pytest.mark.slow  # a compilation more
def test_a_model_that_takes_one_number_of_rows_is_compiled_for_that(compiled_ahead, tmp_path):
    fixed = (compiled_ahead / "net_ahead.py").read_text()
    fixed = fixed.replace(
        "def forward(self, x):", "def forward(self, x):\n        x = x.view(1, 8) if len(x) == 1 else x.view(2, 8)"
    )
    (tmp_path / "net_ahead.py").write_text(fixed)
    (tmp_path / "store").mkdir()
    result = build(compiled_ahead, tmp_path / "store", model_file=tmp_path / "net_ahead.py", aot=True)
    (warning,) = result.warnings
    assert "the model was compiled for inputs of [1, 8] alone" in warning
    assert result.manifest.record.compiled.inputs[0].shape == (1, 8)


@pytest.mark.slow  # a compilation more
def test_sixteen_bits(compiled_ahead, tmp_path):
    (tmp_path / "model-config.yaml").write_text("optimize:\n  dtype: bfloat16\n")
    (tmp_path / "store").mkdir()
    result = build(compiled_ahead, tmp_path / "store", config_file=tmp_path / "model-config.yaml", aot=True)
    assert result.manifest.record.compiled.dtype == "bfloat16"
