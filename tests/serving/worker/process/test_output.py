"""The pipes that the frontend reads the log from; in processes of their own, for it takes over standard output."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.serving.worker.frontend import ROOT, TIMEOUT_S

BEGIN = """
    import logging, os, sys
    from serving.worker.process import output
    from serving.worker.process.output import Output
    steps = os.fdopen(int(sys.argv[1]), "rb", 0)
    def step(): return steps.read(1)
    out = Output()
"""


class Program:
    """A process with the given pipes, that does its next step at a command."""

    def __init__(self, code: str, fds: tuple[int, ...]) -> None:
        reader, self._steps = os.pipe()
        program = textwrap.dedent(BEGIN) + textwrap.dedent(code)
        command = [sys.executable, "-c", program, str(reader), *map(str, fds)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, pass_fds=(reader, *fds), stdin=subprocess.DEVNULL, stdout=-1, stderr=-1
        )
        for fd in (reader, *fds):
            os.close(fd)

    def step(self) -> None:
        os.write(self._steps, b".")

    def end(self) -> tuple[int, str, str]:
        """Return the exit code, and what went to its first standard output and error."""
        os.close(self._steps)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    programs = []

    def start(code: str, *fds: int) -> Program:
        programs.append(Program(code, fds))
        return programs[-1]

    yield start
    for program in programs:
        program.process.kill()
        program.process.communicate()


def test_a_line_is_there_as_soon_as_it_is_printed(run: Callable[..., Program]) -> None:
    out, theirs_out = os.pipe()
    err, theirs_err = os.pipe()
    code = """
        out.add(int(sys.argv[2]), int(sys.argv[3]))
        out.install()
        print("first"); step()
        print("second", end=""); step()
        print(" line\\nthird\\nfour", end=""); step()
        print("error", file=sys.stderr); step()
        os.kill(os.getpid(), 9)
    """
    program = run(code, theirs_out, theirs_err)
    assert os.read(out, 100) == b"first\n"
    program.step()
    program.step()
    # As standard output has it everywhere: what comes with the end of a line goes with it.
    assert os.read(out, 100) == b"second line\nthird\nfour"
    program.step()
    assert os.read(err, 100) == b"error\n"
    program.step()
    assert os.read(out, 100) == b""
    assert os.read(err, 100) == b""
    assert program.end() == (-9, "", "")
    os.close(out)
    os.close(err)


def test_the_streams_of_a_process_that_was_started_plainly(run: Callable[..., Program]) -> None:
    code = """
        out.install()
        print("größer \\ud800", flush=True)
        print("error", file=sys.stderr)
        logging.info("told")
        logging.debug("not told")
        output.say("said")
        assert (sys.stdout.fileno(), sys.stderr.fileno()) == (1, 2)
        os.write(1, b"written\\n")
        os.system("echo started")
    """
    status, out, err = run(code).end()
    assert (status, err) == (0, "error\n")
    assert out.splitlines() == ["größer \\ud800", "told", "said", "written", "started"]


def test_logging_as_torchserves_worker_has_it(run: Callable[..., Program]) -> None:
    code = """
        logging.basicConfig(format="other: %(message)s", stream=sys.stderr)
        out.install()
        logging.getLogger("some.library").info("a message of %d words", 5)
        logging.getLogger("some.library").debug("no")
    """
    assert run(code).end() == (0, "a message of 5 words\n", "")


def test_much_output(run: Callable[..., Program]) -> None:
    code = """
        out.install()
        print("x" * 3_000_000)
        sys.stdout.buffer.write(memoryview(b"y" * 3_000_000))
        sys.stdout.flush()
    """
    status, out, err = run(code).end()
    assert (status, err) == (0, "")
    assert out == "x" * 3_000_000 + "\n" + "y" * 3_000_000


class Pipe:
    """A pipe of a worker, which the frontend reads."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def read(self, text: str) -> None:
        """Read exactly this."""
        found = b""
        while len(found) < len(text):
            data = os.read(self.reader, len(text) - len(found))
            assert data, found
            found += data
        assert found == text.encode()

    def is_ended(self) -> bool:
        return os.read(self.reader, 1) == b""

    def close(self) -> None:
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1


@pytest.fixture
def pipes() -> Iterator[list[Pipe]]:
    """Yield standard output and error of two workers."""
    pipes = [Pipe() for _ in range(4)]
    yield pipes
    for pipe in pipes:
        pipe.close()


WORKERS = """
    a, b, c, d = map(int, sys.argv[2:])
    out.add(a, b)
    out.install()
    out.add(c, d)
"""


def start(run: Callable[..., Program], code: str, pipes: list[Pipe]) -> Program:
    return run(textwrap.dedent(WORKERS) + textwrap.dedent(code), *(pipe.writer for pipe in pipes))


def test_another_worker_takes_over_when_the_first_ones_pipes_are_closed(
    run: Callable[..., Program], pipes: list[Pipe]
) -> None:
    code = """
        print("one"); step()
        print("two"); step()
        print("error", file=sys.stderr)
        out.remove(a); step()
        os.system("echo three")
    """
    out, err, other_out, other_err = pipes
    program = start(run, code, pipes)
    out.read("one\n")
    # As the frontend does when it has killed a worker.
    out.close()
    err.close()
    program.step()
    other_out.read("two\n")
    program.step()
    other_err.read("error\n")
    program.step()
    assert program.end() == (0, "", "")
    other_out.read("three\n")
    assert other_out.is_ended()


def test_the_pipes_of_a_worker_that_has_gone_are_closed(run: Callable[..., Program], pipes: list[Pipe]) -> None:
    code = """
        print("one")
        out.remove(a)
        print("two"); step()
        out.remove(a)
    """
    out, err, other_out, other_err = pipes
    program = start(run, code, pipes)
    out.read("one\n")
    assert out.is_ended()
    assert err.is_ended()
    other_out.read("two\n")
    program.step()
    assert program.end() == (0, "", "")
    assert other_err.is_ended()


def test_a_further_worker_that_goes_changes_nothing(run: Callable[..., Program], pipes: list[Pipe]) -> None:
    code = """
        out.remove(c)
        print("one"); step()
    """
    out, _, other_out, other_err = pipes
    program = start(run, code, pipes)
    out.read("one\n")
    assert other_out.is_ended()
    assert other_err.is_ended()
    program.step()
    assert program.end() == (0, "", "")


def test_a_line_that_was_begun_for_the_first_worker_goes_on_at_the_other(
    run: Callable[..., Program], pipes: list[Pipe]
) -> None:
    """More than a pipe takes, of which the rest is never read; and no line is written twice."""
    code = """
        print("x" * 1_000_000)
        print("end")
    """
    out, err, other_out, _ = pipes
    program = start(run, code, pipes)
    out.read("x" * 300_000)
    out.close()
    err.close()
    rest = b""
    while data := os.read(other_out.reader, 65536):
        rest += data
    assert program.end() == (0, "", "")
    assert rest.endswith(b"x\nend\n")
    assert 500_000 < len(rest) < 700_005


def test_nobody_reads_any_more(run: Callable[..., Program], pipes: list[Pipe]) -> None:
    code = """
        step()
        for _ in range(1000):
            print("lost")
            print("lost", file=sys.stderr)
            logging.warning("lost")
            output.say("lost")
        out.remove(a)
        out.remove(c)
        print("lost")
        sys.stdout.close()
        output.say("no stream any more")
        os._exit(5)
    """
    program = start(run, code, pipes)
    for pipe in pipes:
        pipe.close()
    program.step()
    assert program.end() == (5, "", "")


def test_only_one_pipe_is_closed(run: Callable[..., Program], pipes: list[Pipe]) -> None:
    """Then both of that worker are given up: the frontend closes them together."""
    code = """
        step()
        print("one", file=sys.stderr)
        print("two")
    """
    out, err, other_out, other_err = pipes
    program = start(run, code, pipes)
    err.close()
    program.step()
    assert program.end() == (0, "", "")
    other_err.read("one\n")
    other_out.read("two\n")
    assert out.is_ended()


def test_threads_write_whole_lines(run: Callable[..., Program]) -> None:
    code = """
        import threading
        out.install()
        def write(letter):
            for _ in range(200):
                print(letter * 50)
        threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
    """
    status, text, err = run(code).end()
    assert (status, err) == (0, "")
    assert sorted(text.replace("\n", "")) == sorted("abcd" * 200 * 50)


def test_what_was_written_may_be_waited_for(run: Callable[..., Program], pipes: list[Pipe]) -> None:
    """Until it is read, but not for ever."""
    code = """
        print("one")
        output.wait_until_read(1000)
        print("two", file=sys.stderr); step()
        print("three")
        output.wait_until_read(0.05)
        print("four", file=sys.stderr)
    """
    out, err, *_ = pipes
    program = start(run, code, pipes)
    assert not select.select([err.reader], [], [], 0.5)[0]
    out.read("one\n")
    err.read("two\n")
    program.step()
    err.read("four\n")
    assert program.end() == (0, "", "")
    out.read("three\n")


def test_what_goes_to_no_pipe_is_not_waited_for(run: Callable[..., Program]) -> None:
    code = """
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        print("x", flush=True)
        output.wait_until_read(1000)
        os.close(1)
        output.wait_until_read(1000)
        os._exit(3)
    """
    assert run(code).end() == (3, "", "")
