"""The program `torchmar`, also as `python -m archive_tool`.

The import of the command line takes a tenth of a second. During it an interrupt ends the process as it ends any program
in C. After it the command line handles interrupts itself.
"""

import signal
import sys


def main() -> int:
    """Run the command line and return its exit code."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # not where the signal is ignored, as in a shell's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from archive_tool.cli.entry import main as run

    try:
        signal.signal(signal.SIGINT, interrupt)
        return run()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        if interrupt is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # the end takes a moment, too


if __name__ == "__main__":
    sys.exit(main())
