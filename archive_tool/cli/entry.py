"""The command line ``torchmar``; the only place that turns an error into text and an exit code.

Commands are listed in a table and loaded when one is run, so that ``torchmar --help`` takes only milliseconds.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import click

from archive_tool.cli.output import discard_output, show_error
from archive_tool.errors import TorchmarError
from archive_tool.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import FrameType

    from _typeshed import ReadableBuffer

# A shell's exit code for a program that a signal ended; Windows has no signal.SIGPIPE, so the number stands here.
_SIGNALLED: Final = 128
_SIGPIPE: Final = 13


class Entry(NamedTuple):
    """A command: where it is, and the first line of its help."""

    target: str
    help: str


#: Section, then command: its module, and the first line of its help (a test compares the two).
COMMANDS: Final[dict[str, dict[str, Entry]]] = {
    "Archives": {
        "build": Entry("archive_tool.cli.build:build", "Build an archive that TorchServe can serve."),
        "init": Entry("archive_tool.cli.init:init", "Write a project file for the model in a folder."),
        "inspect": Entry("archive_tool.cli.inspect:inspect", "Show what an archive holds."),
        "convert": Entry("archive_tool.cli.convert:convert", "Turn an older archive into one for TorchServe."),
        "extract": Entry("archive_tool.cli.extract:extract", "Unpack an archive into a new folder."),
        "check": Entry("serving.cli.check:check", "Load an archive as a worker would, and try it."),
        "run": Entry("serving.cli.run:run", "Predict in this process, without a server."),
        "batch": Entry("serving.cli.batch:batch", "Predict every row of files, as a job that can be interrupted."),
        "optimize": Entry("serving.cli.optimize:optimize", "Find the settings that make a model fast on this machine."),
        "dev": Entry("serving.cli.dev:dev", "Serve a model while you write it."),
        "verify": Entry("archive_tool.cli.verify:verify", "Find everything that is wrong with archives."),
        "sign": Entry("archive_tool.cli.sign:sign", "Sign an archive."),
        "diff": Entry("archive_tool.cli.diff:diff", "Show in what two archives differ."),
    },
    "Server": {
        "start": Entry("serving.cli.servers:start", "Start a server and wait until its models are ready."),
        "stop": Entry("serving.cli.servers:stop", "Stop the server that start began."),
        "status": Entry("serving.cli.servers:status", "Show whether the server runs, where, and how it is."),
        "keys": Entry("serving.cli.keys:keys", "Show the keys that the server asks for."),
        "logs": Entry("serving.cli.logs:logs", "Show what a server and its models have logged."),
        "console": Entry("serving.cli.dev:console", "Show a server in a browser."),
        "env": Entry("serving.cli.servers:env", "Print the shell lines that the stock torchserve command needs."),
        "home": Entry("serving.cli.servers:home", "Print the folder that holds torchmar's worker."),
    },
    "Beyond one machine": {
        "image": Entry("serving.cli.image:image", "Write an image of archives for docker, podman or buildah."),
        "serve": Entry("serving.cli.serve:serve", "Serve what a container holds: the entry point of images."),
        "deploy": Entry("serving.cli.deploy.group:deploy", "Serve archives on a cluster."),
    },
    "Models": {
        "models": Entry("serving.cli.models:models", "List the models, versions and workers of the server."),
        "register": Entry("serving.cli.models:register", "Register an archive with the running server."),
        "scale": Entry("serving.cli.models:scale", "Set a model's number of workers."),
        "set-default": Entry("serving.cli.models:set_default", "Make a version of a model the default one."),
        "traffic": Entry("serving.cli.models:traffic", "Give a version a share of the requests that name none."),
        "unregister": Entry("serving.cli.models:unregister", "Remove a model, or one version of it."),
        "predict": Entry("serving.cli.predict:predict", "Send files to a model and show the answers."),
        "bench": Entry("serving.cli.bench.command:bench", "Load a model's server, and measure its answers."),
    },
}

#: Functions of the packages above this one, which commands need and this package may not import.
HOOKS: Final[dict[str, str]] = {"check-built": "serving.cli.check:check_built"}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run, not when they are listed.

    Args:
        sections: of its help, and the commands of each.
    """

    def __init__(self, *args: Any, sections: Mapping[str, Mapping[str, Entry]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all commands."""
        return [name for section in self._sections.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None where there is none of that name."""
        for section in self._sections.values():
            if cmd_name in section:
                return _load(cmd_name, section[cmd_name].target)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or propose one that is spelt alike."""
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(args[0], known)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {' or '.join(near)}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the help by sections."""
        # click's own would load each command for its short help.
        for title, section in self._sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in section.items()])


def _load(name: str, target: str) -> click.Command:
    command = _resolve(f"the command {name}", target)
    assert isinstance(command, click.Command)  # noqa: S101 - a table entry that is no command is our own mistake
    return command


def load_hook(name: str) -> Callable[..., Any]:
    """Import a function of `HOOKS`.

    Raises:
        TorchmarError: it cannot be imported.
    """
    hook: Callable[..., Any] = _resolve(name, HOOKS[name])
    return hook


def _resolve(what: str, target: str) -> Any:
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise TorchmarError(
            f"{what} cannot be loaded: {error}",
            where=target,
            hint="install torchmar anew; a package that it needs is missing or too old",
        ) from error


@click.group(cls=LazyGroup, sections=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="torchmar")
def cli() -> None:
    """Build model archives and serve them with TorchServe.

    Every command explains itself: torchmar COMMAND --help

    \b
    Examples:
      torchmar build --model-name mnist --handler mnist_handler.py \\
          --model-file mnist_model.py --serialized-file mnist_sd.pt --export-path model_store
      torchmar start --model-store model_store --models mnist.mar
    """


class _TerminatedError(BaseException):
    """SIGTERM or SIGHUP; not an Exception, so that only cleanups handle it on the way up."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


# A service manager's stop, and the end of the command's terminal.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def _on_ending(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001
    signal.signal(signum, signal.SIG_IGN)  # once is enough; a second one must not stop the cleanup
    raise _TerminatedError(signum)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code (see `archive_tool.errors`; 2 is wrong usage).

    An interrupt gives 130, SIGTERM 143 and SIGHUP 129, after all unfinished results are removed.
    """
    # An ignored signal stays ignored: nohup relies on it.
    previous = {one: signal.getsignal(one) for one in _ENDING if signal.getsignal(one) is not signal.SIG_IGN}
    try:
        for one in previous:
            signal.signal(one, _on_ending)
        with _usable_streams():
            return _run(list(arguments) if arguments is not None else sys.argv[1:])
    except _TerminatedError as ended:
        return _SIGNALLED + ended.signum
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler or signal.SIG_DFL)


def _run(arguments: list[str]) -> int:
    try:
        result: Any = cli.main(arguments, prog_name="torchmar", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _SIGNALLED + signal.SIGINT
    except TorchmarError as error:
        show_error(error)
        return error.exit_code
    except BrokenPipeError:
        discard_output()  # the reader (head, less) has closed the pipe
        return _SIGNALLED + _SIGPIPE
    except OSError as error:
        # A full disk, or a read-only folder: the system's message says more than a traceback.
        show_error(TorchmarError(f"{error.strerror or error}", where=error.filename and str(error.filename)))
        return TorchmarError.exit_code
    return result if isinstance(result, int) else 0


@contextmanager
def _usable_streams() -> Iterator[None]:
    """Keep a closed standard stream, or a full disk behind standard error, from failing a command.

    A closed stream (`2>&-`) is opened on the null device. Otherwise the next file that is opened takes its number, and
    messages end up there.
    """
    kept = sys.stdin, sys.stdout, sys.stderr
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - for as long as the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    if sys.stderr is sys.__stderr__:  # not a test's
        encoding = sys.stderr.encoding if sys.stderr else None
        sys.stderr = io.TextIOWrapper(_Told(2, "w", closefd=False), encoding, "backslashreplace", write_through=True)
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = kept


class _Told(io.FileIO):
    """The messages of a command besides its result: if nobody can read them, that is no reason to fail."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
