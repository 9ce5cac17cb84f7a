"""Functions, called as TorchServe's rules for the names of handlers have it."""

from pathlib import Path


def _told(name, data, context):
    if data is None:
        context.loaded_by = name
        return None
    own = Path(__file__).resolve().parent == Path(context.system_properties["model_dir"]).resolve()
    return [{"function": name, "loaded": context.loaded_by, "own": own} for _ in data]


def handle(data, context):
    return _told("handle", data, context)


def special(data, context):
    return _told("special", data, context)
