"""Documents name only what exists, and every command that they show runs."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from archive_tool.cli.entry import COMMANDS, Entry, cli
from archive_tool.errors import TorchmarError
from examples import downloads
from serving import errors as serving_errors
from serving.cli.deploy import group as deploy
from serving.control.configuration.ports import choose_free

from .integration.preloaded import CommandLine

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
DOCUMENTS = sorted(path for pattern in ("*.md", "docs/**/*.md", "examples/*/*.md") for path in ROOT.glob(pattern))
EXAMPLES = sorted(path.parent.name for path in ROOT.glob("examples/*/demo.py"))
# The continuous integration runs `make test`; the tests of the demos run what these do, and so MNIST's training.
DEMOS = tuple(f"python examples/{name}/demo.py" for name in EXAMPLES)
RUN_ELSEWHERE = ("make demo", "make test", "python examples/mnist/train.py", *DEMOS)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[str]:
    """Return the lines after ``$ `` of the document's console blocks, continuation lines joined."""
    found = []
    for block in blocks(path, "console"):
        typed = [line[2:] for line in block.replace("\\\n", " ").splitlines() if line.startswith("$ ")]
        found += [line for line in typed if not line.startswith(RUN_ELSEWHERE)]
    return found


def shown(path: Path) -> list[list[str]]:
    """Return the words of torchmar's commands of its sh blocks: they need a cluster, or what else no test has."""
    lines = [line for block in blocks(path, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("torchmar ")]


def understand(words: list[str]) -> None:
    """Parse a command's line, without running it.

    Raises:
        click.UsageError: it has no such command, option or value.
    """
    command: click.Command = cli
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(click.Context(command), name)
        assert found is not None, name
        command = found
    # What a shell takes for itself begins at a sign of its own.
    command.make_context(name, list(itertools.takewhile(lambda word: word[0] not in "|&<>;", words)))


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path}: {target}"


@pytest.mark.parametrize("language", ["console", "python"])
def test_the_chinese_readme_shows_the_commands_of_the_english_one(language: str) -> None:
    english, chinese = (blocks(ROOT / name, language) for name in ("README.md", "README.zh-CN.md"))
    # The Chinese one ends before the example of a client in Python.
    assert chinese == english[: len(chinese)]
    assert len(chinese) >= {"console": 3, "python": 1}[language]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tables_are_whole(path: Path) -> None:
    """Every run of lines with bars begins with a head and its rule, and all its rows have as many cells."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, *rows = (re.sub(r"\\\||`[^`]*`", "", line).count("|") for line in table.splitlines())
        assert rows, f"{path}: a table of one line: {table}"
        assert re.match(r"\|[ :|-]+\|$", table.splitlines()[1]), f"{path}: no head: {table}"
        assert all(cells == head for cells in rows), f"{path}: rows of other widths: {table}"


def builds(path: Path) -> bool:
    """Return whether a document's commands make the archives that the others are about."""
    return any("build " in line or "torch-model-archiver" in line for line in commands(path))


def shows_mnist(path: Path) -> bool:
    """Return whether a document is about the example, or about archives that it does not make."""
    return not builds(path) or any("mnist" in line for line in commands(path))


@pytest.fixture
def checkout(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Yield the repository's files in a folder of their own, and the weights of the example."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="tmdocs-", dir="/tmp"))
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    path = request.node.callspec.params["path"]
    if shows_mnist(path) and (path not in WHATEVER_IT_HOLDS or builds(path)):
        weights = request.getfixturevalue("mnist_weights")
        shutil.copytree(weights, folder / "examples" / "mnist" / "build", dirs_exist_ok=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


# Documents about what is done with archives, whatever those hold: here something that needs neither trained weights nor
# torch, whose import takes each server and each run seconds. For what needs it all the same see SETUP.
_ABOUT_ARCHIVES = (
    *("archives", "batch", "bench", "console", "containers", "kubernetes", "ray", "scale-out", "security", "serving"),
    "testing-handlers",
)
WHATEVER_IT_HOLDS = {ROOT / "docs" / f"{name}.md" for name in _ABOUT_ARCHIVES}
STAND_IN = "def handle(data, context):\n    return [7] * len(data or [])\n"

# Weights and files of the tutorials, and for documents that build no archives those of `make demo`.
SETUP = """
torchmar() { "$PYTHON" -IS "$TYPED" "$CONTROL" "$@"; }
if $LIGHT; then
  for module in torch torchvision; do
    mkdir -p hidden-$module; echo "raise ImportError('not needed here')" > hidden-$module/$module.py
  done
  export PYTHONPATH=$PWD/hidden-torch
  torchmar() {
    case " $* " in
      *" --stock-worker "* | *" --trace "*) local -x PYTHONPATH=$PWD/hidden-torchvision;;
    esac
    "$PYTHON" -IS "$TYPED" "$CONTROL" "$@"
  }
fi
if $LIGHT && ! $BUILDS; then
  for name in mnist mnist_scripted; do
    torchmar build --model-name $name --handler stand_in.py --export-path model_store -q
  done
  mkdir v2
  torchmar build --model-name mnist --version 2.0 --handler stand_in.py --export-path v2 -q
  mv v2/mnist.mar model_store/mnist_v2.mar
elif $MNIST; then
  cp examples/mnist/build/*.py examples/mnist/build/*.pt .
  if $LIGHT; then
    cp stand_in.py mnist_handler.py
  elif ! $BUILDS; then
    build="torchmar build --handler examples/mnist/mnist_handler.py --export-path model_store -f -q"
    $build --model-name mnist --model-file model_defs/mnist.py --serialized-file examples/mnist/build/mnist_sd.pt
    $build --model-name mnist_scripted --serialized-file examples/mnist/build/mnist_script.pt
  fi
fi
# Documents assume that a server which starts or stops in the background has done so when the next line is typed. All
# start mnist in this way.
torchserve() {
  command torchserve "$@"
  case "$*" in
    *--start*) for _ in $(seq 240); do
      curl -s http://127.0.0.1:8081/models/mnist | grep -q READY && return 0; sleep 0.5; done; return 1;;
    *--stop*) for port in 8080 8081 8082 7070 7071; do
      while (exec 3<>/dev/tcp/127.0.0.1/$port) 2>/dev/null; do sleep 0.2; done; done; sleep 2;;
  esac
}
"""


# Their commands are run by `make test-all`; what they show has tests of its own. The examples' demo.py does what their
# pages say, of which integration/test_demo.py and test_examples.py run every step.
REPEATED = {
    ROOT / "README.md",
    ROOT / "README.zh-CN.md",
    *(ROOT / "examples" / name / "README.md" for name in EXAMPLES),
    # Servers, archives and checks that the tests of the commands have, too.
    *(
        ROOT / "docs" / name
        for name in (
            "archives.md",
            "batch.md",
            "bench.md",
            "kubernetes.md",
            "migrating.md",
            "openai.md",
            "pretrained.md",
            "ray.md",
            "scale-out.md",
            "security.md",
            "serving.md",
            "testing-handlers.md",
        )
    ),
}


@pytest.mark.parametrize("path", sorted(REPEATED), ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_that_are_not_run_are_at_least_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: Path(value))  # the demos make some of the files
    typed = [line for line in commands(path) if line.startswith("torchmar ")]
    assert typed
    for line in typed:
        understand(shlex.split(line.partition(" > ")[0])[1:])  # the shell takes the rest


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if shown(path)], ids=lambda path: path.name)
def test_commands_that_no_test_can_run_are_understood(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: Path(value))
    for words in shown(path):
        understand(words)


@pytest.fixture(scope="module")
def command_line() -> CommandLine:
    return CommandLine()


@pytest.mark.integration
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path in REPEATED else ()) for path in DOCUMENTS if commands(path)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_command_runs(path: Path, checkout: Path, java_options: str, command_line: CommandLine) -> None:
    ports = dict(zip(("8080", "8081", "8082", "7070", "7071"), choose_free("127.0.0.1", 5), strict=True))

    def moved(text: str) -> str:
        for usual, free in ports.items():
            text = re.sub(rf"(?<!\d){usual}(?!\d)", str(free), text)
        return text

    config = checkout / "config.properties"
    config.write_text(moved(config.read_text()))
    body = "\n".join(f"echo '$' {_quoted(line)}; {moved(line)}" for line in commands(path))
    script = f"set -euo pipefail\nshopt -s expand_aliases\n{moved(SETUP)}\n{body}\n"
    env = {
        "PATH": f"{BIN}:/usr/bin:/bin",
        "HOME": str(checkout),
        "TMPDIR": str(checkout / "tmp"),
        "TEMP": str(checkout / "tmp"),
        "TORCHMAR_STATE_HOME": str(checkout / "state"),
        "TORCHMAR_MANAGEMENT": f"http://127.0.0.1:{ports['8081']}",
        "TORCHMAR_INFERENCE": f"http://127.0.0.1:{ports['8080']}",
        "OMP_NUM_THREADS": "1",
        "JAVA_TOOL_OPTIONS": java_options,
        "PYTHON": sys.executable,
        "TYPED": str(ROOT / "tests" / "integration" / "typed.py"),
        "CONTROL": str(command_line.fileno()),
        "LIGHT": str(path in WHATEVER_IT_HOLDS).lower(),
        downloads.CACHE_VARIABLE: str(downloads.cache_folder()),
        "BUILDS": str(builds(path)).lower(),
        "MNIST": str(shows_mnist(path)).lower(),
    }
    (checkout / "tmp").mkdir()
    (checkout / "stand_in.py").write_text(STAND_IN)
    log = checkout / "log.txt"
    with log.open("w") as output:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=checkout,
            env=env,
            stdout=output,
            stderr=output,
            check=False,
            pass_fds=[command_line.fileno()],
        )
    said = log.read_text()
    subprocess.run([BIN / "torchmar", "stop", "--all", "-q"], env=env, capture_output=True, check=False)
    assert done.returncode == 0, said


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_blocks_compile(path: Path) -> None:
    for block in blocks(path, "python"):
        compile(block, str(path), "exec")


def listed() -> Iterator[tuple[str, Entry]]:
    """Yield every command by what is typed for it, those of groups too."""
    for sections, before in ((COMMANDS, ""), (deploy.COMMANDS, "deploy ")):
        for section in sections.values():
            for name, entry in section.items():
                yield before + name, entry


def command_of(typed: str) -> click.Command:
    command: click.Command | None = cli
    for name in typed.split():
        assert isinstance(command, click.Group)
        command = command.get_command(click.Context(command), name)
    assert command is not None
    return command


ALL = dict(listed())


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = command_of(name)
    assert command.help
    assert command.help.splitlines()[0] == ALL[name].help
    assert "Examples:" in command.help
    assert f"torchmar {name}" in command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name != "help":
            assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("name", ALL)
def test_every_command_is_documented(name: str) -> None:
    assert any(f"torchmar {name}" in path.read_text(encoding="utf-8") for path in DOCUMENTS)


@pytest.mark.parametrize("name", ALL)
def test_example_options_exist(name: str) -> None:
    """Options in the examples of a command's help are options of that command."""
    command = command_of(name)
    if isinstance(command, click.Group):
        return  # its commands are asked one by one
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for line in re.findall(rf"torchmar {name} (.*)", (command.help or "").replace("\\\n", " ")):
        for option in re.findall(r"(?<!\S)--?[a-z][a-z-]*", line):
            assert option in known, f"{name}: {option}"


def test_exit_codes_are_documented() -> None:
    table = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")

    def tree(kind: type[TorchmarError]) -> Iterator[type[TorchmarError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from tree(child)

    import_module(serving_errors.__name__)
    for kind in tree(TorchmarError):
        assert f"| {kind.exit_code} |" in table, kind


def test_dependencies_have_their_reasons() -> None:
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for name in re.findall(r'^    "([A-Za-z0-9_-]+)[><=]', setup, re.MULTILINE):
        assert re.search(rf"\b{re.escape(name)}\b", text), name


def test_make_targets_that_are_named_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in DOCUMENTS:
        for target in re.findall(r"`make ([a-z-]+)`", path.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{path}: make {target}"
