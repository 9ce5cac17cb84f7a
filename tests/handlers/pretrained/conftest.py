"""Archives of tiny models as folders, and their handlers."""

from __future__ import annotations

import json
import logging
import warnings
from types import SimpleNamespace

import pytest

import archive_tool
import handlers
from handlers.builtin import SDK_HANDLERS
from handlers.testing import FakeContext

from .models import transformers


class Served:
    """An archive as a folder, and the handler in it."""

    def __init__(self, folder, manifest, config=None):
        self.folder = folder
        self.context = FakeContext(folder, manifest=manifest, config=config, batch_size=8)
        self.handler = getattr(handlers, SDK_HANDLERS[manifest["model"]["handler"]])()
        self.handler.initialize(self.context)

    def ask(self, *requests):
        """Answer a batch; return the replies as JSON has them, and the statuses."""
        rows = self.context.show(requests)
        replies = self.handler.handle(rows, self.context)
        statuses = [self.context.get_response_status(index)[0] for index in range(len(requests))]
        return SimpleNamespace(replies=json.loads(json.dumps(replies)), statuses=statuses)

    def one(self, request):
        """Answer one request."""
        answered = self.ask(request)
        assert answered.statuses == [200], answered.replies
        return answered.replies[0]


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Build an archive from a saved folder, and load its handler; `config` is model-config.yaml's."""

    def run(saved, config=None, **options):
        built = archive_tool.build(
            model_name="m",
            pretrained=saved,
            export_path=tmp_path_factory.mktemp("store"),
            archive_format="no-archive",
            vendor_sdk=False,
            **options,
        )
        manifest = json.loads((built.path / "MAR-INF" / "MANIFEST.json").read_text())
        return Served(built.path, manifest, config)

    return run


@pytest.fixture(scope="module")
def pipe():
    """Make a pipeline of transformers from a saved folder; None if this version has none for the task."""

    made = {}

    def run(task, folder, **options):
        from transformers.pipelines import PIPELINE_REGISTRY

        if task not in PIPELINE_REGISTRY.supported_tasks:
            return None
        key = (task, str(folder), str(options))
        if key not in made:
            made[key] = transformers.pipeline(task, model=str(folder), device="cpu", **options)
        return made[key]

    return run


@pytest.fixture(autouse=True)
def _calm():
    """Let the library deprecate what it likes: its own calls do that, too."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"transformers\..*")
        yield


def near(expected, tolerance=1e-4):
    """Return what compares equal to an answer whose numbers are about these."""
    if isinstance(expected, dict):
        return {key: near(value, tolerance) for key, value in expected.items()}
    if isinstance(expected, list | tuple):
        return [near(value, tolerance) for value in expected]
    if hasattr(expected, "item"):
        expected = expected.item()
    return pytest.approx(expected, rel=tolerance, abs=tolerance) if isinstance(expected, float) else expected
