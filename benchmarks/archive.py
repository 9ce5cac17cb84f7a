"""Building an archive: torchmar beside torch-model-archiver and ``cp``, in one run: ``python benchmarks/archive.py``.

Every contender is a command that turns the same weights into a file. They take turns, round after round; the medians of
the rounds are compared. Before each turn the weights are read, so that they come from memory for all, and what the turn
before has left to write is written. Prints a Markdown report and writes ``archive.md`` and ``archive.json``.

::

    python benchmarks/archive.py                     # 1 GiB of weights, three rounds: about four minutes
    python benchmarks/archive.py --quick             # does it run? 0.1 GiB, one round
    python benchmarks/archive.py --contenders cp,torchmar --gib 4 --folder /mnt/other

The folder holds the weights and one result at a time, and what torch-model-archiver copies on its way: three times the
size of the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

# This process stays small, importing the standard library only until all is measured: a child's peak memory
# begins with its parent's.
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]  # run as a script, only this file's own folder is searched

RESULTS = Path(__file__).resolve().parent / "results"
GIB = 1 << 30
_CHUNK = 16 << 20
_SEED = 20
_WEIGHTS = "weights.safetensors"
_HANDLER = "handler.py"
_ARCHIVER = ["-m", "model_archiver.model_packaging"]
_TORCHMAR = ["-m", "archive_tool", "build", "--quiet"]
_BUILD = ["--model-name", "m", "--version", "1.0", "--handler", _HANDLER, "--serialized-file", _WEIGHTS]
_OUT = "out"

#: Each contender: what it is, and its command; what follows `python` if it begins with an option.
CONTENDERS: dict[str, tuple[str, list[str]]] = {
    "cp": ("the time to compare with: no archive, no checksum", ["cp", _WEIGHTS, f"{_OUT}/m.mar"]),
    "torchmar": ("CRC-32 and SHA-256 of every member", [*_TORCHMAR, *_BUILD, "--export-path", _OUT]),
    "torchmar --compress": (
        "everything deflated, on all cores",
        [*_TORCHMAR, *_BUILD, "--export-path", _OUT, "--compress"],
    ),
    "torch-model-archiver": ("everything deflated", [*_ARCHIVER, *_BUILD, "--export-path", _OUT]),
    "torch-model-archiver zip-store": (
        "nothing deflated",
        [*_ARCHIVER, *_BUILD, "--export-path", _OUT, "--archive-format", "zip-store"],
    ),
}


@dataclass(frozen=True)
class Turn:
    """One run of one contender.

    Attributes:
        wall_s, cpu_s: seconds that passed; seconds of processor time of the command.
        peak_mb: the most memory that the command had in use (its resident set), in MB.
        size: bytes of the result.
        sha256: of the result.
    """

    round: int
    contender: str
    wall_s: float
    cpu_s: float
    peak_mb: float
    size: int
    sha256: str


@dataclass
class Results:
    """All of a run."""

    settings: dict[str, str]
    gib: float
    contenders: list[str]
    turns: list[Turn] = field(default_factory=list)

    def median(self, contender: str, name: str) -> float | None:
        """Return the median of a figure; None if it was not measured."""
        values = [getattr(turn, name) for turn in self.turns if turn.contender == contender]
        return statistics.median(values) if values else None

    def ratio(self, one: str, other: str) -> float | None:
        """Return how many times longer one contender takes than another."""
        mine, theirs = self.median(one, "wall_s"), self.median(other, "wall_s")
        return mine / theirs if mine and theirs else None

    @property
    def problems(self) -> list[str]:
        """List problems of our own archives: the same inputs must have given the same bytes in every round."""
        ours = [name for name in self.contenders if name.startswith("torchmar")]
        return [
            f"{name}: the rounds gave different archives"
            for name in ours
            if len({turn.sha256 for turn in self.turns if turn.contender == name}) > 1
        ]


def make_weights(path: Path, size: int) -> None:
    """Write a safetensors file with one tensor of float32 weights, normally distributed as trained ones mostly are."""
    import numpy

    count = size // 4
    entry = {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}
    header = json.dumps({"weight": entry}).encode()
    header += b" " * (-len(header) % 8)
    random = numpy.random.default_rng(_SEED)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, count, _CHUNK // 4):
            part = random.standard_normal(min(_CHUNK // 4, count - start), dtype=numpy.float32)
            stream.write((part * numpy.float32(0.02)).tobytes())


def run(results: Results, rounds: int, folder: Path) -> None:
    """Measure every contender ``rounds`` times in a folder that holds the inputs."""
    for number in range(rounds):
        shift = number % len(results.contenders)
        for contender in results.contenders[shift:] + results.contenders[:shift]:
            print(f"round {number + 1}: {contender}", file=sys.stderr, flush=True)
            results.turns.append(turn(number, contender, folder))


def turn(number: int, contender: str, folder: Path) -> Turn:
    """Measure one contender once.

    Raises:
        SystemExit: the contender failed.
    """
    out, staging = folder / _OUT, folder / "staging"
    for path in (out, staging):
        path.mkdir()
    _digest(folder / _WEIGHTS)  # from now on it is in memory
    os.sync()
    command = CONTENDERS[contender][1]
    if command[0].startswith("-"):
        command = [sys.executable, *command]
    # torch-model-archiver copies everything into the system's folder for temporary files first.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(staging)}
    begin = time.perf_counter()
    child = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.perf_counter() - begin
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{contender} failed with exit code {child.returncode}")
    (result,) = out.iterdir()
    found = Turn(
        round=number,
        contender=contender,
        wall_s=wall,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mb=usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
        size=result.stat().st_size,
        sha256=_digest(result),
    )
    for path in (out, staging):
        shutil.rmtree(path)
    return found


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def markdown(results: Results) -> str:
    """Format the report."""
    from benchmarks.serving_bench.report import number, table
    from benchmarks.serving_bench.targets import Target

    mine = "torchmar"
    targets = (
        Target("times as fast as torch-model-archiver", ">=", 20, results.ratio("torch-model-archiver", mine)),
        Target("times as fast as its zip-store", ">=", 2.5, results.ratio("torch-model-archiver zip-store", mine)),
        Target("times as long as cp", "<=", 2, results.ratio(mine, "cp")),
        Target("peak memory, MB", "<=", 100, results.median(mine, "peak_mb")),
    )
    verdicts = {True: "yes", False: "no", None: "-"}
    rows = []
    for name in results.contenders:
        times = [turn.wall_s for turn in results.turns if turn.contender == name]
        figures = [results.median(name, key) for key in ("wall_s", "cpu_s", "peak_mb", "size")]
        against = results.ratio(name, results.contenders[0])
        wall, cpu, peak, size = figures
        spread = f"{number(min(times))} to {number(max(times))}"
        cells = [number(wall), spread, number(against), number(cpu), number(peak), number(size and size / 1e6)]
        rows.append([f"{name}: {CONTENDERS[name][0]}", *cells])
    head = ["", "s", "all rounds, s", f"times {results.contenders[0]}", "CPU s", "peak memory, MB", "result, MB"]
    parts = [
        f"# Building an archive of {results.gib:g} GiB of weights",
        "\n".join(f"- {name}: {value}" for name, value in results.settings.items()),
        *([f"## What went wrong\n\n{'; '.join(results.problems)}"] if results.problems else []),
        "## Targets",
        table(
            ["torchmar", "target", "measured", "met"],
            [
                [target.text, f"{target.sign} {target.bound:g}", number(target.measured), verdicts[target.met]]
                for target in targets
            ],
        ),
        "## Contenders",
        table(head, rows),
    ]
    return "\n\n".join(parts) + "\n"


def write(results: Results, folder: Path) -> str:
    """Write the two files; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(results)
    (folder / "archive.md").write_text(text, encoding="utf-8")
    (folder / "archive.json").write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
    return text


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Building an archive: torchmar beside torch-model-archiver and cp.")
    parser.add_argument("--gib", type=float, help="size of the weights in GiB (1)")
    parser.add_argument("--rounds", type=int, help="of every contender (3)")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="of %(default)s; ratios are to the first")
    parser.add_argument("--quick", action="store_true", help="one round with 0.1 GiB, unless said otherwise")
    parser.add_argument("--folder", type=Path, help="where to write (the system's for temporary files)")
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="default: benchmarks/results")
    options = parser.parse_args(arguments)
    options.gib = options.gib if options.gib is not None else 0.1 if options.quick else 1.0
    options.rounds = options.rounds if options.rounds is not None else 1 if options.quick else 3
    options.contenders = options.contenders.split(",")
    if unknown := set(options.contenders) - set(CONTENDERS):
        parser.error(f"--contenders takes {', '.join(CONTENDERS)}, not {', '.join(sorted(unknown))}")
    if not (options.gib > 0 and options.rounds > 0):
        parser.error("sizes and rounds are numbers above 0")
    return options


def settings(rounds: int) -> dict[str, str]:
    """Return what the figures depend on."""
    from benchmarks import machine

    return {
        "machine": machine.describe(),
        "versions": machine.versions("torchmar", "torch-model-archiver"),
        "method": f"median of {rounds} round{'s' if rounds > 1 else ''}, the weights in the page cache",
    }


def main() -> int:
    """Measure, print the report and write it; return 1 if something failed on the way."""
    options = parse()
    from benchmarks.machine import compile_packages

    compile_packages()
    with tempfile.TemporaryDirectory(prefix="tmbench-", dir=options.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # In a process of its own, for numpy would make this one, and so every contender, larger.
        program = "import sys; from pathlib import Path; from benchmarks.archive import make_weights as make; "
        program += "make(Path(sys.argv[1]), int(sys.argv[2]))"
        size = str(int(options.gib * GIB))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", program, str(folder / _WEIGHTS), size], check=True, env=environment)
        (folder / _HANDLER).write_text("def handle(data, context):\n    return data\n", encoding="utf-8")
        results = Results({}, options.gib, options.contenders)
        run(results, options.rounds, folder)
    results.settings = settings(options.rounds)
    print(write(results, options.output_dir))
    return 1 if results.problems else 0


if __name__ == "__main__":
    sys.exit(main())
