"""The place of compiled code, and who may use it. One test compiles for real."""

import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from handlers.optimization import compile_cache


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Use own folders for the cache and for temporary files, and no settings."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_WARM_POOL", "set so that it is put back")
    monkeypatch.setenv(compile_cache.VARIABLE, "set so that it is put back")
    monkeypatch.delenv("TORCH_WARM_POOL")
    monkeypatch.delenv(compile_cache.VARIABLE)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(compile_cache.tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_kept_in_a_folder_of_the_users_own(places):
    folder = compile_cache.use_own_folder()
    assert folder.parent == places / "cache" / "torchmar" / "compiled"
    assert folder.name.startswith(f"torch-{torch.__version__}-")
    assert (mode(folder.parent), mode(folder.parent.parent)) == (0o700, 0o700)
    assert os.environ[compile_cache.VARIABLE] == str(folder)
    assert os.environ["TORCH_WARM_POOL"] == "0"
    assert compile_cache.use_own_folder() == folder


def test_who_names_a_folder_has_decided(places, monkeypatch):
    monkeypatch.setenv(compile_cache.VARIABLE, "/somewhere")
    assert compile_cache.use_own_folder(torch.device("cuda:0")) == Path("/somewhere")
    assert "TORCH_WARM_POOL" not in os.environ  # kernels for GPUs are compiled beside this process
    assert not (places / "cache").exists()


def test_what_torch_has_set_by_itself_is_no_decision(places, monkeypatch):
    from torch._inductor.runtime import cache_dir_utils

    cache_dir_utils.cache_dir()  # as importing the compiler does
    assert compile_cache.use_own_folder().is_relative_to(places / "cache")


def test_without_a_home_it_is_among_the_temporary_files(places, monkeypatch):
    (places / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(places / "file"))
    folder = compile_cache.use_own_folder()
    assert folder.parent == places / "tmp" / f"torchmar-{os.getuid()}" / "compiled"
    assert mode(folder.parent.parent) == 0o700


def test_a_relative_home_is_none(places, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    assert compile_cache.use_own_folder().is_relative_to(places / "tmp")


@pytest.mark.parametrize("trap", ["open", "link"])
def test_a_folder_that_others_can_change_is_not_used(places, trap):
    own = places / "cache" / "torchmar"
    if trap == "open":
        own.mkdir(parents=True)
        own.chmod(0o777)
    else:
        (places / "elsewhere").mkdir()
        own.parent.mkdir()
        own.symlink_to(places / "elsewhere")
    assert compile_cache.use_own_folder().is_relative_to(places / "tmp")


def test_if_all_else_fails_the_folder_is_new(places):
    for place in (places / "cache" / "torchmar", places / "tmp" / f"torchmar-{os.getuid()}"):
        place.mkdir(parents=True)
        place.chmod(0o777)
    folder = compile_cache.use_own_folder()
    assert folder.parent.name.startswith("torchmar-compiled-")
    assert mode(folder.parent) == 0o700


def test_another_machine_has_another_folder(places, monkeypatch):
    folders = {compile_cache.use_own_folder()}
    threads = torch.get_num_threads()
    changes = [
        lambda: monkeypatch.setattr(compile_cache, "_processor", lambda: "another"),
        lambda: monkeypatch.setattr(compile_cache.platform, "machine", lambda: "another"),
        lambda: monkeypatch.setattr(torch, "__version__", "1.0"),
        lambda: torch.set_num_threads(threads + 1),
    ]
    try:
        for change in changes:
            change()
            monkeypatch.delenv(compile_cache.VARIABLE)
            folders.add(compile_cache.use_own_folder())
    finally:
        torch.set_num_threads(threads)
    assert len(folders) == len(changes) + 1


def test_what_tells_processors_apart(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("model name\t: A\ncpu MHz\t: 2000\nflags\t: fpu amx_bf16\n\nmodel name\t: second core\n")
    first = compile_cache._processor(info)
    info.write_text("model name\t: A\ncpu MHz\t: 3000\nflags\t: fpu amx_bf16\n")
    assert compile_cache._processor(info) == first
    info.write_text("model name\t: A\ncpu MHz\t: 3000\nflags\t: fpu\n")
    assert compile_cache._processor(info) != first
    assert compile_cache._processor(tmp_path / "none")


# torch 2.7 made it part of its API.
artifacts = pytest.mark.skipif(not hasattr(torch.compiler, "load_cache_artifacts"), reason="torch keeps no artifacts")

# ---- in an archive -------------------------------------------------------------------------------------------------


def manifest(entry):
    return {"model": {}, "torchmar": {"formatVersion": 1, compile_cache.KEY: entry}}


@pytest.mark.parametrize("document", [None, {}, {"torchmar": 3}, {"torchmar": {}}, manifest(None), manifest(3)])
def test_archives_without_it(places, document, caplog):
    assert not compile_cache.load(document, places)
    assert caplog.records == []


def test_code_for_another_machine_is_passed_over(places, caplog):
    caplog.set_level("INFO")
    (places / "cache.bin").write_bytes(b"code")
    made_for = compile_cache.machine() | {"processor": "another", "torch": "1.0"}
    assert not compile_cache.load(manifest({"file": "cache.bin", "madeFor": made_for}), places)
    assert "made for another torch, processor: compiling anew" in caplog.text
    for made_for in (None, compile_cache.machine() | {"gpu": "one"}):
        assert not compile_cache.load(manifest({"file": "cache.bin", "madeFor": made_for}), places)


@artifacts
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("../outside", "it is not in the archive"),
        ("gone", "No such file"),
        (None, "No such file"),
        ("a\0", "null "),
    ],
)
def test_a_file_that_cannot_be_read(places, name, problem, caplog):
    (places / "outside").write_bytes(b"x")
    (places / "archive").mkdir()
    entry = {"file": name, "madeFor": compile_cache.machine()}
    assert not compile_cache.load(manifest(entry), places / "archive")
    assert problem in caplog.text


def test_what_is_no_compiled_code_does_no_harm(places, caplog):
    (places / "cache.bin").write_bytes(b"no such thing")
    assert not compile_cache.load(manifest({"file": "cache.bin", "madeFor": compile_cache.machine()}), places)


COMPILING = """
    import json, os, sys
    from pathlib import Path
    import torch
    from torch._dynamo.utils import counters
    from handlers.optimization import compile_cache
    from handlers.optimization.apply import optimize_model
    from handlers.optimization.settings import read

    def start(home, folder):
        torch.compiler.reset()
        counters.clear()
        os.environ["XDG_CACHE_HOME"] = str(Path(home).resolve())
        os.environ.pop(compile_cache.VARIABLE, None)
        compile_cache.use_own_folder()
        document = json.loads((folder / "manifest").read_text()) if (folder / "manifest").exists() else None
        loaded = compile_cache.load(document, folder)
        torch.manual_seed(0)
        plain = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU()).eval()
        optimization = read({"optimize": {"compile": True, "dtype": "bfloat16", "freezing": True}})
        model = optimize_model(plain, optimization, None)
        with torch.inference_mode():
            model(torch.ones(1, 8))
        hits = counters["inductor"]["fxgraph_cache_hit"]
        return {"loaded": loaded, "serving": model.serving, "hits": hits}

    before = compile_cache.save(Path("nothing.bin"))
    found = [start(home, Path(folder)) for home, folder in map(str.split, sys.argv[1:])]
    print(json.dumps([before, *found, compile_cache.save(Path("cache.bin")) if len(found) == 1 else None]))
"""


@pytest.mark.skipif(not hasattr(torch.compiler, "save_cache_artifacts"), reason="this torch has no such files")
def test_what_was_compiled_is_written_with_a_record_of_what_it_is_for(tmp_path, monkeypatch):
    """By a compiler that is played; the next test has the real one."""
    made = None
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: made)
    assert compile_cache.save(tmp_path / "cache.bin") is None
    assert not (tmp_path / "cache.bin").exists()
    made = (b"compiled", None)
    record = compile_cache.save(tmp_path / "cache.bin", torch.device("cpu"))
    assert (tmp_path / "cache.bin").read_bytes() == b"compiled"
    assert record == {"file": "cache.bin", "madeFor": compile_cache.machine(torch.device("cpu"))}


@pytest.mark.slow  # three compilations
@artifacts
def test_compiled_code_is_found_again_in_the_folder_and_in_an_archive(tmp_path):
    """The second process starts a model in the folder of the first, then one with an archive in an empty folder."""

    def starts(*homes_and_archives):
        # Few compilations do without what makes many of them faster, and without asking what the compiler can do.
        env = os.environ | {"TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0", "TORCHINDUCTOR_VEC_ISA_OK": "1"}
        env["PYTHONPATH"] = str(Path.cwd())
        command = [sys.executable, "-c", textwrap.dedent(COMPILING), *homes_and_archives]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    nothing, first, record = starts("one none")
    assert nothing is None
    assert not (tmp_path / "nothing.bin").exists()
    assert first == {"loaded": False, "serving": "bfloat16, inductor, freezing", "hits": 0}
    assert record["file"] == "cache.bin"
    (tmp_path / "manifest").write_text(json.dumps({"torchmar": {"compileCache": record}}))
    _, again, other, _ = starts("one none", "other .")
    assert again == first | {"hits": 1}
    assert other == first | {"loaded": True, "hits": 1}
