"""The stand-in for `torchmar` in a shell: has the process of `preloaded` run the command, and ends as that does.

`python -IS typed.py FILE_DESCRIPTOR ARGUMENT...`: without the packages of the environment this takes milliseconds.
"""

from __future__ import annotations

import os
import socket
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # noqa: PTH100, PTH120

from serving.worker.process import rendezvous


def main(control: int, arguments: list[str]) -> int:
    """Return the exit code of the command."""
    status, to_status = os.pipe()
    message = {"arguments": arguments, "cwd": os.getcwd(), "env": dict(os.environ)}  # noqa: PTH109
    with socket.socket(fileno=control) as connection:
        rendezvous.send(connection, message, (1, 2, to_status))
    os.close(to_status)
    return int(os.read(status, 16))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
