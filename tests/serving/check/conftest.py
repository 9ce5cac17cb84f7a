"""Archives to check: small handlers, without torch, whose import takes seconds."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archive_tool import build
from archive_tool.building.samples import GivenSample
from serving.check import CheckOptions, Input, Result
from serving.check import check as run

ECHO = """
    import sys

    class Handler:
        def initialize(self, context):
            print("initialized with", context.system_properties["batch_size"], context.system_properties["gpu_id"])

        def handle(self, data, context):
            print("asked", file=sys.stderr)
            return [{"got": row["body"], "header": context.get_request_header(0, "content-type")} for row in data]
"""

#: For continuous batching: a request is answered in three parts, each saying whether it came with the request.
THREE_PARTS = """
    count = 0

    def handle(data, context):
        global count
        if data is None:
            return
        count += 1
        context.stopping_criteria = [lambda value: count == 3]
        return [str(bool(data[0]))]
"""


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Build an archive from the source of a handler."""

    def made(
        source: str = ECHO,
        *,
        samples: list[GivenSample] | None = None,
        config: str = "",
        handler: str = "handler.py",
        **files: str,
    ) -> Path:
        folder = tmp_path / "inputs"
        folder.mkdir(exist_ok=True)
        (folder / "handler.py").write_text(textwrap.dedent(source))
        (folder / "torch.py").write_text("raise ImportError('not here')")
        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        (folder / "c.yaml").write_text(config)
        return build(
            model_name="m",
            handler=str(folder / handler),
            extra_files=[folder / "torch.py", *(folder / f"{name}.py" for name in files)],
            config_file=folder / "c.yaml" if config else None,
            export_path=tmp_path,
            sample=samples or (),
            force=True,
        ).path

    return made


@pytest.fixture
def check(make: Callable[..., Path]) -> Callable[..., Result]:
    """Build an archive and check it."""

    def checked(source: str = ECHO, *inputs: Input, options: dict[str, Any] | None = None, **more: Any) -> Result:
        given = {"repeat": 0, "inputs": inputs or None, **(options or {})}
        result = run(CheckOptions(make(source, **more), **given))
        json.dumps(result.to_dict(), allow_nan=False)
        return result

    return checked


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Check that no temporary folder of a check outlives it."""
    import tempfile

    scratch = tmp_path / "t"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    yield
    assert list(scratch.iterdir()) == []
