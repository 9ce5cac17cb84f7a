"""The check that a release would work: `make release-check`.

Build a wheel and an sdist of the files that git knows, install each into an environment of its own, and run the
tutorial (`make demo`) with it, in a folder that holds none of the packages' sources. Takes ten minutes and a network.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# What the tutorial needs beside the installed packages.
TUTORIAL = ("examples", "model_defs", "model_store", "config.properties")


def run(*command: str | Path, cwd: Path) -> str:
    """Show a command and run it; the check ends where one fails."""
    print("$", *command, flush=True)
    done = subprocess.run([str(one) for one in command], cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(done.stdout)
        sys.exit(f"{command[0]} failed with exit code {done.returncode}")
    return done.stdout


def environment(folder: Path, *packages: str | Path) -> Path:
    """Make a new environment with these packages; return its folder of programs."""
    run(sys.executable, "-m", "venv", folder, cwd=ROOT)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    run(programs / "python", "-m", "pip", "install", "--quiet", *packages, cwd=ROOT)
    return programs


def copied(names: list[str], folder: Path) -> Path:
    """Copy the files of these names into a folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


def check_changelog(version: str) -> None:
    """Check that a released version has its section, and that one in development is called .dev0."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    closed = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    if "## [Unreleased]" not in text or not (version.endswith(".dev0") or version in closed):
        sys.exit(f"CHANGELOG.md has no section for {version}; the closed ones are {', '.join(closed)}")


def main() -> None:
    """Check the wheel, then the sdist."""
    names = [name for name in run("git", "ls-files", cwd=ROOT).splitlines() if (ROOT / name).is_file()]
    with tempfile.TemporaryDirectory(prefix="torchmar-release-") as place:
        work = Path(place)
        source = copied(names, work / "source")
        tools = environment(work / "tools", "build")
        run(tools / "python", "-m", "build", "--outdir", work / "dist", source, cwd=work)
        version = ""
        for file in sorted((work / "dist").iterdir(), reverse=True):
            kind = "wheel" if file.suffix == ".whl" else "sdist"
            programs = environment(work / kind, file)
            version = run(programs / "torchmar", "--version", cwd=work).split()[-1]
            tutorial = copied([name for name in names if name.startswith(TUTORIAL)], work / f"tutorial-{kind}")
            print(run(programs / "python", "examples/mnist/demo.py", "--port", "auto", cwd=tutorial))
        check_changelog(version)
        print(f"torchmar {version}: wheel and sdist install and serve")


if __name__ == "__main__":
    main()
