"""Locust's users of a model on a torchmar server, or TorchServe's.

::

    TORCHMAR_MODEL=mnist TORCHMAR_FILES='examples/mnist/samples/*.png' \\
        locust -f examples/locust/locustfile.py --host http://127.0.0.1:8080 --users 8 --spawn-rate 8
"""

from __future__ import annotations

import glob
import itertools
import mimetypes
import os
from pathlib import Path

from locust import FastHttpUser, constant, task

MODEL = os.environ.get("TORCHMAR_MODEL", "mnist")
FILES = sorted(glob.glob(os.environ.get("TORCHMAR_FILES", "examples/mnist/samples/*.png")))  # noqa: PTH207
# The inference key, where the server asks for one: torchmar keys --json
TOKEN = os.environ.get("TORCHMAR_TOKEN")
if not FILES:
    raise SystemExit("no file to send: name some in TORCHMAR_FILES, as a pattern")
INPUTS = itertools.cycle(
    [(Path(name).read_bytes(), mimetypes.guess_type(name)[0] or "application/octet-stream") for name in FILES]
)


class Client(FastHttpUser):
    """A user who sends the next file when the answer to the last one is there, after a pause."""

    # Locust counts from the moment at which it sends: what waits behind a slow answer is not seen, unless there are
    # more users than the server can keep busy.
    wait_time = constant(float(os.environ.get("TORCHMAR_PAUSE_S", "0")))

    @task
    def predict(self) -> None:
        """Ask for one prediction."""
        body, content_type = next(INPUTS)
        headers = {"content-type": content_type} | ({"authorization": f"Bearer {TOKEN}"} if TOKEN else {})
        self.client.post(f"/predictions/{MODEL}", data=body, headers=headers, name=MODEL)
