"""The thread that ends a process whose work is no longer wanted, in processes of their own."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator

import pytest

from tests.serving.worker.frontend import ROOT, TIMEOUT_S, Log

BEGIN = """
    import os, socket, sys, time
    from serving.worker.process.guardian import Guardian
    lifelines = [socket.socket(fileno=int(fd)) for fd in sys.argv[1:]]
"""


class Program:
    """A process with some lifelines, of which this has the other ends."""

    def __init__(self, code: str, count: int) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        self.lifelines = [ours for ours, _ in pairs]
        fds = [theirs.fileno() for _, theirs in pairs]
        command = [sys.executable, "-u", "-c", textwrap.dedent(BEGIN) + textwrap.dedent(code), *map(str, fds)]
        self.process = subprocess.Popen(command, cwd=ROOT, pass_fds=fds, stdin=-1, stdout=-1, stderr=-1)
        for _, theirs in pairs:
            theirs.close()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out = Log(os.dup(self.process.stdout.fileno()))
        self.err = Log(os.dup(self.process.stderr.fileno()))

    def end(self) -> tuple[int, str, str]:
        """Return exit code and output; it must end by itself."""
        return self.process.wait(TIMEOUT_S), self.out.rest(), self.err.rest()

    def close_stdin(self) -> None:
        """Close the other end of its standard input, as the end of a frontend does."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        for lifeline in self.lifelines:
            lifeline.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    programs: list[Program] = []

    def start(code: str, count: int = 0) -> Program:
        programs.append(Program(code, count))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


ALONE = """
    guardian = Guardian(alone=True)
    guardian.start()
    guardian.watch(lifelines[0], lambda: print("not called"))
"""


def test_the_end_of_the_lifeline_ends_a_process_that_sleeps(run: Callable[..., Program]) -> None:
    program = run(ALONE + "    print('up')\n    time.sleep(1000)", 1)
    program.out.wait("up\n")
    program.lifelines[0].close()
    assert program.end() == (0, "up\n", "")


def test_the_lifeline_had_ended_before(run: Callable[..., Program]) -> None:
    program = run("    sys.stdin.read(1)\n" + ALONE + "    time.sleep(1000)", 1)
    program.lifelines[0].close()
    assert program.process.stdin is not None
    program.process.stdin.write(b".")
    program.process.stdin.flush()
    assert program.end() == (0, "", "")


def test_the_frontend_has_gone(run: Callable[..., Program]) -> None:
    code = """
        guardian = Guardian(alone=True)
        guardian.start()
        guardian.watch_stdin()
        print("up")
        time.sleep(1000)
    """
    program = run(code)
    program.out.wait("up\n")
    program.close_stdin()
    assert program.end() == (0, "up\n", "")


def test_standard_input_that_is_no_pipe_says_nothing(run: Callable[..., Program]) -> None:
    code = """
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        guardian = Guardian(alone=True)
        guardian.start()
        guardian.watch_stdin()
        os.close(0)
        guardian.watch_stdin()
        time.sleep(0.2)
        print("still here")
    """
    assert run(code).end() == (0, "still here\n", "")


def test_descriptor_0_is_the_handlers_to_close_and_to_use(run: Callable[..., Program]) -> None:
    """It is not taken for the frontend's end, which is still seen."""
    code = """
        guardian = Guardian(alone=True)
        guardian.start()
        guardian.watch_stdin()
        os.close(0)
        guardian.limit(0.2)
        time.sleep(0.2)
        read, write = os.pipe()
        assert read == 0
        os.close(write)
        time.sleep(0.2)
        print("still here")
        time.sleep(1000)
    """
    program = run(code)
    program.out.wait("still here\n")
    program.close_stdin()
    assert program.end() == (0, "still here\n", "")


BUSY = """
    def the_handlers_function():
        {work}

    guardian = Guardian(alone=True)
    guardian.start()
    guardian.limit({limit})
    guardian.busy_since = time.monotonic()
    the_handlers_function()
    guardian.busy_since = 0.0
    print("done")
"""


def test_what_a_handler_hangs_in_is_told_before_the_frontend_gives_up(run: Callable[..., Program]) -> None:
    work = "while time.monotonic() - guardian.busy_since < 1.0: time.sleep(0.001)"
    code, out, err = run(BUSY.format(work=work, limit=1.0)).end()
    assert (code, out) == (0, "done\n")
    lines = err.splitlines()
    assert re.fullmatch(
        r"The handler has been running for \d\.\d s; the frontend gives up on it after 1 s \(responseTimeout\)\.",
        lines[0],
    )
    assert lines[1] == "The thread of the handler is here (most recent call last):"
    assert "in the_handlers_function" in err


def test_it_is_told_again_of_the_next_request(run: Callable[..., Program]) -> None:
    code = """
        guardian = Guardian(alone=True)
        guardian.start()
        guardian.limit(0.4)
        for _ in range(2):
            guardian.busy_since = time.monotonic()
            time.sleep(0.8)
            guardian.busy_since = 0.0
        print("done")
    """
    _, out, err = run(code).end()
    assert out == "done\n"
    assert err.count("The handler has been running") == 2


def test_code_that_holds_the_interpreter_is_told_of_as_well(run: Callable[..., Program]) -> None:
    """One call into C that does not let other threads run; faulthandler's thread is not one of Python's."""
    code = """
        import ctypes

        def the_handlers_function():
            ctypes.PyDLL(None).usleep(800_000)

        guardian = Guardian(alone=True)
        guardian.start()
        guardian.limit(1.0)
        guardian.busy_since = time.monotonic()
        time.sleep(0.6)
        the_handlers_function()
        guardian.busy_since = 0.0
        print("done")
    """
    _, out, err = run(code).end()
    assert out == "done\n"
    assert "in the_handlers_function" in err


def test_code_that_holds_the_interpreter_from_the_first_moment(run: Callable[..., Program]) -> None:
    code = """
        import ctypes

        def the_handlers_function():
            ctypes.PyDLL(None).usleep(900_000)

        guardian = Guardian(alone=True)
        guardian.start()
        guardian.limit(0.5)
        time.sleep(0.2)
        guardian.busy_since = time.monotonic()
        the_handlers_function()
        guardian.busy_since = 0.0
        print("done")
    """
    _, out, err = run(code).end()
    assert out == "done\n"
    assert "in the_handlers_function" in err


def test_a_shared_process_that_holds_the_interpreter_is_replaced(run: Callable[..., Program]) -> None:
    code = """
        import ctypes

        def the_handlers_function():
            ctypes.PyDLL(None).usleep(60_000_000)

        guardian = Guardian(alone=False)
        guardian.start()
        guardian.limit(0.5)
        time.sleep(0.2)
        guardian.busy_since = time.monotonic()
        the_handlers_function()
    """
    status, _, err = run(code).end()
    assert status == 1
    assert "in the_handlers_function" in err


def test_an_idle_process_is_left_in_peace(run: Callable[..., Program]) -> None:
    code = """
        guardian = Guardian(alone=False)
        guardian.start()
        guardian.limit(0.2)
        time.sleep(1)
        print("done")
    """
    assert run(code).end() == (0, "done\n", "")


def test_a_handler_in_time_is_not_told_of(run: Callable[..., Program]) -> None:
    code = """
        guardian = Guardian(alone=True)
        guardian.start()
        guardian.limit(30)
        for _ in range(20):
            guardian.busy_since = time.monotonic()
            time.sleep(0.01)
            guardian.busy_since = 0.0
        print("done")
    """
    assert run(code).end() == (0, "done\n", "")


def test_a_dump_that_was_prepared_is_called_off(run: Callable[..., Program]) -> None:
    code = """
        guardian = Guardian(alone=True)
        guardian.start()
        guardian.limit(4)
        guardian.busy_since = time.monotonic() - 2.1
        time.sleep(0.5)
        guardian.busy_since = 0.0
        time.sleep(1.7)
        print("done")
    """
    assert run(code).end() == (0, "done\n", "")


def test_standard_error_may_have_gone(run: Callable[..., Program]) -> None:
    code = BUSY.format(work="time.sleep(0.6)", limit=0.3).replace(
        "guardian.start()", "guardian.start(); sys.stderr.close()"
    )
    assert run(code).end()[:2] == (0, "done\n")


SHARED = """
    guardian = Guardian(alone=False)
    guardian.start()
    for number, lifeline in enumerate(lifelines):
        guardian.watch(lifeline, lambda number=number: print("ended", number))
"""


def test_a_shared_process_outlives_a_worker(run: Callable[..., Program]) -> None:
    program = run(
        SHARED + "    guardian.limit(60)\n    guardian.busy_since = time.monotonic()\n    sys.stdin.read()", 2
    )
    program.lifelines[1].close()
    program.out.wait("ended 1\n")
    program.close_stdin()
    assert program.end() == (0, "ended 1\n", "")


def test_it_does_not_go_on_with_what_nobody_waits_for(run: Callable[..., Program]) -> None:
    program = run(SHARED + "    guardian.busy_since = time.monotonic()\n    time.sleep(1000)", 2)
    for lifeline in program.lifelines:
        lifeline.close()
    code, out, err = program.end()
    assert (code, sorted(out.splitlines()), err) == (0, ["ended 0", "ended 1"], "")


def test_one_that_is_idle_ends_in_its_own_way(run: Callable[..., Program]) -> None:
    """Its main thread sees that the last worker has gone; it may just be taking on another one."""
    program = run(SHARED + "    time.sleep(2.5)\n    print('by itself')", 1)
    program.lifelines[0].close()
    assert program.end() == (0, "ended 0\nby itself\n", "")


def test_a_shared_process_that_hangs_is_replaced(run: Callable[..., Program]) -> None:
    """The frontend kills the thin process of the worker that hangs; the others would wait for ever."""
    program = run(
        SHARED + "    guardian.limit(0.5)\n    guardian.busy_since = time.monotonic()\n    time.sleep(1000)", 2
    )
    code, out, err = program.end()
    assert (code, out) == (1, "")
    assert "The handler has been running for" in err
    assert err.endswith("The process of this model is replaced: its handler hangs.\n")


def test_also_where_nothing_can_be_told_any_more(run: Callable[..., Program]) -> None:
    code = """
    guardian.limit(0.2)
    sys.stderr.close()
    guardian.busy_since = time.monotonic()
    time.sleep(1000)
    """
    assert run(SHARED + code, 1).end()[:2] == (1, "")


def test_a_second_thread_in_the_handler(run: Callable[..., Program]) -> None:
    """The one that has been there for longer is reported."""
    code = """
        import threading

        def second():
            clock = guardian.add_clock()
            clock.since = time.monotonic()
            the_second_thread()
            clock.since = 0.0

        def the_second_thread():
            time.sleep(1.2)

        guardian = Guardian(alone=True)
        guardian.start()
        guardian.limit(1.0)
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        guardian.busy_since = time.monotonic()
        thread.join()
        print("done")
    """
    _, out, err = run(code).end()
    assert out == "done\n"
    assert "in the_second_thread" in err.split("The thread of the handler is here")[1]


def test_each_part_of_an_answer_begins_the_time_anew(run: Callable[..., Program]) -> None:
    code = """
        guardian = Guardian(alone=False)
        guardian.start()
        guardian.limit(2)
        guardian.touch()
        assert guardian.busy_since == 0.0
        guardian.busy_since = time.monotonic()
        for _ in range(25):
            time.sleep(0.1)
            guardian.touch()
        print("done")
    """
    assert run(code).end() == (0, "done\n", "")


def test_released_lifelines(run: Callable[..., Program]) -> None:
    """The thin process sees the end, and nothing is called."""
    code = """
        guardian.release(lifelines[0])
        guardian.release(lifelines[1])
        print("released")
        sys.stdin.read()
    """
    program = run(SHARED + textwrap.indent(textwrap.dedent(code), "    "), 3)
    program.out.wait("released\n")
    assert program.lifelines[0].recv(1) == b""
    assert program.lifelines[1].recv(1) == b""
    program.lifelines[2].close()
    program.out.wait("ended 2\n")
    program.close_stdin()
    assert program.end() == (0, "released\nended 2\n", "")


def test_workers_come_and_go(run: Callable[..., Program]) -> None:
    """Many, with the same file descriptors again and again, in the thread that serves them."""
    code = """
        guardian = Guardian(alone=False)
        guardian.start()
        wrong = []
        for number in range(500):
            ours, theirs = socket.socketpair()
            kept, other = socket.socketpair()
            guardian.watch(theirs, lambda: None)
            guardian.watch(other, lambda: wrong.append(number))
            ours.close()
            guardian.release(theirs)
            guardian.release(other)
            kept.close()
        time.sleep(0.1)
        print("done", wrong)
    """
    assert run(code).end() == (0, "done []\n", "")
