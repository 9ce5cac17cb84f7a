"""The result of publishing: where the archive is, how good the model is, and how to call it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from archive_tool.metadata.record import TensorSpec

#: A longer request is read from the archive: no one copies it.
_INLINE_BYTES = 1000


@dataclass(frozen=True, repr=False)
class Published:
    """A model that was published.

    Attributes:
        name, version: of the model.
        path: the archive, in the model store.
        size: its bytes.
        format: "eager", "torchscript", "export", "aotinductor", "onnx" or "pretrained".
        inputs, outputs: names, element types and shapes; None in a shape is any size.
        metrics: results on the test set, such as {"accuracy": 0.98}; empty without one.
        largest_difference: between the archive's answers and the live model's, relative above 1 and absolute below; of
            a pretrained model, what it is at most.
        warnings: probable mistakes; each a sentence.
        seconds: how long it took.
        request: the stored sample, as JSON.
        sample: the archive's member that holds it.
        address: of the server for `curl` and `snippet`; by default the one that `start` starts.
    """

    name: str
    version: str
    path: Path
    size: int
    format: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    metrics: Mapping[str, float]
    largest_difference: float
    warnings: tuple[str, ...]
    seconds: float
    request: str
    sample: str
    address: str

    @property
    def url(self) -> str:
        """The URL of this version, once a server has it."""
        return f"{self.address.rstrip('/')}/predictions/{self.name}/{self.version}"

    @property
    def start(self) -> str:
        """A shell line that starts a server with the model, under the model's name, whatever the file's name is."""
        return f"torchmar start {shlex.quote(self.path.name)} --model-store {shlex.quote(str(self.path.parent))}"

    @property
    def curl(self) -> str:
        """A shell line that sends the stored sample."""
        send = f"curl {shlex.quote(self.url)} -H 'Content-Type: application/json'"
        if len(self.request) <= _INLINE_BYTES:
            return f"{send} -d {shlex.quote(self.request)}"
        read = f"import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read({self.sample!r}))"
        return f"python3 -c {shlex.quote(read)} {shlex.quote(str(self.path))} | {send} --data-binary @-"

    @property
    def snippet(self) -> str:
        """A Python program that sends the stored sample and prints the reply; it needs only the standard library."""
        if len(self.request) <= _INLINE_BYTES:
            imports, body = "import json\nimport urllib.request", f"{self.request!r}.encode()"
        else:
            imports = "import json\nimport urllib.request\nimport zipfile"
            body = f"zipfile.ZipFile({str(self.path)!r}).read({self.sample!r})"
        return (
            f"{imports}\n\n"
            f"body = {body}\n"
            f'headers = {{"Content-Type": "application/json"}}\n'
            f"request = urllib.request.Request({self.url!r}, body, headers)\n"
            f"print(json.load(urllib.request.urlopen(request)))\n"
        )

    def __repr__(self) -> str:
        # For notebooks: the request alone may be megabytes.
        return f"<Published {self}>"

    def __str__(self) -> str:
        metrics = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        return f"{self.name} {self.version} ({self.format}{metrics}): {self.path}"
