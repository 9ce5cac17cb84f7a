"""Fixtures and hooks that tests of several rooms share."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from serving.control.configuration.java import java_home, torchserve_home
from serving.worker.process import rendezvous
from serving.worker.process.cores import calm_openmp

ROOT = Path(__file__).resolve().parents[1]
_PARALLEL = "PYTEST_XDIST_WORKER" in os.environ


# A busy machine is no fault of what is tested: nothing here has a time limit but the test as a whole. Each run draws
# other examples: a quarter of them a run of `make test` finds as much in four, and all are drawn beside the slow tests.
_ANY_TIME = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", _ANY_TIME, max_examples=25)
settings.register_profile("thorough", _ANY_TIME, max_examples=100)


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("quick" if config.getoption("markexpr") == "not slow" else "thorough")


# A shell without job control starts what it puts into the background with SIGINT ignored, nohup and some services with
# SIGHUP, and that is inherited: none of the processes that the tests interrupt would end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Before anything imports torch, and for all processes that the tests start: several of them share the cores.
calm_openmp()

# What is imported and collected stays to the end: to look through it for garbage, again and again, takes a fifth of the
# collection, and a second at each later time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    _let_torch_log_as_others_do()


def pytest_unconfigure() -> None:
    gc.freeze()  # the process ends, and would look through all that it has once more


def _let_torch_log_as_others_do() -> None:
    """Let what torch logs go to the root, too: pytest puts six handlers a test on each logger that does not."""
    for name, logger in logging.root.manager.loggerDict.items():
        if name.partition(".")[0] == "torch" and isinstance(logger, logging.Logger):
            logger.propagate = True


# Tests whose parts are real processes: frontends, workers, clients. A busy machine can starve any of them.
_OF_PROCESSES = tuple(
    ROOT / "tests" / name
    for name in (
        "integration",
        "serving/worker",
        "serving/check",
        "serving/frontend/test_guard.py",
        "serving/frontend/test_server.py",
        "archive_tool/publishing",
        "test_docs.py",
    )
)


# A parallel run hands out whole files, and these together, to one process: they share what costs seconds of its time.
_TOGETHER = {
    # torchvision, transformers, captum and torch's compiler, which are imported in the process of the tests.
    "libraries": (
        "handlers/",
        "archive_tool/publishing/",
        "examples/test_mnist_handler.py",
        "model_defs/",
        "benchmarks/test_pictures.py",
        "integration/test_generation.py",
        "integration/test_handlers.py",
        "integration/test_openai.py",
        "integration/test_pretrained.py",
    ),
    # torch.export, and transformers, where the process above has enough to do.
    "exports": (
        "archive_tool/test_harmless_weights.py",
        "archive_tool/test_hidden_pickles.py",
        "archive_tool/weights/",
    ),
    "folders": ("archive_tool/pretrained/",),
    # The servers of the fixture `light_server`.
    "light servers": (
        "integration/test_access.py",
        "integration/test_bench.py",
        "integration/test_client.py",
        "integration/test_commands.py",
        "integration/test_console_beside.py",
        "integration/test_deadlines.py",
        "integration/test_warm_up.py",
        "integration/test_workers.py",
        "integration/test_wrong_input.py",
    ),
}


def _scope(nodeid: str) -> str:
    """Return the name of the tests that a process runs with a test: of its file, or of several."""
    file = nodeid.partition("::")[0]
    inside = file.removeprefix("tests/")
    return next((name for name, places in _TOGETHER.items() if inside.startswith(places)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Hand out tests by `_scope` with `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _scope(nodeid)

    return Scheduling(config, log)


# The longest come first: the end is no time to begin such a one. All of _TOGETHER come before.
_LONGEST_FIRST = tuple(
    ROOT / "tests" / f"{name}.py"
    for name in (
        "integration/test_demo",
        "integration/test_examples",
        "integration/test_compatibility",
        "integration/test_compatibility_modes",
        "integration/test_worker_rules",
        "integration/test_worker_rules_played",
        "serving/check/test_run",
        "integration/test_lifecycle",
        "integration/test_golden",
        "integration/test_kserve",
        "test_docs",
        "integration/test_async",
        "integration/test_console",
        "integration/test_shared",
        "serving/frontend/test_server",
        "serving/frontend/test_guard",
        "examples/test_mnist_train",
    )
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give real processes a second try, which the summary counts (a second failure counts); put long files first."""
    files = {item.path for item in items}
    real = {path for path in files if any(place == path or place in path.parents for place in _OF_PROCESSES)}
    for item in items:
        if item.path in real:
            item.add_marker(pytest.mark.flaky(reruns=1))
    if _PARALLEL:
        longest = {path: place for place, path in enumerate(_LONGEST_FIRST)}
        together = {path for path in files if _scope(str(path.relative_to(ROOT))) in _TOGETHER}
        items.sort(key=lambda item: (item.path not in together, longest.get(item.path, len(longest))))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show why tests got a second try; pytest names them."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"the first try of {report.nodeid}")
        terminalreporter.write_line(report.longreprtext)


@pytest.fixture(autouse=True, scope="module")
def _nothing_is_left() -> Iterator[None]:
    """Fail where tests leave in their process what those after them do not expect.

    A prefork process lives as long as the process whose workers it starts. What sys.path has decides whether a worker
    comes from a prefork process.
    """
    path = list(sys.path)
    yield
    # torch's compiler imports setuptools, which appends a folder of its own, in the first module that compiles.
    sys.path[:] = [one for one in sys.path if one in path or Path(one).parts[-2:] != ("setuptools", "_vendor")]
    assert sys.path == path, "restore it, or use a process of its own"
    if rendezvous.supported:
        listener = rendezvous.listen(rendezvous.address(os.getpid()))
        assert listener is not None, "a prefork process is left: serve from a process that ends, or call end_prefork"
        listener.close()


def of_the_run(factory: pytest.TempPathFactory, name: str) -> Path:
    """Return the place of something that is made once, by whichever process of a parallel run asks first."""
    base = factory.getbasetemp()
    # Those processes have folders of their own in a common one; alone, that one outlives the run.
    return (base.parent if _PARALLEL else base) / name


@pytest.fixture(scope="session")
def mnist_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where `mnist_weights` are, or will be; the writer holds the lock of this name and `.lock`."""
    return of_the_run(tmp_path_factory, "mnist-weights")


@pytest.fixture(scope="session")
def mnist_weights(mnist_place: Path) -> Path:
    """Return what `examples/mnist/train.py` writes: for the test of the demo, or else after one epoch."""
    with FileLock(f"{mnist_place}.lock"):
        if not (mnist_place / "mnist_script.pt").exists():
            # One epoch may be less than the example asks of itself; the files are written all the same.
            command = [sys.executable, ROOT / "examples" / "mnist" / "train.py", "--epochs", "1"]
            subprocess.run([*command, "--output-dir", mnist_place], capture_output=True, check=False)
    assert (mnist_place / "mnist_script.pt").exists()
    return mnist_place


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread for tiny models: with several torch takes twice the time, most of it to wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


_NET = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x))).softmax(1)
"""
_AHEAD = (
    *("build", "--model-name", "ahead", "--handler", "h_ahead.py", "--model-file", "net_ahead.py", "--aot"),
    *("--serialized-file", "net.pt", "--sample", "sample.json", "--export-path", "store", "-q"),
)


@pytest.fixture(scope="session")
def compiled_ahead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a network, weights, handler and sample, and in `store` the archive that `build --aot` makes.

    Made once for all tests, for a compiler takes many seconds.
    """
    folder = of_the_run(tmp_path_factory, "compiled-ahead")
    with FileLock(f"{folder}.lock"):
        if not (folder / "store" / "ahead.mar").exists():
            import torch

            (folder / "store").mkdir(parents=True, exist_ok=True)
            (folder / "net_ahead.py").write_text(_NET)
            (folder / "h_ahead.py").write_text(
                "from handlers import BaseHandler\n\n\nclass Handler(BaseHandler):\n    pass\n"
            )
            (folder / "sample.json").write_text(json.dumps([0.1 * one for one in range(8)]))
            generator = torch.Generator().manual_seed(0)
            shapes = {"first.weight": (16, 8), "first.bias": (16,), "second.weight": (4, 16), "second.bias": (4,)}
            weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
            torch.save(weights, folder / "net.pt")
            command = [Path(sys.executable).parent / "torchmar", *_AHEAD]
            # The compiler is not asked what it can do, which takes a compilation of its own.
            environment = {**os.environ, "TORCHINDUCTOR_VEC_ISA_OK": "1"}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
    return folder


_QUICK_JAVA = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_FIRST_SERVER = (
    "build --model-name m --handler handler.py --export-path store -q",
    "start m.mar --model-store store --port auto -q",
    "predict m handler.py",
    "stop",
)


@pytest.fixture(scope="session")
def java_options(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return JAVA_TOOL_OPTIONS for a frontend that lives for seconds: it is compiled quickly rather than well.

    In a run of all tests its classes are read once, by a server before all others, and mapped by those: that takes half
    of a start off the processor. A runtime that cannot do so starts as it would without.
    """
    if not _PARALLEL:
        return _QUICK_JAVA  # for a few tests it would cost more than it saves
    folder = of_the_run(tmp_path_factory, "java-classes")
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            (folder / "store").mkdir(parents=True)
            (folder / "handler.py").write_text("def handle(data, context):\n    return ['x'] * len(data or [])\n")
            (folder / "torch.py").write_text("raise ImportError('not needed here, and slow')\n")
            env = {name: value for name, value in os.environ.items() if not name.startswith(("TS_", "TORCHMAR_"))}
            env |= {"TORCHMAR_STATE_HOME": str(folder / "state"), "PYTHONPATH": str(folder)}
            env["JAVA_TOOL_OPTIONS"] = f'{_QUICK_JAVA} -XX:DumpLoadedClassList="{folder / "list"}"'
            for line in _FIRST_SERVER:
                command = [Path(sys.executable).parent / "torchmar", *line.split()]
                subprocess.run(command, cwd=folder, env=env, capture_output=True, check=False)
            command = [java_home() / "bin" / "java", "-Xshare:dump", "-cp", torchserve_home() / "ts" / "frontend" / "*"]
            command += [f"-XX:SharedClassListFile={folder / 'list'}", f"-XX:SharedArchiveFile={folder / 'classes'}"]
            subprocess.run(command, capture_output=True, check=False)
    return f'{_QUICK_JAVA} -XX:SharedArchiveFile="{folder / "classes"}"'
