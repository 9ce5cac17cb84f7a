"""One network, every way out of its past: MXNet Model Server's archives, eager, TorchScript, ONNX, a C++ program."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1])]

from examples import demos  # noqa: E402

NUMBERS = (1, 2, 4, 8, 14, 21, 29, 44)
LARGE = 10**12 - 1  # far beyond what the network was trained on, and what the old service takes
# The network is right on more than nine of ten numbers; what it says must be what every archive says.
NEEDED = 6
JSON = ("-H", "Content-Type: application/json")


def expected(number: int) -> str:
    """Return what comes after a number."""
    following = number + 1
    return "fizz" * (following % 3 == 0) + "buzz" * (following % 5 == 0) or str(following)


def build(work: Path, store: Path) -> None:
    """Train, and make five archives of the network."""
    demos.run("python", str(HERE / "train.py"), "--output-dir", str(work))
    service = str(work / "service")
    export = ("--export-path", str(store), "-f")
    folder = ("--model-path", service, "--handler", "fizbuz_service")
    demos.run("torchmar", "build", "--model-name", "fizbuz", *folder, *export)
    demos.run("python", str(HERE / "old_archive.py"), service, f"{work}/old.mar")
    demos.run("torchmar", "convert", f"{work}/old.mar", "-o", f"{store}/fizbuz_package.mar", "-f")
    handler = ("--handler", str(HERE / "fizbuz_handler.py"))
    eager = ("--model-file", str(HERE / "fizbuz_net.py"), "--serialized-file", f"{work}/fizbuz_sd.pt")
    demos.run("torchmar", "build", "--model-name", "fizbuz_eager", *eager, *handler, *export)
    scripted = ("--serialized-file", f"{work}/fizbuz_script.pt")
    demos.run("torchmar", "build", "--model-name", "fizbuz_scripted", *scripted, *handler, *export)
    onnx = ("--serialized-file", f"{service}/fizbuz.onnx", "--handler", "tensor_handler")
    demos.run("torchmar", "build", "--model-name", "fizbuz_onnx", *onnx, *export)


def play(server: demos.Server, model: str, *numbers: int) -> list[str]:
    """Ask a model what comes after each of the numbers."""
    answers = []
    for number in numbers:
        answer = server.predict(model, *JSON, "-d", json.dumps({"input.1": number}))
        answers.append(str(answer["answer"] if isinstance(answer, dict) else answer))
        print(f"{number} -> {answers[-1]}")
    return answers


def ask(server: demos.Server, work: Path) -> None:
    """Play with each model, scale one, and let the program in C++ play."""
    answers = play(server, "fizbuz_package", *NUMBERS)
    demos.require(play(server, "fizbuz", *NUMBERS) == answers, "the folder and the converted archive do not agree")
    right = sum(answer == expected(number) for number, answer in zip(NUMBERS, answers, strict=True))
    demos.require(right >= NEEDED, f"only {right} of {len(NUMBERS)} answers are right")
    eager = play(server, "fizbuz_eager", *NUMBERS, LARGE)
    demos.require(eager[:-1] == answers, "the eager network says something else")
    demos.require(play(server, "fizbuz_scripted", *NUMBERS, LARGE) == eager, "TorchScript says something else")
    bits = [number + 1 >> bit & 1 for number in NUMBERS[:1] for bit in range(10)]
    scores = server.predict("fizbuz_onnx", *JSON, "-d", json.dumps({"tensor_input": [bits]}))["tensor_output"]
    print(f"scores of {NUMBERS[0] + 1}, by ONNX: {scores}")
    scale(server)
    program = compile_program(work)
    if program is not None:
        following = [number + 1 for number in (*NUMBERS, LARGE)]
        said = demos.run(program, f"{work}/fizbuz_script.pt", *map(str, following), capture=True)
        print(said, end="")
        found = [line.split()[1] for line in said.splitlines()]
        demos.require(found == eager, "the program in C++ says something else")
    print(f"{right} of {len(NUMBERS)} answers right, whichever model is asked")


def scale(server: demos.Server) -> None:
    """Scale to two workers, and to one again."""
    url = f"{server.management}/models/fizbuz_package"
    # MXNet Model Server took max_worker alone; for TorchServe there must be as many at least.
    demos.curl("-X", "PUT", f"{url}?min_worker=2&max_worker=2&synchronous=true")
    (state,) = json.loads(demos.curl(url))
    ready = sum(worker["status"] == "READY" for worker in state["workers"])
    demos.require(ready == 2, f"{ready} workers are ready, not 2")
    demos.curl("-X", "PUT", f"{url}?max_worker=1&synchronous=true")
    (state,) = json.loads(demos.curl(url))
    print(f"{len(state['workers'])} worker")


def compile_program(work: Path) -> str | None:
    """Compile the program in C++; None where there is no compiler."""
    lacking = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if lacking:
        print(f"\nno C++: {' and '.join(lacking)} is not installed here")
        return None
    folder = f"{work}/cpp"
    demos.run("cmake", "-S", str(HERE / "cpp"), "-B", folder, f"-DPython3_EXECUTABLE={sys.executable}")
    demos.run("cmake", "--build", folder)
    return f"{folder}/fizbuz"


MODELS = ("fizbuz", "fizbuz_package", "fizbuz_eager", "fizbuz_scripted", "fizbuz_onnx")
DEMO = demos.Demo("fizbuz", MODELS, build, ask)

if __name__ == "__main__":
    sys.exit(demos.main(DEMO, __doc__))
