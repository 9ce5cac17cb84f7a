"""A script that merges an adapter into a model, in a process of its own: it imports transformers and peft.

    python merge_script.py FOLDER TASK REPORT

TASK is JSON: {"base": folder, "adapter": folder, "out": folder, "class": of transformers, "trust": false}. REPORT
becomes {}, or {"error": text}. The merged weights are in the folder "out".
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def _merge(task: dict[str, Any]) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import peft
    import transformers

    model = getattr(transformers, task["class"]).from_pretrained(
        task["base"], dtype="auto", local_files_only=True, trust_remote_code=task["trust"], weights_only=True
    )
    wrapped = peft.PeftModel.from_pretrained(model, task["adapter"], local_files_only=True)
    wrapped.merge_and_unload(safe_merge=True).save_pretrained(task["out"])


def main(task_file: str, report_file: str) -> None:
    """Do the task and write the report."""
    with open(task_file, encoding="utf-8") as stream:  # noqa: PTH123 - as archive_tool.publishing.replay
        task = json.load(stream)
    report = {}
    try:
        _merge(task)
    except Exception as error:
        report = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:1000]}"}
    with open(report_file, "w", encoding="utf-8") as stream:  # noqa: PTH123
        json.dump(report, stream)


if __name__ == "__main__":
    main(*sys.argv[2:])
