"""From the frontend's LOAD to a handler that can be called."""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.protocol import Load, Request
from serving.worker.loading import compilations, metrics_log, package_paths, settings
from serving.worker.loading.failures import HandlerError, summary
from serving.worker.loading.settings import Backend
from serving.worker.process import cores, garbage
from serving.worker.process.leftovers import OwnProcess

logger = logging.getLogger(__name__)

_MANIFEST = "MAR-INF/MANIFEST.json"

Entry = Callable[[Any, Any], Any]
View = Callable[[Request, dict[str, Any]], Any]

# TorchServe's envelope answers one request of a batch with this.
_ENVELOPES_OF_ONE = frozenset({"kserve", "kservev2"})


def _context_module() -> ModuleType:
    """Return the module of contexts.

    Raises:
        HandlerError: TorchServe's package, on which it stands, is not there.
    """
    try:
        import ts  # noqa: F401

        from serving.worker.loading import context
    except ImportError as error:
        raise HandlerError(
            f"TorchServe's package ts cannot be imported by {sys.executable}: {error}",
            hint="pip install torchserve==0.12.0 pyyaml, for this interpreter",
        ) from error
    return context


def _view() -> View:
    view: View = _context_module().processor_of
    return view


@dataclass
class Model:
    """A loaded model.

    Attributes:
        entry: takes the rows of a batch and the context; gives as many items.
        context: TorchServe's own, one for the life of the process.
        handler: the object whose method `entry` is; None for a function.
        backend: settings of the worker.
        one_by_one: whether the entry takes but one request at a time.
        since: when loading it began, on the monotonic clock.
        compiled_before: what torch.compile had compiled in this process by then.
        view: makes TorchServe's view of a request, of it and of the headers that the handler sees.
    """

    name: str
    entry: Entry
    context: Any
    handler: Any
    backend: Backend
    one_by_one: bool = False
    since: float = field(default_factory=time.monotonic)
    compiled_before: int = field(default_factory=compilations.count)
    view: View = field(default_factory=_view)


@garbage.seldom()
def load(
    request: Load, metrics_config: str, *, processes: int = 1, settle: Callable[[Any, bool], None] = lambda *_: None
) -> Model:
    """Load a model and initialize its handler.

    Args:
        request: of the frontend.
        metrics_config: path of metrics.yaml.
        processes: that will run this model side by side, for their shares of the cores.
        settle: gets what the handler's initialization gave (a coroutine, if it is one), and whether the handler is a
            function, which is called without data for it.

    Raises:
        WorkerError: the archive is at fault.
        BaseException: whatever the handler's module, class or initialization raises.
    """
    since, compiled_before = time.monotonic(), compilations.count()
    folder = Path(request.model_path)
    manifest = settings.read_manifest(folder)
    config, backend = settings.read_config(folder, manifest)
    contexts = _context_module()
    package_paths.make_way(folder)  # from here on the archive's own `serving` is found, if it has one
    _set_threads(backend, config, processes)
    if request.handler is None:
        raise HandlerError("the manifest names no handler", where=_MANIFEST, hint="build it with --handler")
    with OwnProcess():
        module, function = find_handler(request.handler, folder)
        handler, entry, initialize = entry_point(module, function, request.handler)
        envelope = request.envelope
        if envelope in getattr(handler, "own_envelopes", ()):  # it reads and writes that form itself, and loses nothing
            envelope = None
        if envelope:
            entry = _envelope(envelope)(entry).handle
        context = _context(contexts.Context, request, manifest, config, backend, metrics_config)
        settle(initialize(context), handler is None)
    return Model(
        request.model_name,
        entry,
        context,
        handler,
        backend,
        one_by_one=envelope in _ENVELOPES_OF_ONE,
        since=since,
        compiled_before=compiled_before,
        view=contexts.processor_of,
    )


def _set_threads(backend: Backend, config: dict[str, Any], processes: int) -> None:
    try:
        import torch
    except ImportError:
        return  # a handler may do without
    least = config.get("minWorkers")
    if not backend.shared and isinstance(least, int):
        processes = max(processes, least)
    if backend.shared:
        processes = backend.processes
    count = cores.threads(backend.threads, processes)
    if torch.get_num_threads() != count:
        torch.set_num_threads(count)


def find_handler(reference: str, folder: Path) -> tuple[ModuleType, str | None]:
    """Find the module that a manifest's handler names, and the function if it names one.

    ``name``, ``name.py``, ``dir/name.py``, each also with ``:function``. If it is no module of the archive, or of the
    interpreter, it is a built-in handler.

    Raises:
        HandlerError: there is no such module.
        BaseException: what importing it raises; also an ImportError in it is its own.
    """
    path, _, function = reference.partition(":")
    name = path.removesuffix(".py").rpartition("/")[2]
    if not name or name.startswith("."):
        raise HandlerError(f"{reference!r} is no name of a handler", where=_MANIFEST)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name), function or None
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise
    if found := _built_in(name):
        return found, function or None
    files = sorted(entry.name for entry in folder.glob("*.py"))
    raise HandlerError(
        f"there is no handler {reference!r}: the archive has "
        + (f"the modules {', '.join(files)}" if files else "no module")
        + ", and no built-in handler has that name",
        where=_MANIFEST,
        hint="build it again with --handler FILE.py, or the name of a built-in handler such as image_classifier",
    )


def _built_in(name: str) -> ModuleType | None:
    """Return a module with a built-in handler: ours, or TorchServe's where we have none of that name."""
    with package_paths.ours("handlers"):
        from handlers.builtin import TWINS
    if kind := TWINS.get(name):
        package_paths.provide("handlers")
        # A module with that one class, as the rules of entry points want it. It is taken from the SDK's face: an
        # archive's own copy of the SDK may be of a time when its modules had other names.
        module = ModuleType(name)
        cls = getattr(importlib.import_module("handlers"), kind)
        setattr(module, kind, type(kind, (cls,), {"__module__": name, "__doc__": cls.__doc__}))
        return module
    full = f"ts.torch_handler.{name}"
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name is None or not (full == error.name or full.startswith(error.name + ".")):
            raise
        return None


def entry_point(module: ModuleType, function: str | None, reference: str) -> tuple[Any, Entry, Callable[[Any], Any]]:
    """Return the handler object (None for a function), what answers requests, and what initializes.

    That is the named function, or one called ``handle``; else the one class that is defined in the module.

    Raises:
        HandlerError: there is neither, or several classes.
    """
    name = function or "handle"
    if hasattr(module, name):
        entry: Entry = getattr(module, name)
        return None, entry, lambda context: entry(None, context)
    file = Path(getattr(module, "__file__", None) or reference).name
    classes = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    if len(classes) != 1:
        found = f"it has {', '.join(sorted(one.__name__ for one in classes))}" if classes else "it has none"
        raise HandlerError(
            f"Expected only one class in the handler, or a function {name}; {found}",
            where=file,
            hint=f"name the function: --handler {file}:FUNCTION, or leave one class in {file}",
        )
    handler: Any = classes[0]()
    for method in ("handle", "initialize"):
        if not hasattr(handler, method):
            raise HandlerError(f"Expect {method} method in class {classes[0].__name__}", where=file)
    return handler, handler.handle, handler.initialize


def _envelope(name: str) -> Any:
    """Return the class of an envelope of TorchServe.

    Raises:
        HandlerError: there is none of that name.
    """
    full = f"ts.torch_handler.request_envelope.{name}"
    try:
        module = importlib.import_module(full)
    except ModuleNotFoundError as error:
        if error.name != full:
            raise
        raise HandlerError(
            f"there is no envelope {name!r}",
            where="service_envelope in config.properties",
            hint="body, json, kserve and kservev2 are there",
        ) from error
    classes = [value for _, value in inspect.getmembers(module, inspect.isclass) if value.__module__ == module.__name__]
    return classes[0]


def _context(
    make: Callable[..., Any],
    request: Load,
    manifest: dict[str, Any] | None,
    config: dict[str, Any],
    backend: Backend,
    metrics_config: str,
) -> Any:
    import ts

    cache = _metrics(metrics_config)
    cache.model_name = request.model_name
    cache.set_request_ids(str(uuid.uuid4()))  # there is no request yet
    return make(
        request.model_name,
        request.model_path,
        manifest,
        backend.max_batch_size if backend.shared else request.batch_size,
        request.gpu_id,
        ts.__version__,
        request.limit_max_image_pixels,
        cache,
        config,
    )


def _metrics(path: str) -> Any:
    """Return TorchServe's metrics cache; with our own list if the server's cannot be read, as Java goes on."""
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    metrics_log.install()
    own = Path(__file__).parents[1] / "home" / "ts" / "configs" / "metrics.yaml"
    try:
        cache = MetricsCacheYamlImpl(config_file_path=path or str(own))
        cache.initialize_cache()
    except Exception as error:
        if os.path.realpath(path) == os.path.realpath(own):
            raise
        logger.warning("The metrics of %s cannot be used, the default ones are: %s", path, summary(error))
        cache = MetricsCacheYamlImpl(config_file_path=str(own))
        cache.initialize_cache()
    return cache
