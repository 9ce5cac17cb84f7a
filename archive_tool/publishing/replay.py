"""A script that loads an unpacked archive in a process of its own and answers requests with it, as a worker does.

A script, because it must import nothing of torchmar: the archive has to bring all that it needs.

    python replay.py FOLDER TASK REPORT

TASK is JSON: {"handler": module, "manifest": {...}, "config": {...}, "gpu": null, "requests": [...]}. REPORT becomes
{"replies": [[status, reply], ...]}, or {"error": {"type", "message", "traceback"}}.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
import traceback
from typing import Any


class _Request:
    """The context's view of a request, which has no headers here, and whose reply is JSON."""

    def get_request_properties(self) -> dict[str, str]:
        """Return the headers."""
        return {}

    def add_response_property(self, key: str, value: str) -> None:
        """Do nothing."""

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Do nothing: a failure has its status from the context."""


class _Context:
    """The worker's context, as far as handlers of the SDK use it."""

    def __init__(self, folder: str, task: dict[str, Any]) -> None:
        self.manifest = task["manifest"]
        self.model_yaml_config = task["config"]
        self.system_properties = {"model_dir": folder, "gpu_id": task["gpu"], "batch_size": 1, "server_name": "MMS"}
        self.metrics = None
        self.request_ids = {0: "0"}
        self.request_processor = [_Request()]
        self.status = 200

    def get_request_header(self, idx: int, key: str) -> None:  # noqa: ARG002
        """Return None: requests have no headers here."""
        return

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:  # noqa: ARG002
        """Keep the status for the report."""
        self.status = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Do nothing: all is JSON."""


def handler_class(name: str) -> Any:
    """Import a module of the archive, and return the one class that it defines, as TorchServe does."""
    module = importlib.import_module(name)
    classes: list[Any] = [value for _, value in inspect.getmembers(module, inspect.isclass)]
    (found,) = (one for one in classes if one.__module__ == module.__name__)
    return found


def _answer(folder: str, task: dict[str, Any]) -> list[Any]:
    context = _Context(folder, task)
    handler = handler_class(task["handler"])()
    handler.initialize(context)
    replies = []
    for request in task["requests"]:
        context.status = 200
        (reply,) = handler.handle([{"body": request}], context)
        replies.append([context.status, reply])
    return replies


def main(folder: str, task_file: str, report_file: str) -> None:
    """Do the task and write the report."""
    sys.path[0] = folder  # in place of this script's folder, whose modules have common names
    with open(task_file, encoding="utf-8") as stream:  # noqa: PTH123 - pathlib would do, and takes longer to import
        task = json.load(stream)
    try:
        report: dict[str, Any] = {"replies": _answer(folder, task)}
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        report = {"error": {"type": type(error).__name__, "message": str(error), "traceback": text}}
    with open(report_file, "w", encoding="utf-8") as stream:  # noqa: PTH123
        json.dump(report, stream)


if __name__ == "__main__":
    main(*sys.argv[1:])
